"""Scoring an archive in processes of this machine: equal to kdx.load, resumable, past whatever
kills a process."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image
from scipy.ndimage import label

import kdx
from kdx.archive.listing import added, order
from kdx.archive.local import LocalEngine
from kdx.archive.plan import ShardPlan, write_listing
from kdx.archive.results_folder import ScoreFolder
from kdx.archive.score_records import Index, Listing, ScoreRow, ScoreWork, Settings
from kdx.archive.score_request import ScoreRequest
from kdx.archive.score_run import _forget_bad
from kdx.archive.scorer import ShardScorer
from kdx.archive.shard_table import count, write_shard, write_table
from kdx.bundle.manifest import INDEX, SIGNATURE, Manifest
from kdx.decision.regions import NEIGHBOURS
from kdx.errors import BundleError, DataError, OptionError
from kdx.folders.image_search import LeftOut, walk
from kdx.imaging.image_files import MAX_PIXELS
from kdx.storage.files import sha256_file
from kdx.storage.json_records import encode_record
from tests.kdx.archive.faults import add_image, arm, write_hook
from tests.kdx.archive.in_thread import ThreadChild
from tests.schema1 import old_bundle

pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install -e '.[archive]'")

# The backend by name, for auto measures first; few images a shard, so that there are several.
OPTIONS = ("--backend", "onnxruntime-cpu", "--precision", "fp32", "--workers", "1", "--shard-size", "4")
SETTINGS = Settings(
    archive="", bundle="", bundle_sha256="", backend="", precision="", shard_size=2, maps="npy", masks=True, coco=True
)
WITHOUT_FILES = Index(schema=1, kdx_version="", settings=replace(SETTINGS, maps=None, masks=False, coco=False))


def rows_of(out: Path) -> list[dict[str, Any]]:
    from pyarrow import parquet

    files = sorted((out / "shards").glob("*.parquet"))
    return [row for file in files for row in parquet.read_table(file).to_pylist()]


def shard_times(out: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in (out / "shards").iterdir()}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Ten real images in nested folders, and what is no image."""
    root = tmp_path / "archive"
    names = ["a.png", "b/1.png", "b/2.PNG", "b/c/3.png", "b/c/4.jpg", "b.png", "d/5.png", "d/6.png", "d/7.png", "e.bmp"]
    for index, name in enumerate(names):
        add_image(root / name, index)
    (root / "notes.txt").write_text("no image", encoding="utf-8")
    (root / ".hidden").mkdir()
    shutil.copy(root / "a.png", root / ".hidden/a.png")
    return root


@pytest.fixture
def hooked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let certain files kill, stall or fail the processes that open them."""
    monkeypatch.setenv("PYTHONPATH", str(write_hook(tmp_path / "hook")))


@pytest.fixture
def in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Score in a thread of this process."""
    monkeypatch.setattr("kdx.archive.local.Child", ThreadChild)


def test_masks_of_defects_are_no_parts(cli, tiny_bundle, archive, tmp_path):
    for mask in ("b/1_mask.png", "b/ground_truth/c/3.png"):
        (archive / mask).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(archive / "a.png", archive / mask)
    (archive / "b/test").mkdir()
    done = cli("score", tiny_bundle, archive, "-o", tmp_path / "out", *OPTIONS, "--json").json
    assert done["frames"] == 10
    (masks,) = [each for each in done["remarks"] if each["kind"] == "mask"]
    assert masks["first"] == ["b/1_mask.png", "b/ground_truth/c/3.png"]


def test_the_walk_is_in_one_order_and_passes_over_what_is_no_image(archive):
    expected = [
        "a.png",
        "b/1.png",
        "b/2.PNG",
        "b/c/3.png",
        "b/c/4.jpg",
        "b.png",
        "d/5.png",
        "d/6.png",
        "d/7.png",
        "e.bmp",
    ]
    assert list(walk(archive)) == expected
    shuffled = [*expected[5:], *expected[:5]]
    assert sorted(shuffled, key=order) == expected


def test_linked_folders_are_counted_and_not_followed(archive):
    (archive / "loop").symlink_to(archive)
    passed = LeftOut()
    assert len(list(walk(archive, passed))) == 10
    assert passed.count("linked_folder") == 1


def test_a_walk_of_nothing_is_refused(tmp_path):
    with pytest.raises(DataError, match="there is no folder"):
        list(walk(tmp_path / "missing"))


def test_added_is_what_no_earlier_list_has():
    found = ["a/1", "a/b/2", "a.x", "b", "c", "d"]
    assert list(added(found, [])) == found
    assert list(added(found, [["a/1", "b"], ["a.x", "gone"], ["d"]])) == ["a/b/2", "c"]


