from __future__ import annotations

import math

import numpy as np
import pytest

from kd_train.evaluation.metrics import auroc, overlap_curve, per_region_overlap
from kd_train.models.torch_vision import import_timm


def square(size: int, y: int, x: int, side: int) -> np.ndarray:
    mask = np.zeros((size, size), dtype=bool)
    mask[y : y + side, x : x + side] = True
    return mask


def test_auroc_counts_pairs_in_the_right_order() -> None:
    # Of the 2 × 2 pairs of a good and a defective image, 3 are in order.
    assert auroc(np.array([False, True, False, True]), np.array([0.1, 0.2, 0.3, 0.4])) == pytest.approx(0.75)


def test_auroc_of_one_class_is_not_a_number() -> None:
    assert math.isnan(auroc(np.array([False, False]), np.array([0.1, 0.2])))


def test_a_map_that_is_the_mask_has_perfect_overlap() -> None:
    mask = square(20, 3, 4, 5)
    assert per_region_overlap([mask], [mask.astype(np.float32)]) == pytest.approx(1.0)


def test_a_constant_map_has_the_overlap_of_chance() -> None:
    # One threshold: nothing, then everything. The curve is the diagonal; its area up to 0.3 over
    # 0.3 is 0.15.
    mask = square(20, 3, 4, 5)
    assert per_region_overlap([mask], [np.ones((20, 20), dtype=np.float32)]) == pytest.approx(0.15)


def test_every_region_counts_the_same_whatever_its_size() -> None:
    # A region of 100 pixels is found at once, one of 4 pixels never before every good pixel: mean
    # overlap one half.
    mask = square(40, 0, 0, 10) | square(40, 30, 30, 2)
    values = np.full((40, 40), 1.0, dtype=np.float32) + np.arange(1600, dtype=np.float32).reshape(40, 40) * 1e-3
    values[:10, :10] = 100.0
    values[30:32, 30:32] = 0.0
    assert per_region_overlap([mask], [values]) == pytest.approx(0.5)


def test_diagonal_pixels_are_one_region() -> None:
    # A diagonal of 3 pixels, never found, and a single pixel, found at once: half. Were the
    # diagonal three regions, a quarter.
    mask = np.zeros((30, 30), dtype=bool)
    mask[5, 5] = mask[6, 6] = mask[7, 7] = mask[20, 20] = True
    values = np.arange(900, dtype=np.float32).reshape(30, 30)
    values[5, 5] = values[6, 6] = values[7, 7] = -1.0
    values[20, 20] = 1e6
    assert per_region_overlap([mask], [values]) == pytest.approx(0.5)


def test_overlap_follows_a_ramp_by_hand() -> None:
    # 4 good and 2 defective pixels in falling order: D G D G G G. Points (0, ½) (¼, ½) (¼, 1) ...;
    # up to 0.5: ¼ · ½ + ¼ · 1 = 0.375, normalised 0.75.
    mask = np.array([[True, False, True, False, False, False]])
    mask_2d = np.vstack([mask, np.zeros_like(mask)])
    values = np.array([[6, 5, 4, 3, 2, 1]], dtype=np.float32)
    values_2d = np.vstack([values, np.full_like(values, -1)])
    # The second row's 6 good pixels come last, so the rates scale by 4 / 10.
    assert per_region_overlap([mask_2d], [values_2d], max_false_positive_rate=0.2) == pytest.approx(0.75)


@pytest.mark.parametrize("tied", [False, True])
def test_overlap_that_begins_at_the_end_of_the_integral_is_none(tied) -> None:
    """Three of ten good pixels score above the defect: below 30 % of them, no defect is found."""
    mask = np.zeros((1, 11), bool)
    mask[0, 3] = True
    scores = np.array([[9, 8, 7, 6, 5, 4, 3, 2, 1, 0.5, 0.1]], np.float32)
    if tied:
        scores[0, :3] = 9
    assert per_region_overlap([mask], [scores]) == 0
    scores[0, 3] = 8.5 if not tied else 9.5  # above two of the three, or above all good ones
    assert per_region_overlap([mask], [scores]) == pytest.approx(1.0 if tied else 2 / 3)


def test_the_overlap_curve_has_a_point_for_each_value() -> None:
    # D G D G, and a second region of one pixel that comes last: means over two regions.
    mask = np.array([[True, False, False, False, True]])
    curve = overlap_curve([mask], [np.array([[5, 4, 4, 3, 1]], dtype=np.float32)])
    assert curve is not None
    assert curve[0].tolist() == pytest.approx([0, 0, 2 / 3, 1, 1])
    assert curve[1].tolist() == pytest.approx([0, 0.5, 0.5, 0.5, 1])


def test_overlap_needs_a_region_and_a_good_pixel() -> None:
    nothing, everything = np.zeros((4, 4), dtype=bool), np.ones((4, 4), dtype=bool)
    assert math.isnan(per_region_overlap([nothing], [np.zeros((4, 4), dtype=np.float32)]))
    assert math.isnan(per_region_overlap([everything], [np.zeros((4, 4), dtype=np.float32)]))


def test_overlap_agrees_with_anomalib() -> None:
    import_timm()  # anomalib imports torchvision, which may need kdx's help beside a CPU-only torch
    aupro = pytest.importorskip("anomalib.metrics.aupro", reason="anomalib is not installed (a peer, not a dependency)")
    import torch

    generator = np.random.default_rng(0)
    masks = [square(64, 5, 5, 12) | square(64, 40, 30, 7), square(64, 20, 44, 9), np.zeros((64, 64), dtype=bool)]
    maps = [(generator.random((64, 64)) + 0.6 * mask).astype(np.float32) for mask in masks]
    metric = aupro._AUPRO(fpr_limit=0.3)
    metric.update(torch.from_numpy(np.stack(maps)), torch.from_numpy(np.stack(masks)).int())
    # anomalib thins its curve.
    assert per_region_overlap(masks, maps) == pytest.approx(float(metric.compute()), abs=2e-3)
