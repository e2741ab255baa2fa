"""Outlines of regions: COCO's own tools fill them with the pixels of the map."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import binary_fill_holes, label

from kdx.decision.map_files import MapPlace
from kdx.decision.outlines import outlines_of
from kdx.decision.regions import NEIGHBOURS, find_regions
from kdx.imaging.field_of_view import WHOLE, FieldOfView

STEP = 8  # pixels of the image per pixel of the map


@pytest.mark.parametrize("seed", range(8))
def test_the_polygons_fill_the_region_and_its_holes(seed):
    mask = pytest.importorskip("pycocotools.mask")
    anomaly_map = np.random.default_rng(seed).random((12, 20), np.float32)
    threshold = (0.3, 0.5, 0.7, 0.9)[seed % 4]
    height, width = 12 * STEP, 20 * STEP
    regions = find_regions(anomaly_map, threshold, (height, width))
    outlines = outlines_of(regions, anomaly_map, threshold, MapPlace(width, height, WHOLE))
    labels, count = label(anomaly_map > threshold, NEIGHBOURS)
    assert len(regions) == len(outlines) == count
    for region, polygons in zip(regions, outlines, strict=True):
        filled = mask.decode(mask.merge(mask.frPyObjects(polygons, height, width)))
        number = labels[int(region.peak_row) // STEP, int(region.peak_column) // STEP]
        # A gap at a corner opens a hole: the outside is connected there too.
        expected = binary_fill_holes(labels == number, NEIGHBOURS)
        np.testing.assert_array_equal(filled[STEP // 2 :: STEP, STEP // 2 :: STEP], expected)


def test_corners_lie_where_the_networks_see_the_image():
    values = np.zeros((4, 5), np.float32)
    values[1, 1], values[2, 2:4] = 0.9, 0.8  # they touch at a corner
    place = MapPlace(120, 60, FieldOfView(1.0, (20, 10, 50, 40)))
    (region,) = find_regions(values, 0.5, (60, 120), view=place.view)
    (polygons,) = outlines_of([region], values, 0.5, place)
    assert polygons == [[30, 20, 40, 20, 40, 30, 30, 30], [40, 30, 60, 30, 60, 40, 40, 40]]
    xs, ys = (np.concatenate([each[start::2] for each in polygons]) for start in (0, 1))
    assert (xs.min(), ys.min(), np.ptp(xs), np.ptp(ys)) == (region.left, region.top, region.width, region.height)