@pytest.mark.usefixtures("in_a_thread")
def test_a_table_maps_and_masks_are_written_with_the_scores(cli, tiny_bundle, archive, tmp_path):
    out = tmp_path / "scores"
    (archive / "=broken.png").write_bytes(b"no image")
    Image.new("L", (64, 64)).save(archive / "lamp-off.png")  # shows no part: neither mask nor labels
    files = ("--csv", "--maps", "npy", "--masks", "--coco", "--min-area", 3)
    cli("score", tiny_bundle, archive, "-o", out, *OPTIONS, "--max-bad-share", 0.2, *files)
    rows = rows_of(out)
    with (out / "verdicts.csv").open(encoding="utf-8-sig", newline="") as file:
        table = list(csv.DictReader(file, strict=True))
    assert [row["image"].removeprefix("./") for row in table] == [row["path"] for row in rows]
    assert {row["verdict"] for row in table if row["error"]} == {"skipped"}
    assert "not a readable image" in next(row["error"] for row in table if row["image"] == "./=broken.png")
    with kdx.load(tiny_bundle, "onnxruntime-cpu", 1) as detector:
        options = ("--json", "--backend", "onnxruntime-cpu", "--precision", "fp32")
        of_predict = cli("predict", tiny_bundle, archive / "a.png", *options).lines[0]
        assert set(of_predict) <= set(table[0])
        for name in ("score", "threshold", "p_value", "held_out_images", "backend", "precision"):
            assert table[1][name] == str(of_predict[name])
        for row, told in zip(rows, table, strict=True):
            assert told["score"] == ("" if row["score"] is None else repr(row["score"]))
            if row["error"]:
                continue
            verdict = detector(kdx.read_image(archive / row["path"], detector.input))
            np.testing.assert_array_equal(np.load(out / f"maps/{row['path']}.npy"), verdict.anomaly_map)
            if row["path"] == "lamp-off.png":
                assert row["reason"] == "frame"
                continue
            mask = np.asarray(Image.open(out / f"masks/{row['path']}.png"))
            np.testing.assert_array_equal(mask == 255, verdict.anomaly_map > detector.pixel_threshold)
    assert len(list((out / "maps").rglob("*.npy"))) == 11
    assert len(list((out / "masks").rglob("*.png"))) == 10
    regions = [json.loads(file.read_text(encoding="utf-8")) for file in sorted((out / "regions").iterdir())]
    assert len(regions) == len(shard_times(out)) == 3
    scored = [row["path"] for row in rows if not (row["error"] or row["reason"] == "frame")]
    assert [image["file_name"] for each in regions for image in each["images"]] == scored
    for each in regions:
        areas = {image["id"]: [] for image in each["images"]}
        for annotation in each["annotations"]:
            areas[annotation["image_id"]].append(annotation["area"])
        for image in each["images"]:
            mask = np.asarray(Image.open(out / f"masks/{image['file_name']}.png")) == 255
            sizes = np.bincount(label(mask, NEIGHBOURS)[0].ravel())[1:]
            assert sorted(areas[image["id"]]) == sorted(sizes[sizes >= 3].tolist())

    # What is finished is not scored again: another table may be written of it, and no other maps.
    before = shard_times(out)
    cli("score", tiny_bundle, archive, "-o", out, *OPTIONS, "--max-bad-share", 0.2, "--csv", "--semicolons")
    assert ";" in (out / "verdicts.csv").read_text(encoding="utf-8-sig").splitlines()[0]
    assert shard_times(out) == before
    # A table that exists is written again by every call, in its style.
    table = (out / "verdicts.csv").read_bytes()
    (out / "verdicts.csv").write_bytes(table.splitlines(keepends=True)[0])
    # An image that is skipped now has no files of an earlier, stopped call.
    (out / "shards/000000.parquet").unlink()
    (archive / "a.png").write_bytes(b"no image")
    cli("score", tiny_bundle, archive, "-o", out, *OPTIONS, "--max-bad-share", 0.2)
    again = (out / "verdicts.csv").read_bytes().splitlines()
    assert (len(again), again[0]) == (13, table.splitlines()[0])
    assert not [path for path in out.rglob("*") if path.name.startswith("a.png.")]
    refused = cli("score", tiny_bundle, archive, "-o", out, *OPTIONS, "--maps", "png", code=2).stderr
    assert "another format of maps" in refused
    assert "format of maps npy" in refused
    refused = cli("score", tiny_bundle, archive, "-o", out, *OPTIONS, "--coco", "--min-area", 5, code=2).stderr
    assert "smallest area of regions 3" in refused
    inside = cli("score", tiny_bundle, archive, "-o", archive / "scores", *OPTIONS, "--masks", code=2).stderr
    assert "would lie in the archive" in inside


