"""A bundle that is replaced while a station runs: taken up whole, or not at all."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdx.errors import BackendError, BundleError, ImageError, KdxError, OptionError
from kdx.imaging.images import InputSpec
from kdx.runtime.detector import Detector
from kdx.station import bundles as bundles_module
from kdx.station.bundles import Bundles, Loaded, LoadOptions
from kdx.station.camera.frames import FrameInfo, encoded
from kdx.station.in_hand import MOST_TRIES, InHand
from kdx.station.judged_files import Identity
from kdx.station.judging import Judge
from kdx.station.names import NamePattern, name_pattern
from kdx.storage.files import sha256_file
from tests.schema1 import FIXTURES, old_bundle

OPTIONS = LoadOptions(backend="onnxruntime-cpu", threads=1, precision="fp32")
CELL = FIXTURES / "images/cell-0.png"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return old_bundle("stpm", tmp_path)


def judge_cell(folder: Path, bundles: Bundles, pattern: NamePattern = NamePattern(), name: str = "1.png", **given):  # noqa: B008
    shutil.copy2(CELL, folder / name)
    return Judge(folder, bundles, pattern, InHand(folder), heat_maps=False, **given)(
        name, Identity.of((folder / name).stat())
    )


def test_a_replaced_bundle_judges_from_then_on(bundle, tmp_path):
    seconds = [0.0]
    with Loaded(bundle, OPTIONS, clock=lambda: seconds[0]) as loaded:
        before = loaded.by
        assert loaded.take_up() is None
        os.utime(bundle / "bundle.json", ns=(1, 1))  # touched, and the same
        assert loaded.take_up() is None

        other = old_bundle("level", tmp_path)
        # A copy that is not complete: the old bundle judges on, and it is said once.
        shutil.copy(other / "bundle.json", bundle / "bundle.json")
        refused = loaded.take_up()
        assert isinstance(refused, KdxError)
        assert (loaded.take_up(), loaded.by) == (None, before)

        shutil.copytree(other, bundle, dirs_exist_ok=True)
        seconds[0] += 5
        assert loaded.take_up() == before
        assert loaded.by.bundle_sha256 == sha256_file(bundle / "bundle.json") != before.bundle_sha256

        shutil.rmtree(bundle)
        assert isinstance(loaded.take_up(), BundleError)
        assert (loaded.take_up(), loaded.by.backend) == (None, "onnxruntime-cpu")


def test_an_unexpected_error_at_another_bundle_leaves_the_old_one(bundle, tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    with Loaded(bundle, OPTIONS) as loaded:
        before = loaded.by
        shutil.copytree(old_bundle("level", tmp_path), bundle, dirs_exist_ok=True)
        monkeypatch.setattr(bundles_module, "_load", fail)
        refused = loaded.take_up()
        assert isinstance(refused, BundleError)
        assert "unexpected RuntimeError: out of memory" in refused.message
        assert (loaded.take_up(), loaded.by) == (None, before)


def test_a_bundle_that_is_refused_after_a_long_load_leaves_time_to_judge(bundle, tmp_path, monkeypatch):
    seconds, loads = [0.0], []

    def slow(*_: object) -> None:
        loads.append(seconds[0])
        seconds[0] += 10
        raise BackendError("the golden images are decided otherwise")

    with Loaded(bundle, OPTIONS, clock=lambda: seconds[0]) as loaded:
        shutil.copytree(old_bundle("level", tmp_path), bundle, dirs_exist_ok=True)
        monkeypatch.setattr(bundles_module, "_load", slow)
        for _ in range(100):
            loaded.take_up()
            seconds[0] += 3
        assert loads == [0.0, 211.0]  # 20 times as long as it took
        os.utime(bundle / "bundle.json", ns=(1, 1))  # another index is tried at once
        loaded.take_up()
    assert len(loads) == 3


def test_a_bundle_in_bands_that_replaces_another_is_refused_where_heat_maps_are_drawn(bundle, tmp_path, monkeypatch):
    with Loaded(bundle, replace(OPTIONS, heat_maps=True)) as loaded:
        shutil.copytree(old_bundle("level", tmp_path), bundle, dirs_exist_ok=True)
        monkeypatch.setattr(InputSpec, "is_in_bands", True)
        refused = loaded.take_up()
        assert isinstance(refused, OptionError)
        assert "never whole in the memory" in refused.message


def test_a_run_is_no_bundle(tmp_path):
    (tmp_path / "run.json").write_text("{}", encoding="utf-8")
    with pytest.raises(BundleError, match="run folder"):
        Loaded(tmp_path, OPTIONS)


def test_the_bundle_of_the_product_judges(bundle, tmp_path):
    with Bundles({"cell": bundle}, OPTIONS) as bundles:
        pattern = name_pattern(r"^(?P<product>[a-z]+)-(?P<part>\d+)", has_products=True)
        cell = judge_cell(tmp_path, bundles, pattern, "cell-7.png").record
        assert (cell.product, cell.part_id, cell.bundle) == ("cell", "7", "stpm.kdx")
        assert cell.image_sha256 == sha256_file(CELL)
        assert cell.score is not None
        for name in ("nut-7.png", "7.png"):
            other = judge_cell(tmp_path, bundles, pattern, name).record
            assert (other.verdict, other.reason, other.bundle) == ("undecided", "no_bundle", None)


def test_a_file_that_names_no_view_of_a_part_is_not_judged(bundle, tmp_path):
    pattern = name_pattern(None, r"^(?P<part>\d+)?(-(?P<view>\w+))?", ["left", "right"])
    with Bundles({None: bundle}, OPTIONS) as bundles:
        assert judge_cell(tmp_path, bundles, pattern, "7-left.png").record.score is not None
        for name in ("7.png", "7-top.png", "-left.png", "7-LEFT.png"):
            record = judge_cell(tmp_path, bundles, pattern, name).record
            assert (record.verdict, record.reason, record.score) == ("undecided", "name", None)


@pytest.mark.parametrize(
    ("error", "reason"),
    [(BackendError("the runtime failed"), "backend_failed"), (ZeroDivisionError("a bug"), "unexpected_error")],
)
def test_a_backend_that_fails_decides_nothing(bundle, tmp_path, monkeypatch, error, reason):
    with Bundles({None: bundle}, OPTIONS) as bundles:

        def fail(*_: object) -> None:
            raise error

        monkeypatch.setattr(bundles.of(None).detector.backend, "run", fail)
        record = judge_cell(tmp_path, bundles).record
    assert (record.verdict, record.reason) == ("undecided", reason)
    assert str(error) in record.error["message"]


def test_a_file_that_ends_every_process_is_not_judged_for_ever(bundle, tmp_path, monkeypatch):
    with Bundles({None: bundle}, OPTIONS) as bundles:

        def end(*_: object) -> None:
            raise SystemExit  # as abruptly as a process can end in a test

        judge = Detector.__call__
        monkeypatch.setattr(Detector, "__call__", end)
        for _ in range(MOST_TRIES):
            with pytest.raises(SystemExit):
                judge_cell(tmp_path, bundles)
        record = judge_cell(tmp_path, bundles).record
        assert (record.verdict, record.reason) == ("undecided", "process_ended")
        monkeypatch.setattr(Detector, "__call__", judge)
        assert judge_cell(tmp_path, bundles, name="2.png").record.score is not None


def test_a_process_that_ends_in_order_does_not_count_against_the_file(tmp_path):
    for _ in range(MOST_TRIES + 2):
        in_hand = InHand(tmp_path)
        assert in_hand.begin("1.png", Identity(1, 1))
        in_hand.close()
    for _ in range(MOST_TRIES):
        assert InHand(tmp_path).begin("1.png", Identity(1, 1))  # the process is killed
        InHand(tmp_path).close()  # one that takes nothing in hand forgets nothing
    assert not InHand(tmp_path).begin("1.png", Identity(1, 1))


def test_a_frame_of_too_many_pixels_has_a_record_and_ends_nothing(bundle, tmp_path, monkeypatch):
    info = FrameInfo(camera="top", frame=7, time="2026-01-01T00:00:00.000000Z")
    (tmp_path / "7.png").write_bytes(encoded(info, np.asarray(Image.open(CELL)), compress=False))
    with Bundles({None: bundle}, OPTIONS) as bundles:
        monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 10)
        judge = Judge(tmp_path, bundles, NamePattern(), InHand(tmp_path), heat_maps=False, are_frames=True)
        record = judge("7.png", Identity.of((tmp_path / "7.png").stat())).record
    assert (record.verdict, record.camera, record.frame) == ("unreadable", "top", 7)
    assert "declares too many pixels" in record.error["message"]


def test_files_that_are_no_images_or_gone(bundle, tmp_path):
    with Bundles({None: bundle}, OPTIONS) as bundles:
        judge = Judge(tmp_path, bundles, NamePattern(), InHand(tmp_path), heat_maps=True)
        for name, content in (("empty.png", b""), ("text.png", b"no image")):
            (tmp_path / name).write_bytes(content)
            found = judge(name, Identity.of((tmp_path / name).stat()))
            assert (found.record.verdict, found.record.error["type"]) == ("unreadable", ImageError.__name__)
        assert judge("gone.png", Identity(1, 1)) is None
        assert judge("text.png", Identity(1, 1)) is None  # it is another file by now
        shutil.copy(CELL, tmp_path / "cell.png")
        picture = judge("cell.png", Identity.of((tmp_path / "cell.png").stat())).heat_map
    assert picture.startswith(b"\x89PNG")


def test_what_is_doubtful_about_images_is_said_once_while_they_are_judged(bundle, tmp_path):
    said: list[str] = []
    grey = Image.open(CELL).convert("L")
    blue = Image.merge("RGB", (grey, grey, Image.new("L", grey.size)))
    dark = Image.fromarray(np.asarray(grey).astype(np.uint16))  # 7 bits
    darker = Image.fromarray(np.asarray(dark) // 2)
    images = {"1.png": grey, "2.png": blue, "3.png": blue, "4.png": dark, "5.png": darker}
    with Bundles({None: bundle}, OPTIONS) as bundles:
        assert bundles.of(None).detector.input.channels == 1
        judge = Judge(tmp_path, bundles, NamePattern(), InHand(tmp_path), heat_maps=False, say=said.append)
        for name, image in images.items():
            image.save(tmp_path / name)
            assert judge(name, Identity.of((tmp_path / name).stat())).record.verdict
    assert len(said) == 2
    assert said[0].startswith("'2.png': colour is converted to grey")
    assert said[1].startswith("'4.png': 16-bit values of at most 7 bits")
