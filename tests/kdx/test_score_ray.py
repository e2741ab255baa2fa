"""Scoring an archive on a Ray cluster of this machine, of several processes: the same scores, past killed actors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kdx.archive.listing import walk
from kdx.archive.plan import Plan, write_listing
from kdx.archive.ray_engine import RayEngine
from kdx.archive.records import Listed, Work
from kdx.cluster import require_reachable
from kdx.errors import BackendError, BundleError
from tests.kdx.archive_faults import add_image, arm, write_hook

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


def scores_of(out: Path) -> dict[str, float]:
    return {row["path"]: row["score"] for row in rows_of(out)}


def test_scores_are_those_of_the_local_engine_though_an_actor_is_killed(cli, tiny_bundle, archive, tmp_path):
    damaged = archive / "a/00.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    armed = arm(add_image(archive / "b/kills-once.png"))
    out = tmp_path / "ray"
    summary = cli("score", tiny_bundle, archive, "-o", out, *OPTIONS, "--json").json
    assert not armed.exists()
    assert summary["this_run"]["engine"] == "ray"
    assert (summary["frames"], summary["this_run"]["shards"], summary["this_run"]["deaths"]) == (17, 5, 1)
    rows = rows_of(out)
    assert [row["path"] for row in rows] == list(walk(archive))
    assert [row["path"] for row in rows if row["error"]] == ["a/00.png"]
    assert "is damaged" in rows[0]["error"]
    cli("score", tiny_bundle, archive, "-o", tmp_path / "local", *OPTIONS, "--engine", "local")
    assert scores_of(out) == scores_of(tmp_path / "local")

    (out / "shards/000002.parquet").unlink()
    kept = {file.name: file.stat().st_mtime_ns for file in (out / "shards").iterdir()}
    again = cli("score", tiny_bundle, archive, "-o", out, *OPTIONS, "--json").json
    assert again["this_run"]["shards"] == 1
    assert {file.name: file.stat().st_mtime_ns for file in (out / "shards").iterdir()}.items() >= kept.items()
    assert scores_of(out) == scores_of(tmp_path / "local")


def test_an_image_that_kills_its_actor_is_found_and_passed_over(cli, tiny_bundle, archive, tmp_path):
    add_image(archive / "a/kills.png")
    options = (*OPTIONS, "--max-retries", 0)
    result = cli("score", tiny_bundle, archive, "-o", tmp_path / "s", *options)
    assert "its images go one by one" in result.stderr
    rows = {row["path"]: row for row in rows_of(tmp_path / "s")}
    assert list(rows) == list(walk(archive))
    assert [path for path, row in rows.items() if row["error"]] == ["a/kills.png"]
    assert "killed the worker" in rows["a/kills.png"]["error"]
    assert not (tmp_path / "s/tries").exists()


def test_what_an_actor_cannot_go_on_with_arrives_whole(cli, tiny_bundle, archive, tmp_path):
    """The bundle is replaced while a cluster's actors start."""
    shards, frames = write_listing(tmp_path, "000", walk(archive), 4)
    listed = [Listed(name="000", first_shard=0, shards=shards, frames=frames, linked_folders=0, created="")]
    work = Work(
        archive=str(archive),
        output=str(tmp_path),
        bundle=str(tiny_bundle),
        bundle_sha256="0" * 64,
        backend="onnxruntime-cpu",
        precision="fp32",
        threads=1,
        batch=1,
        listed=listed,
    )
    with pytest.raises(BundleError, match="is another bundle than the one that was named") as caught:
        list(RayEngine(work, 2, 2, print).run(Plan(tmp_path, listed), range(4)))
    assert "0" * 64 in caught.value.expected
    assert "shared storage" in caught.value.fix


def test_a_worker_larger_than_any_machine_is_refused(cli, tiny_bundle, archive, tmp_path):
    options = (*OPTIONS, "--threads-per-worker", 64)
    stderr = cli("score", tiny_bundle, archive, "-o", tmp_path / "s", *options, code=2).stderr
    assert "no machine of the Ray cluster has as many cores" in stderr
    assert "64 on one machine" in stderr


def test_a_cluster_that_is_not_there_is_said():
    with pytest.raises(BackendError, match=r"no Ray cluster answers at '127\.0\.0\.1:1'"):
        require_reachable("127.0.0.1:1")
    require_reachable("auto")