def test_masks_of_an_archive_need_a_threshold_and_force_discards_them(cli, raw_bundle, archive, tmp_path):
    for kind in ("--masks", "--coco"):
        refused = cli("score", raw_bundle, archive, "-o", tmp_path / "scores", *OPTIONS, kind, code=2).stderr
        assert "is not calibrated" in refused
    refused = cli("score", raw_bundle, archive, "-o", tmp_path / "scores", "--coco", "--min-area", -1, code=2).stderr
    assert "invalid --min-area" in refused
    folder = ScoreFolder(tmp_path / "scores")
    for name in ("maps/a.png.npy", "masks/b/a.png.png", "regions/000000.coco.json", "mine.txt"):
        (folder.path / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.path / name).write_bytes(b"")
    write_table(folder.path, 0, "semicolon", {})
    folder.begin(SETTINGS)
    with folder.held():
        folder.discard()
        assert sorted(path.name for path in folder.path.iterdir()) == ["mine.txt", "shards"]


@pytest.mark.parametrize("record", [encode_record(WITHOUT_FILES), b"damaged"])
def test_force_leaves_maps_masks_and_a_table_that_are_not_of_this_command(tmp_path, record):
    mine = ("maps/site.png", "masks/a.png", "regions/a.json", "verdicts.csv")
    folder = ScoreFolder(tmp_path)
    for name in mine:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"mine")
    (tmp_path / "score.json").write_bytes(record)
    with folder.held():
        folder.discard()
        assert not (tmp_path / "score.json").exists()
        assert [name for name in mine if (tmp_path / name).is_file()] == list(mine)


def test_force_removes_nothing_where_the_call_cannot_begin(cli, tiny_bundle, raw_bundle, archive, tmp_path):
    folder = ScoreFolder(tmp_path / "scores")
    folder.shards.mkdir(parents=True)
    folder.begin(SETTINGS)
    (folder.shards / "000000.parquet").write_bytes(b"scores of a week")
    before = sorted(path.name for path in folder.path.rglob("*"))
    (tmp_path / "empty").mkdir()
    for bundle, images, options, said in (
        (tiny_bundle, tmp_path / "typo", OPTIONS, "there is no folder"),
        (tiny_bundle, tmp_path / "empty", OPTIONS, "no images were found"),
        (tiny_bundle, archive, ("--precision", "int8"), "int8"),
        (raw_bundle, archive, (*OPTIONS, "--masks"), "is not calibrated"),
    ):
        assert said in cli("score", bundle, images, "-o", folder.path, *options, "--force", code=2).stderr
        assert sorted(path.name for path in folder.path.rglob("*")) == before


def test_a_folder_that_force_had_begun_to_empty_is_still_of_this_command(tmp_path):
    folder = ScoreFolder(tmp_path / "scores")
    (folder.shards / "000000.parquet").mkdir(parents=True)  # it cannot be removed as a file
    folder.begin(SETTINGS)
    with folder.held(), pytest.raises(OSError, match="000000"):
        folder.discard()
    with folder.held():
        assert folder.begun() is not None


def test_masks_need_the_pixel_threshold(cli, tiny_bundle, archive, tmp_path, monkeypatch):
    found = Manifest.threshold_of
    monkeypatch.setattr(Manifest, "threshold_of", lambda *of: replace(found(*of), pixel=None))
    refused = cli("score", tiny_bundle, archive, "-o", tmp_path / "scores", *OPTIONS, "--masks", code=2).stderr
    assert "there is no pixel threshold for masks" in refused


def test_a_folder_with_maps_or_masks_has_a_schema_that_earlier_releases_refuse(tmp_path):
    assert ScoreFolder(tmp_path).begin(WITHOUT_FILES.settings).schema == 1
    plain = WITHOUT_FILES.settings
    for settings in (replace(plain, maps="npy"), replace(plain, masks=True), replace(plain, coco=True)):
        assert ScoreFolder(tmp_path).begin(settings).schema == 2
        assert ScoreFolder(tmp_path).begun().settings == settings


