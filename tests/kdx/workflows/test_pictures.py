"""kdx predict judges each frame of a video as it judges an image file with the same pixels."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kdx.errors import ImageError
from kdx.workflows.packages import MissingPackageError
from kdx.workflows.pictures import Pictures
from kdx.workflows.predict import ReadWithCare, judge_files
from tests.schema1 import FIXTURES, old_bundle
from tests.videos import damage, write_video

pytest.importorskip("av", reason="PyAV is not installed: pip install 'kdx[video]'")

CELLS = sorted((FIXTURES / "images").glob("cell-*.png"))[:4]
ON_CPU = ("--backend", "onnxruntime-cpu", "--threads", 1)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return old_bundle("stpm", tmp_path)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A video without loss, of grey images."""
    images = [np.asarray(Image.open(path)) for path in CELLS]
    (tmp_path / "clips").mkdir()
    return write_video(tmp_path / "clips/clip.mkv", images, "ffv1", "gray", given="gray")


def judged(bundle: Path, paths: list[Path], **options: Any) -> tuple[list[dict[str, Any]], dict[str, str]]:
    records: list[dict[str, Any]] = []
    bad: dict[str, str] = {}
    judge_files(bundle, paths, records, bad, backend="onnxruntime-cpu", threads=1, **options)
    return records, bad


def test_frames_are_judged_as_files_with_the_same_pixels(bundle, clip):
    records, bad = judged(bundle, [CELLS[0], clip, CELLS[1]])
    files, _ = judged(bundle, CELLS)
    assert not bad
    assert [record["image"] for record in records] == [
        str(CELLS[0]),
        *(f"{clip}/frame-{number:06}" for number in range(4)),
        str(CELLS[1]),
    ]
    frames = records[1:5]
    assert [(each["video"], each["frame"], each["time_s"]) for each in frames] == [
        (str(clip), number, number / 25) for number in range(4)
    ]
    assert [each["score"] for each in frames] == [each["score"] for each in files]
    assert "video" not in records[0]


def test_colour_frames_become_grey_as_files_do_and_are_counted(bundle, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    clip = write_video(tmp_path / "clip.mov", [image])
    care = ReadWithCare()
    records, _ = judged(bundle, [tmp_path / "a.png", clip], care=care)
    assert records[0]["score"] == records[1]["score"]
    assert care.colour == [tmp_path / "a.png", clip / "frame-000000"]


def test_frames_and_files_are_in_one_table_and_a_frame_that_cannot_be_read_is_skipped(bundle, clip, tmp_path, cli):
    damage(clip, 2)
    done = cli(
        *("predict", bundle, clip, CELLS[0], "-o", tmp_path / "out", "--csv", "--maps", "npy", *ON_CPU),
        *("--overlay", tmp_path / "maps", "--max-bad-images", 2),
    )
    assert "frame 2 of" in done.stderr + done.stdout
    with (tmp_path / "out/verdicts.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["verdict"] == "skipped" for row in rows] == [False, False, True, True, False]
    assert [row["frame"] for row in rows] == ["0", "1", "", "", ""]
    assert "cannot be decoded" in rows[2]["error"]
    assert rows[3]["error"].startswith("frame 3 of")  # it was built on frame 2
    assert sorted(path.name for path in (tmp_path / "out").rglob("frame-*.npy")) == [
        "frame-000000.npy",
        "frame-000001.npy",
    ]
    assert len(list((tmp_path / "maps").glob("frame-*.png"))) == 2


def test_a_frame_that_cannot_be_read_stops_unless_the_user_allows_it(bundle, clip, cli):
    damage(clip, 1)
    done = cli("predict", bundle, clip, "--json", *ON_CPU, code=2)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line.get("frame") for line in lines][:1] == [0]
    assert "frame 1 of" in done.stdout + done.stderr
    lines = cli("predict", bundle, clip, "--json", *ON_CPU, "--max-bad-images", 9).stdout.splitlines()
    errors = [line for line in map(json.loads, lines) if "error" in line]
    assert [(line["frame"], line["time_s"]) for line in errors] == [(1, 0.04), (2, 0.08), (3, 0.12)]


def test_a_video_that_is_cut_or_unreadable_is_an_image_that_cannot_be_read(bundle, clip, tmp_path):
    data = clip.read_bytes()
    clip.write_bytes(data[: len(data) * 2 // 3])
    (tmp_path / "no.mp4").write_bytes(b"no video")
    records, bad = judged(bundle, [clip, tmp_path / "no.mp4"], max_bad_images=9)
    assert 0 < len(records) < 4
    assert "is cut: frames are missing at its end" in bad[str(clip)]
    assert "is not a readable video" in bad[str(tmp_path / "no.mp4")]


def test_frames_of_another_size_are_refused(bundle, tmp_path):
    clip = write_video(tmp_path / "clip.mkv", [np.zeros((32, 64), np.uint8)], "ffv1", "gray", given="gray")
    with pytest.raises(ImageError, match="frame-000000' has the wrong size"):
        judged(bundle, [clip])


def test_frames_of_two_videos_have_maps_of_their_own(bundle, clip, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    second = other / "clip.mkv"
    second.write_bytes(clip.read_bytes())
    records, _ = judged(bundle, [clip, second], overlay=tmp_path / "maps")
    assert len({record["overlay"] for record in records}) == 8


def test_videos_in_a_folder_are_left_out_and_counted(bundle, clip, tmp_path, cli):
    folder = tmp_path / "folder"
    folder.mkdir()
    clip.rename(folder / "clip.mkv")
    Image.open(CELLS[0]).save(folder / "a.png")
    done = cli("predict", bundle, folder, "--json", *ON_CPU)
    first, remarks = map(json.loads, done.stdout.splitlines())
    assert first["image"].endswith("a.png")
    assert [(each["kind"], each["first"]) for each in remarks["remarks"]] == [("not_an_image", ["clip.mkv"])]


def test_without_pyav_the_extra_is_named(clip, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingPackageError, match=r"reading videos needs the package 'av'.*\n.*kdx\[video\]"):
        Pictures([clip])
    assert Pictures([CELLS[0]]).paths == [CELLS[0]]
