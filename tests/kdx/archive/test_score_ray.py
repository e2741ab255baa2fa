"""Scoring an archive on a Ray cluster of this machine, of several processes: the same scores, past
killed actors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kdx.archive.plan import write_listing
from kdx.archive.ray_cluster import require_reachable
from kdx.archive.ray_engine import RayEngine, ShardActor
from kdx.archive.score_records import Listing, ScoreWork, ShardResult
from kdx.errors import BackendError, BundleError
from kdx.folders.image_search import walk
from kdx.storage.files import sha256_file
from tests.kdx.archive.faults import add_image, arm, write_hook
from tests.kdx.archive.in_thread import ThreadChild

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")
pytest.importorskip("ray.data", reason="Ray Data is not installed: pip install -e '.[ray]'")

OPTIONS = (
    *("--backend", "onnxruntime-cpu", "--precision", "fp32", "--shard-size", "4"),
    *("--engine", "ray", "--workers", "2"),
)


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cluster of two cores in which certain files kill the process that opens them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(write_hook(tmp_path_factory.mktemp("hook"))))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield
        ray.shutdown()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Sixteen real images in two folders: four shards."""
    for index in range(16):
        add_image(tmp_path / f"archive/{'ab'[index % 2]}/{index:02d}.png", index)
    return tmp_path / "archive"


def rows_of(out: Path) -> list[dict[str, Any]]:
    from pyarrow import parquet

    files = sorted((out / "shards").glob("*.parquet"))
    return [row for file in files for row in parquet.read_table(file).to_pylist()]


@pytest.mark.slow
def test_a_cluster_reaches_the_same_scores_despite_killed_actors_and_images_that_kill(
    cli, tiny_bundle, archive, tmp_path, monkeypatch
):
    damaged = archive / "a/00.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    out, once = tmp_path / "s", add_image(archive / "b/kills-once.png")
    options = ("score", tiny_bundle, archive, "-o", out, *OPTIONS)
    with monkeypatch.context() as patch:
        patch.setattr("kdx.archive.local.Child", ThreadChild)
        cli(*options, "--engine", "local")
    local = rows_of(out)
    for number in range(1, 5):
        (out / f"shards/{number:06d}.parquet").unlink()
    kept = (out / "shards/000000.parquet").stat().st_mtime_ns

    armed = arm(once)
    result = cli(*options, "--json")
    run = result.json["this_run"]
    assert not armed.exists()
    assert (run["engine"], run["workers"], run["shards"], run["deaths"]) == ("ray", 2, 4, 1)
    assert [row["path"] for row in rows_of(out)] == list(walk(archive))
    assert [(row["score"], row["error"], row["sha256"]) for row in rows_of(out)] == [
        (row["score"], row["error"], row["sha256"]) for row in local
    ]
    assert (out / "shards/000000.parquet").stat().st_mtime_ns == kept

    add_image(archive / "c/kills.png")
    result = cli(*options, "--max-retries", 0, "--max-bad-share", 0.2)
    assert "its images go one by one" in result.stderr
    last = rows_of(out)[-1]
    assert last["path"] == "c/kills.png"
    assert "killed the worker" in last["error"]
    assert not (out / "tries").exists()


@pytest.fixture
def work(tiny_bundle: Path, archive: Path, tmp_path: Path) -> ScoreWork:
    """A run of four shards that no command began."""
    (tmp_path / "tries").mkdir()
    (tmp_path / "shards").mkdir()
    shards, frames = write_listing(tmp_path, "000", walk(archive), 4)
    return ScoreWork(
        archive=str(archive),
        output=str(tmp_path),
        bundle=str(tiny_bundle),
        bundle_sha256=sha256_file(tiny_bundle / "bundle.json"),
        backend="onnxruntime-cpu",
        precision="fp32",
        threads=1,
        batch=1,
        listed=[Listing(name="000", first_shard=0, shards=shards, frames=frames, linked_folders=0, created="")],
    )


def result_of(actor: ShardActor, engine: RayEngine, number: int) -> ShardResult:
    """Ask an actor in this process, and read its answer as the engine does."""
    (answer,) = actor({"shard": [number]})["answer"]
    return engine.read(answer)


@pytest.mark.slow
def test_a_shard_that_was_finished_before_its_actor_died_is_not_scored_again(work):
    actor, engine = ShardActor(msgspec.json.encode(work), 2), RayEngine(work, 1, 2, print)
    first = result_of(actor, engine, 1)
    file = Path(work.output) / "shards/000001.parquet"
    written = file.stat().st_mtime_ns
    assert result_of(actor, engine, 1) == first
    assert file.stat().st_mtime_ns == written


def test_what_ends_an_actor_arrives_whole(work):
    other = msgspec.structs.replace(work, bundle_sha256="0" * 64)
    with pytest.raises(BundleError, match="is not the bundle of the run") as caught:
        result_of(ShardActor(msgspec.json.encode(other), 2), RayEngine(other, 1, 2, print), 0)
    assert "0" * 64 in caught.value.expected
    assert "shared storage" in caught.value.fix


@pytest.mark.slow
def test_a_worker_larger_than_any_machine_is_refused(cli, tiny_bundle, archive, tmp_path):
    options = (*OPTIONS, "--threads-per-worker", 64)
    stderr = cli("score", tiny_bundle, archive, "-o", tmp_path / "s", *options, code=2).stderr
    assert "no machine of the Ray cluster has the cores that a worker needs" in stderr
    assert "64 on one machine" in stderr


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_said():
    with pytest.raises(BackendError, match=r"no Ray cluster answers at '127\.0\.0\.1:1'"):
        require_reachable("127.0.0.1:1")
    require_reachable("auto")