def test_images_that_are_scored_again_keep_no_earlier_files(tmp_path):
    """Also images that kill their process, of which no process can remove the files."""
    shards, frames = write_listing(tmp_path, "000", ["a.png", "b.png", "c.png"], 2)
    listed = Listing(name="000", first_shard=0, shards=shards, frames=frames, linked_folders=0, created="")
    index = Index(schema=2, kdx_version="", settings=SETTINGS, listed=[listed])
    work = ScoreWork(
        archive="",
        output=str(tmp_path),
        bundle="",
        bundle_sha256="",
        backend="",
        precision="",
        threads=1,
        batch=1,
        listed=[listed],
    )
    (tmp_path / "shards").mkdir()
    for number, rows in enumerate([[ScoreRow(path="a.png"), ScoreRow(path="b.png", error="?")], [ScoreRow(path="c")]]):
        write_shard(work, count(number, rows, seconds=0.0, worker=""), rows)
    for name in ("maps/a.png.npy", "maps/a.png.json", "masks/a.png.png", "masks/c.png.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    _forget_bad(ScoreFolder(tmp_path), index, lambda _text: None)
    left = [path.name for name in ("shards", "maps", "masks") for path in (tmp_path / name).iterdir()]
    assert left == ["000001.parquet", "c.png.png"]


@pytest.mark.slow
def test_scores_are_those_of_kdx_load(cli, tiny_bundle, archive, tmp_path):
    from pyarrow import parquet

    out = tmp_path / "scores"
    summary = cli("score", tiny_bundle, archive, "-o", out, *OPTIONS, "--workers", 2, "--json").json
    rows = rows_of(out)
    assert [row["path"] for row in rows] == list(walk(archive))
    with kdx.load(tiny_bundle, "onnxruntime-cpu", 1, precision="fp32") as detector:
        for row in rows:
            verdict = detector(kdx.read_image(archive / row["path"], detector.input))
            assert (row["score"], row["decision"]) == (verdict.score, verdict.decision.value)
            assert (row["margin"], row["threshold"]) == (verdict.margin, verdict.threshold)
            assert (row["relative_score"], row["p_value"]) == (verdict.relative_score, verdict.p_value)
            assert row["sha256"] == sha256_file(archive / row["path"])
            assert row["milliseconds"] > 0
            assert row["error"] == ""
    decisions = [row["decision"] for row in rows]
    assert summary["decisions"] == {each.value: decisions.count(each.value) for each in kdx.Decision}
    assert summary["bad"] == 0
    assert summary["quantiles"]["1"] == max(row["score"] for row in rows)
    assert summary["this_run"]["frames"] == summary["frames"] == 10
    assert summary["this_run"]["workers"] == 2
    assert json.loads((out / "summary.json").read_text(encoding="utf-8")) == summary
    metadata = parquet.read_schema(out / "shards/000002.parquet").metadata
    assert metadata[b"kdx_version"].decode() == kdx.__version__
    assert metadata[b"bundle_sha256"].decode() == sha256_file(tiny_bundle / "bundle.json")
    assert metadata[b"backend"] == b"onnxruntime-cpu"
    assert json.loads(metadata[b"shard"])["frames"] == 2


@pytest.mark.usefixtures("in_a_thread")
def test_batches_give_the_same_scores(cli, tiny_bundle, archive, tmp_path):
    cli("score", tiny_bundle, archive, "-o", tmp_path / "s", *OPTIONS, "--batch", 3)
    with kdx.load(tiny_bundle, "onnxruntime-cpu", 1, precision="fp32") as detector:
        for row in rows_of(tmp_path / "s"):
            verdict = detector(kdx.read_image(archive / row["path"], detector.input))
            assert row["score"] == pytest.approx(verdict.score, rel=1e-5)
            assert row["decision"] == verdict.decision.value


def poison(archive: Path) -> dict[str, str]:
    """Add every kind of image that cannot be used, and return what must be said of each."""
    jpeg = (archive / "b/c/4.jpg").read_bytes()
    (archive / "b/truncated.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    Image.new("L", (30, 20)).save(archive / "small.png")
    (archive / "text.png").write_text("this is no picture", encoding="utf-8")
    (archive / "empty.png").touch()
    bomb = bytearray((archive / "a.png").read_bytes())
    bomb[16:24] = (200_000).to_bytes(4, "big") * 2  # the width and height that the header declares
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    (archive / "bomb.png").write_bytes(bomb)
    (archive / "dangling.png").symlink_to(archive / "nowhere.png")
    os.mkfifo(archive / "pipe.png")  # whoever opens it waits for ever
    return {
        "b/truncated.jpg": "is damaged",
        "small.png": "has the wrong size; expected 64 × 64 pixels; received 30 × 20 pixels",
        "text.png": "is not a readable image",
        "empty.png": "is empty (0 bytes)",
        "bomb.png": "decompression bomb",
        "dangling.png": "does not exist",
        "pipe.png": "is not a file",
    }


@pytest.mark.usefixtures("in_a_thread")
def test_poisoned_images_are_recorded_and_skipped(cli, tiny_bundle, archive, tmp_path):
    assert MAX_PIXELS < 200_000**2
    expected = poison(archive)
    odd = os.fsdecode(b"odd-\xff.png")  # a name that is not UTF-8 is no reason
    shutil.copy(archive / "a.png", archive / odd)
    result = cli("score", tiny_bundle, archive, "-o", tmp_path / "s", *OPTIONS, "--max-bad-share", 0.5, "--batch", 3)
    rows = {row["path"]: row for row in rows_of(tmp_path / "s")}
    assert {path for path, row in rows.items() if row["error"]} == set(expected)
    for path, reason in expected.items():
        assert reason in rows[path]["error"]
        assert str(archive) not in rows[path]["error"]
        assert rows[path]["score"] is None
        assert rows[path]["decision"] is None
        assert f"skipped: {path}" in result.stderr
    assert rows["odd-\\xff.png"]["score"] == rows["a.png"]["score"]
    assert len(rows) == 10 + len(expected) + 1


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read anything")
@pytest.mark.usefixtures("in_a_thread")
def test_an_image_that_may_not_be_read_is_recorded(cli, tiny_bundle, archive, tmp_path):
    (archive / "a.png").chmod(0)
    cli("score", tiny_bundle, archive, "-o", tmp_path / "s", *OPTIONS)
    assert "permission denied" in rows_of(tmp_path / "s")[0]["error"]


@pytest.mark.usefixtures("in_a_thread")
def test_more_bad_images_than_allowed_stop_the_run_and_what_is_finished_stands(cli, tiny_bundle, archive, tmp_path):
    (archive / "a.png").write_text("no picture", encoding="utf-8")
    out = tmp_path / "s"
    stderr = cli("score", tiny_bundle, archive, "-o", out, *OPTIONS, "--max-bad-share", 0.05, code=1).stderr
    assert "1 of 10 images could not be used" in stderr
    before = shard_times(out)
    assert "000000.parquet" in before
    cli("score", tiny_bundle, archive, "-o", out, *OPTIONS)
    assert shard_times(out).items() >= before.items()
    assert len(rows_of(out)) == 10


@pytest.mark.usefixtures("in_a_thread")
def test_fixed_images_are_scored_with_retry_bad(cli, tiny_bundle, archive, tmp_path):
    out, kept = tmp_path / "s", (archive / "e.bmp").read_bytes()
    (archive / "e.bmp").write_bytes(b"")
    cli("score", tiny_bundle, archive, "-o", out, *OPTIONS)
    before = shard_times(out)
    (archive / "e.bmp").write_bytes(kept)
    assert cli("score", tiny_bundle, archive, "-o", out, *OPTIONS, "--json").json["bad"] == 1
    again = cli("score", tiny_bundle, archive, "-o", out, *OPTIONS, "--retry-bad", "--json").json
    assert (again["bad"], again["this_run"]["shards"]) == (0, 1)
    changed = {name for name, at in shard_times(out).items() if before[name] != at}
    assert changed == {"000002.parquet"}


@pytest.mark.usefixtures("in_a_thread")
def test_images_that_came_later_are_counted_then_scored(cli, tiny_bundle, archive, tmp_path):
    out = tmp_path / "s"
    cli("score", tiny_bundle, archive, "-o", out, *OPTIONS)
    (out / "shards/000001.parquet").unlink()  # as if the call had been killed
    add_image(archive / "b/b-new.png")
    resumed = cli("score", tiny_bundle, archive, "-o", out, *OPTIONS, "--json").json
    assert (resumed["frames"], resumed["this_run"]["shards"], resumed["added_since"]) == (10, 1, 1)
    before = shard_times(out)
    following = cli("score", tiny_bundle, archive, "-o", out, *OPTIONS, "--json").json
    assert (following["frames"], following["this_run"]["frames"], following["added_since"]) == (11, 1, 0)
    assert [row["path"] for row in rows_of(out)][-1] == "b/b-new.png"
    assert shard_times(out).items() >= before.items()
    nothing = cli("score", tiny_bundle, archive, "-o", out, *OPTIONS).stdout
    assert "nothing was left to score" in nothing


def test_the_list_of_shards_is_the_same_wherever_it_is_made(archive, tmp_path):
    copy = tmp_path / "copy"  # written in another order
    for path in reversed(list(walk(archive))):
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(archive / path, copy / path)
    for name, root in (("one", archive), ("two", copy)):
        assert write_listing(tmp_path / name, "000", walk(root), 4) == (3, 10)
    assert sha256_file(tmp_path / "one/files/000/paths.parquet") == sha256_file(
        tmp_path / "two/files/000/paths.parquet"
    )
    listed = [Listing(name="000", first_shard=0, shards=3, frames=10, linked_folders=0, created="")]
    plan = ShardPlan(tmp_path / "one", listed)
    assert [plan.shard(number).paths for number in range(3)] == [
        ("a.png", "b/1.png", "b/2.PNG", "b/c/3.png"),
        ("b/c/4.jpg", "b.png", "d/5.png", "d/6.png"),
        ("d/7.png", "e.bmp"),
    ]
    assert [plan.frames_of(number) for number in range(3)] == [4, 4, 2]


@pytest.mark.usefixtures("in_a_thread")
def test_scores_of_something_else_are_never_mixed(cli, tiny_bundle, bundle_copy, dataset, archive, tmp_path):
    out = tmp_path / "s"
    cli("score", tiny_bundle, archive, "-o", out, *OPTIONS)
    before = shard_times(out)
    cli("calibrate", bundle_copy, dataset, "--false-reject-rate", 0.3, "--backend", "onnxruntime-cpu")
    other = shutil.copytree(archive, tmp_path / "other")
    refusals = {
        "of another bundle": (bundle_copy, archive, *OPTIONS),
        "of another archive": (tiny_bundle, other, *OPTIONS),
        "of another shard size": (tiny_bundle, archive, *OPTIONS[:-1], "5"),
        "of another backend": (tiny_bundle, archive, "--backend", "openvino"),
    }
    for words, (bundle, images, *options) in refusals.items():
        stderr = cli("score", bundle, images, "-o", out, *options, code=2).stderr
        assert words in stderr
        assert "start again with --force" in stderr
    assert shard_times(out) == before
    # Unnamed options are those of the first call; another copy of the bundle is the same bundle.
    copy = shutil.copytree(tiny_bundle, tmp_path / "again.kdx")
    assert cli("score", copy, archive, "-o", out, "--json").json["this_run"]["shards"] == 0
    forced = cli("score", bundle_copy, archive, "-o", out, *OPTIONS, "--force", "--json").json
    assert forced["settings"]["bundle_sha256"] == sha256_file(bundle_copy / "bundle.json")
    assert forced["this_run"]["shards"] == 3


def test_a_folder_of_something_else_is_never_touched(cli, tiny_bundle, archive, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("precious", encoding="utf-8")
    stderr = cli("score", tiny_bundle, archive, "-o", tmp_path / "mine", "--force", code=2).stderr
    assert "is not of kdx score" in stderr
    assert (tmp_path / "mine/thesis.txt").read_text(encoding="utf-8") == "precious"


@pytest.mark.usefixtures("in_a_thread")
def test_two_calls_do_not_work_in_one_folder(cli, tiny_bundle, archive, tmp_path):
    with ScoreFolder(tmp_path / "s").held():
        stderr = cli("score", tiny_bundle, archive, "-o", tmp_path / "s", *OPTIONS, code=2).stderr
    assert "another kdx score is working" in stderr
    cli("score", tiny_bundle, archive, "-o", tmp_path / "s", *OPTIONS)


@pytest.mark.usefixtures("in_a_thread")
def test_a_mistyped_archive_does_not_claim_the_output_folder(cli, tiny_bundle, archive, tmp_path):
    score = ("score", tiny_bundle)
    assert "there is no folder" in cli(*score, tmp_path / "nowhere", "-o", tmp_path / "out", *OPTIONS, code=2).stderr
    cli(*score, archive, "-o", tmp_path / "out", *OPTIONS)
    assert len(rows_of(tmp_path / "out")) == 10
    assert "another archive" in cli(*score, tmp_path / "nowhere", "-o", tmp_path / "out", *OPTIONS, code=2).stderr


def test_an_archive_without_images_is_refused(cli, tiny_bundle, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no images were found" in cli("score", tiny_bundle, tmp_path / "empty", "-o", tmp_path / "s", code=2).stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--engine", "spark"), "local, ray"),
        (("--address", "auto"), "an address is only for the engine 'ray'"),
        (("--max-bad-share", "2"), "--max-bad-share is out of range"),
    ],
)
def test_options_that_are_not_possible(cli, tiny_bundle, archive, tmp_path, options, said):
    assert said in cli("score", tiny_bundle, archive, "-o", tmp_path / "s", *options, code=2).stderr
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("hooked")
def test_a_worker_that_is_killed_is_replaced(cli, tiny_bundle, archive, tmp_path):
    arm(add_image(archive / "b/kills-once.png"))
    result = cli("score", tiny_bundle, archive, "-o", tmp_path / "s", *OPTIONS)
    assert "a process died with shard 1 (killed by SIGKILL); it is replaced" in result.stderr
    assert "processes that died and were replaced: 1" in result.stdout
    rows = rows_of(tmp_path / "s")
    assert [row["path"] for row in rows] == list(walk(archive))
    assert not any(row["error"] for row in rows)


