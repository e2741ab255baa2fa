"""Regions of a map: analytic shapes, in pixels of the camera and in mm²."""

from __future__ import annotations

import json

import numpy as np
import pytest

import kdx
from kdx.decision.regions import find_regions
from kdx.errors import InputError, OptionError
from kdx.imaging.field_of_view import FieldOfView


def blank(height: int = 20, width: int = 30):
    return np.zeros((height, width), np.float32)


def test_a_rectangle_has_its_area_box_and_peak():
    anomaly_map = blank()
    anomaly_map[4:7, 10:15] = 0.6
    anomaly_map[5, 12] = 0.9
    (region,) = find_regions(anomaly_map, 0.5, (20, 30), pixel_size_um=50.0)
    assert (region.top, region.left, region.height, region.width) == (4, 10, 3, 5)
    assert region.area == 15
    assert region.area_mm2 == pytest.approx(15 * 0.05**2)
    assert region.peak == pytest.approx(0.9)
    assert (region.peak_row, region.peak_column) == (5.5, 12.5)


@pytest.mark.parametrize(("threshold", "count"), [(0.8, 1), (float(np.float32(0.8)), 0), (0.9, 0)])
def test_a_map_is_compared_with_the_threshold_as_a_score_is(threshold, count):
    anomaly_map = blank()
    anomaly_map[4:7, 10:15] = 0.8  # the nearest float32 is above 0.8
    assert (float(anomaly_map.max()) > threshold) == bool(count)
    assert len(find_regions(anomaly_map, threshold, (20, 30))) == count


def test_the_cameras_pixels_count():
    # A map of 20 × 30 over the middle 80 % of an image of 200 × 600.
    anomaly_map = blank()
    anomaly_map[0, 0] = 1.0
    (region,) = find_regions(anomaly_map, 0.5, (200, 600), view=FieldOfView(0.8))
    assert (region.top, region.left) == pytest.approx((20, 60))
    assert (region.height, region.width) == pytest.approx((8, 16))
    assert region.area == pytest.approx(128)
    assert region.area_mm2 is None


def test_diagonal_neighbours_belong_together_and_others_do_not():
    scratch = blank()
    for i in range(12):
        scratch[i, i] = 1.0
    assert len(find_regions(scratch, 0.5, (20, 30))) == 1
    scratch[5, 5] = 0.0
    assert len(find_regions(scratch, 0.5, (20, 30))) == 2


def test_the_threshold_itself_belongs_to_no_region():
    anomaly_map = np.full((20, 30), 0.5, np.float32)
    assert find_regions(anomaly_map, 0.5, (20, 30)) == []
    (whole,) = find_regions(anomaly_map, 0.4, (20, 30))
    assert whole.area == 600


def test_the_highest_comes_first_and_small_ones_are_left_out():
    anomaly_map = blank()
    anomaly_map[0:4, 0:4], anomaly_map[10, 10], anomaly_map[15:17, 20:22] = 0.6, 0.9, 0.8
    assert [region.area for region in find_regions(anomaly_map, 0.5, (20, 30))] == [1, 4, 16]
    assert [region.area for region in find_regions(anomaly_map, 0.5, (20, 30), min_area=4)] == [4, 16]


@pytest.mark.parametrize("wrong", [{"min_area": -1.0}, {"min_area": float("nan")}, {"pixel_size_um": 0.0}])
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(OptionError):
        find_regions(blank(), 0.5, (20, 30), **wrong)


def test_regions_of_a_real_verdict(cli, tiny_bundle, raw_bundle, dataset, frame, tmp_path):
    scratch = next((dataset / "test/scratch").iterdir())
    with kdx.load(tiny_bundle, backend="onnxruntime-cpu") as detector:
        verdict = detector(kdx.read_image(scratch, detector.input))
        regions = detector.regions(verdict)
        hot = float((verdict.anomaly_map > verdict.pixel_threshold).sum())
    scale = frame.shape[0] * frame.shape[1] / verdict.anomaly_map.size
    assert sum(region.area for region in regions) == pytest.approx(hot * scale)
    (record,) = cli("predict", tiny_bundle, scratch, "--backend", "onnxruntime-cpu", "--json", "--regions",
                    "--min-area", 2, "--pixel-size-um", 10).lines  # fmt: skip
    kept = [region for region in regions if region.area >= 2]
    assert [found["area"] for found in record["regions"]] == pytest.approx([region.area for region in kept])
    assert all(found["area_mm2"] == pytest.approx(found["area"] * 1e-4) for found in record["regions"])
    assert "regions" not in cli("predict", tiny_bundle, scratch, "--json").lines[0]
    assert "--regions" in cli("predict", tiny_bundle, scratch, "--min-area", 2, code=2).stderr
    with (
        kdx.load(raw_bundle, backend="onnxruntime-cpu") as detector,
        pytest.raises(InputError, match="pixel threshold"),
    ):
        detector.regions(detector(frame))
    json.dumps(record)
