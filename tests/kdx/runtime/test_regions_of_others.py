"""A region of interest is of one detector: of its images, its maps and its scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import kdx
from kdx.decision.verdict import Decision
from kdx.errors import InputError
from kdx.imaging.field_of_view import FieldOfView
from tests.schema1 import FIXTURES, old_bundle

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


@pytest.fixture
def detector(tmp_path):
    with kdx.load(old_bundle("stpm", tmp_path), "onnxruntime-cpu") as detector:
        yield detector


@pytest.fixture
def frame(detector):
    return kdx.read_image(FIXTURES / "images/cell-0.png", detector.input)


def left(detector) -> np.ndarray:
    mask = np.zeros(detector.roi_frame.image_size, np.uint8)
    mask[:, : mask.shape[1] // 2] = 255
    return mask


OTHERS = {
    "score": {"rule": "sum"},
    "view": {"view": FieldOfView(0.5)},
    "map": {"map_size": (16, 16)},
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_region_of_another_detector_is_refused(detector, frame, other) -> None:
    region = replace(detector.roi_frame, **OTHERS[other]).roi(left(detector))
    for call in (
        lambda: detector(frame, roi=region),
        lambda: detector.region_of_interest(region),
        lambda: setattr(detector, "roi", region),
    ):
        with pytest.raises(InputError, match="of another detector"):
            call()
    assert detector.roi is None


def test_an_own_region_and_its_mask_say_the_same(detector, frame) -> None:
    region = detector.region_of_interest(left(detector))
    assert detector.region_of_interest(region) is region
    scores = {detector(frame, roi=given).score for given in (region, left(detector))}
    detector.roi = left(detector)
    verdict = detector(frame)
    assert {verdict.score} == scores
    assert verdict.decision is Decision.UNDECIDED  # the threshold is of the whole image


@pytest.mark.parametrize("given", ["roi.png", [1, 2], np.zeros((3, 3), np.uint8)])
def test_what_is_no_region_is_refused(detector, frame, given) -> None:
    with pytest.raises(InputError):
        detector.roi = given
    with pytest.raises(InputError):
        detector(frame, roi=given)