@pytest.mark.slow
@pytest.mark.usefixtures("hooked")
def test_an_image_that_kills_its_process_is_found_and_skipped(cli, tiny_bundle, archive, tmp_path):
    add_image(archive / "z/kills.png")  # the last of its shard
    options = (*OPTIONS, "--max-retries", 0)
    summary = cli("score", tiny_bundle, archive, "-o", tmp_path / "s", *options, "--json").json
    rows = {row["path"]: row for row in rows_of(tmp_path / "s")}
    assert list(rows) == list(walk(archive))
    assert [path for path, row in rows.items() if row["error"]] == ["z/kills.png"]
    assert "killed the worker (killed by SIGKILL), 2 times in a row" in rows["z/kills.png"]["error"]
    assert summary["bad"] == 1
    assert summary["this_run"]["deaths"] == 3  # one with the shard, two with the image
    with kdx.load(tiny_bundle, "onnxruntime-cpu", 1, precision="fp32") as detector:
        beside = detector(kdx.read_image(archive / "e.bmp", detector.input))
    assert rows["e.bmp"]["score"] == beside.score


@pytest.mark.usefixtures("hooked")
def test_processes_that_die_at_once_are_not_started_for_ever(cli, tiny_bundle, archive, tmp_path):
    bundle = shutil.copytree(tiny_bundle, tmp_path / "kills-at-load.kdx")
    stderr = cli("score", bundle, archive, "-o", tmp_path / "s", *OPTIONS, "--max-retries", 1, code=2).stderr
    assert "processes die while they load" in stderr
    assert "2 in a row" in stderr


