"""Calibrating a bundle on a folder of good images."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from kdx.bundle.keys import make_keys, private_key
from kdx.bundle.manifest import SIGNATURE
from kdx.bundle.open import open_bundle
from kdx.bundle.signing import sign_bundle
from kdx.calibration.by_hand import GivenThreshold
from kdx.errors import BundleError, DataError, ImageError, OutputError
from kdx.workflows.calibrate import CalibrationRequest, calibrate_folder
from kdx.workflows.calibration_text import describe_calibrations
from tests.kdx.workflows.test_calibration_images import leave_out
from tests.platforms import needs_links


def test_thresholds_are_stored_and_a_signature_that_is_removed_is_reported(bundle_copy, cells, tmp_path):
    secret, _, _ = make_keys(tmp_path / "line")
    sign_bundle(bundle_copy, private_key(secret, lambda: ""))
    first = calibrate_folder(bundle_copy, cells, CalibrationRequest(0.1))
    assert first.signature_removed
    assert not (bundle_copy / SIGNATURE).exists()
    assert open_bundle(bundle_copy).manifest.threshold == first.exact.threshold
    assert not calibrate_folder(bundle_copy, cells, CalibrationRequest(0.1)).signature_removed


def test_remarks_on_the_folder_and_on_its_images_are_returned(bundle_copy, cells, tmp_path):
    folder = shutil.copytree(cells, tmp_path / "cells")
    shutil.copy(folder / "00.png", folder / "copy.png")
    (folder / "notes.txt").write_text("no image", encoding="utf-8")
    kinds = {each.kind for each in calibrate_folder(bundle_copy, folder, CalibrationRequest(0.1)).remarks}
    assert "copies" in kinds


def test_a_folder_that_is_no_bundle_is_refused(tmp_path, cells):
    with pytest.raises(BundleError):
        calibrate_folder(tmp_path, cells, CalibrationRequest())


def test_a_threshold_of_one_image_says_that_nothing_bounds_it(bundle_copy, cells, tmp_path, cli):
    copies = tmp_path / "copies"
    copies.mkdir()
    for index in range(3):  # copies count once, and are named where they leave too few
        shutil.copy(cells / "00.png", copies / f"{index}.png")
    refused = cli("calibrate", bundle_copy, copies, "--false-reject-rate", 0.1, "--json", code=2).json["error"]
    assert refused["received"] == "1 held-out good image (2 copies do not count)"
    said = cli("calibrate", bundle_copy, copies, "--false-reject-rate", 0.5, "--backend", "onnxruntime-cpu").stdout
    assert "95 % interval bounded on neither side, from 1 held-out good image (" in said
    assert "1 good image cannot bound it from above; for 50 % it takes about 6" in said
    assert "(bounded on neither side) for 50 % false rejects, 1 good image," in cli("inspect", bundle_copy).stdout


def test_what_becomes_of_frames_beyond_the_limits_is_said(bundle_copy, cells, cli):
    said = cli("calibrate", bundle_copy, cells, "--false-reject-rate", 0.1, "--backend", "onnxruntime-cpu").stdout
    assert "others are never good: defective above the threshold, else undecided" in said


@pytest.mark.parametrize(
    "request_",
    [
        CalibrationRequest(0.01),
        CalibrationRequest(0.5, per_position=True),
        CalibrationRequest(by_hand=GivenThreshold(0.4, None, "as on line 2")),
    ],
)
def test_images_without_a_part_are_named_where_too_few_are_left(bundle_copy, tmp_path, request_):
    folder = tmp_path / "parts"
    folder.mkdir()
    for number in range(10):
        image = Image.new("L", (64, 64))
        image.putpixel((number, 0), 1)  # ten different images
        image.save(folder / f"lamp-off{number}.png")
    with pytest.raises(DataError) as caught:
        calibrate_folder(bundle_copy, folder, replace(request_, backend="onnxruntime-cpu"))
    assert re.search(r"(10|5) show no part: '.*lamp-off\d\.png' is black", caught.value.received)


@needs_links
@pytest.mark.parametrize("per_position", [False, True])
def test_a_file_that_cannot_be_read_counts_as_a_bad_image(bundle_copy, cells, tmp_path, per_position):
    folder = shutil.copytree(cells, tmp_path / "cells")
    (folder / "gone.png").symlink_to("nowhere.png")
    request = CalibrationRequest(0.2, backend="onnxruntime-cpu", per_position=per_position)
    with pytest.raises(ImageError, match=r"gone\.png' is a symbolic link to 'nowhere\.png', which does not exist"):
        calibrate_folder(bundle_copy, folder, request)
    found = calibrate_folder(bundle_copy, folder, replace(request, max_bad_images=1))
    assert list(found.exact.bad_images) == [str(folder / "gone.png")]
    whole = calibrate_folder(bundle_copy, cells, request).exact.threshold
    assert (found.exact.threshold.score, found.exact.threshold.data_sha256) == (whole.score, whole.data_sha256)


def test_what_a_calibration_does_not_keep_is_named(bundle_copy, cells):
    request = CalibrationRequest(0.2, per_position=True)
    assert calibrate_folder(bundle_copy, cells, replace(request, review_rate=0.4)).removed == []
    found = calibrate_folder(bundle_copy, cells, request)
    assert found.removed == found.as_record()["removed"] == ["review_band"]
    assert "the review band was removed" in [line.label for line in describe_calibrations(found)]
    found = calibrate_folder(bundle_copy, cells, CalibrationRequest(0.2))
    assert found.removed == ["level_map"]
    assert "the level map was removed" in [line.label for line in describe_calibrations(found)]
    assert calibrate_folder(bundle_copy, cells, CalibrationRequest(0.2)).removed == []


@pytest.mark.parametrize("per_position", [True, False])
def test_a_folder_around_the_bundle_that_cannot_be_written_is_said_first(bundle_copy, cells, monkeypatch, per_position):
    request = CalibrationRequest(0.2, backend="onnxruntime-cpu", per_position=True)
    if not per_position:  # then the level map of an earlier calibration is taken away
        calibrate_folder(bundle_copy, cells, request)
    access, around = os.access, bundle_copy.parent
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != around and access(path, mode))
    monkeypatch.setattr("kdx.workflows.calibrate.calibrate_each", lambda *_, **__: pytest.fail("images were scored"))
    with pytest.raises(OutputError, match=f"'{re.escape(str(around))}' cannot be written"):
        calibrate_folder(bundle_copy, cells, replace(request, per_position=per_position))


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_what_is_left_out_is_said_where_a_calibration_fails_too(bundle_copy, cells, cli, tmp_path, form):
    parts = Path(shutil.copytree(cells, tmp_path / "parts"))
    leave_out(bundle_copy, parts / "00.png")  # as odd, by the training
    shutil.copy(parts / "01.png", parts / "01_mask.png")
    options = (bundle_copy, parts, "--backend", "onnxruntime-cpu", *form)
    said = ("1 good image was left out of the calibration", "01_mask.png")
    failed = cli("calibrate", *options, "--false-reject-rate", 0.001, code=2)
    assert [failed.stderr.count(text) for text in said] == [1, 1]
    found = cli("calibrate", *options, "--false-reject-rate", 0.2)
    assert [found.stderr.count(text) for text in said] == ([0, 0] if form else [1, 1])
    if form:
        assert {"left_out_of_training", "mask"} <= {each["kind"] for each in found.json["remarks"]}
