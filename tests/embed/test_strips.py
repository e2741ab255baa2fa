"""A detector of strips of real magnetic tiles, 128 × 512 pixels, which a window cuts from larger
frames: trained, exported, verified, and run in Python and C."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import kdx
from tests.conftest import BACKBONE
from tests.embed.build import DECISIONS, Detector
from tests.images import published_images
from tests.once import made_once

SIDE, CROP = 512, (0, 192, 512, 128)


@pytest.fixture(scope="module")
def strips(tmp_path_factory, cli) -> Path:
    frames = published_images("magnetic_tile", "train/good", 10, size=SIDE)

    def made(folder: Path) -> None:
        (folder / "frames").mkdir()
        for index, frame in enumerate(frames):
            frame.save(folder / "frames" / f"{index}.png")
        options = ("--backbone", BACKBONE, "--weights", "random", "--epochs", 1, "--batch-size", 2, "--workers", 0)
        window = ("--image-size", "128x512", "--crop", ",".join(map(str, CROP)), "--validation-fraction", 0.5)
        cli("train", folder / "frames", "-o", folder / "run", "--device", "cpu", *options, *window)
        cli("export", folder / "run", "-o", folder / "strip.kdx", "--max-batch", 1)
        cli("calibrate", folder / "strip.kdx", folder / "frames", "--false-reject-rate", 0.3)
        cli("verify", folder / "strip.kdx")

    return made_once(tmp_path_factory, "strips", made)


def test_strips_are_judged_in_c_as_in_python(library, strips):
    bundle = strips / "strip.kdx"
    mask = np.full((SIDE, SIDE), 255, np.uint8)
    mask[:250, :150] = 0
    with (
        kdx.load(bundle, backend="openvino", threads=1, precision="fp32") as expected,
        Detector(library, bundle, "fp32") as detector,
    ):
        takes = detector.takes
        assert (takes.height, takes.width, takes.map_height, takes.map_width) == (SIDE, SIDE, 128, 512)
        assert (takes.crop_left, takes.crop_top, takes.crop_width, takes.crop_height) == CROP
        frame = kdx.read_image(strips / "frames/0.png", expected.input)
        for roi in (None, mask):
            ours, anomaly_map = detector(frame, roi)
            theirs = expected(frame, roi=roi)
            assert ours.score == pytest.approx(theirs.score, rel=1e-5)
            assert DECISIONS[ours.decision] == theirs.decision.value
        threshold = float(np.quantile(anomaly_map, 0.999))
        count, regions = detector.regions(anomaly_map, threshold)
        theirs = kdx.Verdict(theirs.decision, theirs.score, theirs.threshold, anomaly_map, pixel_threshold=threshold)
        for ours, region in zip(regions, expected.regions(theirs), strict=False):
            assert (ours.left, ours.top, ours.peak_row) == (region.left, region.top, region.peak_row)
            assert CROP[1] <= ours.top < CROP[1] + CROP[3]
        assert count == len(expected.regions(theirs)) > 0


def test_what_lies_outside_of_the_window_changes_nothing(strips):
    with kdx.load(strips / "strip.kdx", backend="onnxruntime-cpu", threads=1) as detector:
        frame = kdx.read_image(strips / "frames/0.png", detector.input)
        changed = frame.copy()
        changed[: CROP[1]] = 255 - changed[: CROP[1]]
        first, second = detector(frame), detector(changed)
        assert first.score == second.score
        assert (first.anomaly_map == second.anomaly_map).all()
        changed = frame.copy()
        changed[CROP[1] + 50 : CROP[1] + 70, 250:280] = 255
        assert (detector(changed).anomaly_map != first.anomaly_map).any()