@pytest.mark.slow
@pytest.mark.usefixtures("hooked")
def test_a_full_disk_is_reported_and_the_same_command_resumes(cli, tiny_bundle, archive, tmp_path, request):
    out, full = tmp_path / "s", tmp_path / "full"
    full.touch()
    stderr = cli("score", tiny_bundle, archive, "-o", out, *OPTIONS, code=2).stderr
    assert "000001.parquet' cannot be written: No space left on device" in stderr
    assert "run the same command again to continue" in stderr
    assert [file.name for file in (out / "shards").iterdir()] == ["000000.parquet"]
    full.unlink()
    request.getfixturevalue("in_a_thread")
    assert cli("score", tiny_bundle, archive, "-o", out, *OPTIONS, "--json").json["frames"] == 10


def work_of(bundle: Path, archive: Path, out: Path, bundle_sha256: str) -> ScoreWork:
    shards, frames = write_listing(out, "000", walk(archive), 4)
    return ScoreWork(
        archive=str(archive),
        output=str(out),
        bundle=str(bundle),
        bundle_sha256=bundle_sha256,
        backend="onnxruntime-cpu",
        precision="fp32",
        threads=1,
        batch=1,
        listed=[Listing(name="000", first_shard=0, shards=shards, frames=frames, linked_folders=0, created="")],
    )


def test_a_worker_refuses_another_bundle_and_the_error_arrives_whole(tiny_bundle, archive, tmp_path):
    work = work_of(tiny_bundle, archive, tmp_path, "0" * 64)
    with pytest.raises(BundleError, match="is not the bundle of the run") as caught:
        list(LocalEngine(work, 1, 2, print).run(ShardPlan(tmp_path, work.listed), [0]))
    assert "0" * 64 in caught.value.expected
    assert "shared storage" in caught.value.fix


def test_a_worker_refuses_a_bundle_with_a_damaged_signature(bundle_copy, archive, tmp_path):
    (bundle_copy / SIGNATURE).write_text("damaged", encoding="utf-8")
    with pytest.raises(BundleError, match=r"bundle\.sig' is not valid"):
        ShardScorer(work_of(bundle_copy, archive, tmp_path, sha256_file(bundle_copy / INDEX)))


@pytest.mark.usefixtures("in_a_thread")
def test_doubts_about_the_calibration_are_in_every_summary(cli, archive, tmp_path):
    options = ("--backend", "onnxruntime-cpu", "--precision", "int8", "--workers", "1", "--json")
    for _ in ("begun", "resumed"):
        done = cli("score", old_bundle("stpm", tmp_path / "bundle"), archive, "-o", tmp_path / "s", *options).json
        shutil.rmtree(tmp_path / "bundle")
        (doubt,) = [each for each in done["remarks"] if each["kind"] == "calibration"]
        assert doubt["count"] == done["frames"] - done["bad"] > 0
        assert "images were scored, but the int8 threshold was calibrated by an older kdx" in doubt["text"]


@pytest.mark.usefixtures("in_a_thread")
def test_a_damaged_shard_is_named(cli, tiny_bundle, archive, tmp_path):
    out = tmp_path / "s"
    cli("score", tiny_bundle, archive, "-o", out, *OPTIONS)
    (out / "shards/000001.parquet").write_bytes(b"PAR1 half a file")
    stderr = cli("score", tiny_bundle, archive, "-o", out, *OPTIONS, code=2).stderr
    assert "000001.parquet' is not a shard of kdx score, or it is damaged" in stderr
    (out / "score.json").write_text("{", encoding="utf-8")
    assert "is not valid" in cli("score", tiny_bundle, archive, "-o", out, *OPTIONS, code=2).stderr


@contextmanager
def started(bundle: Path, archive: Path, out: Path) -> Iterator[subprocess.Popen[str]]:
    """Start the command in a process of its own and wait until its worker stalls, in the last
    shard."""
    command = [sys.executable, "-m", "kdx", "score", str(bundle), str(archive), "-o", str(out), *OPTIONS]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8")
    try:
        give_up = time.monotonic() + 300
        while not (archive / "z/stalls.png.reached").exists():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < give_up
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.communicate()


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are found in Linux's /proc")
@pytest.mark.usefixtures("hooked")
def test_a_run_that_is_interrupted_or_killed_resumes_where_it_stopped(cli, tiny_bundle, archive, tmp_path, request):
    out = tmp_path / "s"
    stalled = arm(add_image(archive / "z/stalls.png"))
    with started(tiny_bundle, archive, out) as interrupted:
        interrupted.send_signal(signal.SIGINT)
        assert "run the same command again to continue" in interrupted.communicate(timeout=300)[1]
    assert interrupted.returncode == 130
    (archive / "z/stalls.png.reached").unlink()
    before = shard_times(out)
    assert set(before) == {"000000.parquet", "000001.parquet"}

    with started(tiny_bundle, archive, out) as killed:
        orphans = children_of(killed.pid)
    assert orphans
    assert killed.returncode == -signal.SIGKILL
    give_up = time.monotonic() + 300
    while any(Path(f"/proc/{pid}/exe").exists() and is_running(pid) for pid in orphans):  # they die with it
        assert time.monotonic() < give_up
        time.sleep(0.02)

    stalled.unlink()
    request.getfixturevalue("in_a_thread")
    (out / "shards/.000002.parquet.abcdefgh.part").write_bytes(b"what a kill may leave")
    summary = cli("score", tiny_bundle, archive, "-o", out, *OPTIONS, "--json").json
    assert summary["this_run"]["shards"] == 1
    assert shard_times(out).items() >= before.items()
    assert sorted(file.name for file in (out / "shards").iterdir()) == [f"00000{n}.parquet" for n in range(3)]
    assert [row["path"] for row in rows_of(out)] == list(walk(archive))
    assert summary["bad"] == 0


def is_running(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False


def test_importing_the_command_loads_no_pyarrow():
    code = "import kdx.cli.score, kdx.archive, sys; print(sorted({'pyarrow', 'ray', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.usefixtures("in_a_thread")
def test_a_missing_range_is_said_with_a_count(cli, tiny_bundle, archive, tmp_path):
    import numpy as np

    for name in ("a.png", "b/c/3.png", "e.bmp"):
        with Image.open(archive / name) as image:
            values = np.asarray(image.convert("L")).astype(np.uint16) * 16
        Image.fromarray(values).save((archive / name).with_suffix(".png"))
    result = cli("score", tiny_bundle, archive, "-o", tmp_path / "out", *OPTIONS, "--json").json
    assert result["narrow"] == 3
    assert 0 <= result["narrow_levels"]["lowest"] < result["narrow_levels"]["highest"] <= 4080
    assert result["narrow_levels"]["declared"] == [0, 65535]
    again = cli("score", tiny_bundle, archive, "-o", tmp_path / "out", *OPTIONS)
    assert again.stderr.count("less than a tenth of the declared range 0:65535") == 1
    assert "3 16-bit images hold values from" in again.stderr


def test_the_smallest_area_without_regions_is_refused(tiny_bundle, archive, tmp_path):
    with pytest.raises(OptionError, match="`min_area` has no effect without `coco`"):
        ScoreRequest(tiny_bundle, archive, tmp_path / "out", min_area=5).check()
