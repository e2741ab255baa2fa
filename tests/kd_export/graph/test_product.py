from __future__ import annotations

import numpy as np
import pytest
import torch

from kd_export.graph import Combine, MapSpec, Tap
from kd_export.graph.product import AxisFactors, product_factors
from kd_export.graph.tail import AnomalyMap
from kdx.imaging.resampling import bilinear_matrix, gaussian_matrix
from tests import reference

# The largest difference of matrix products in float64 from each other, on maps of order one.
EXACT = 1e-14
# The largest difference in float32, relative to the map's largest value. No weight and no distance
# is negative, so that rounding errors are never enlarged by cancellation.
TOLERANCE = 1e-6


def axis(length: int, cells: tuple[int, ...], sigma: float) -> AxisFactors:
    blur = gaussian_matrix(length, sigma) if sigma else None
    return AxisFactors([bilinear_matrix(each, length) for each in cells], blur)


def multiplied(rows: AxisFactors, columns: AxisFactors, maps: list[np.ndarray]) -> np.ndarray:
    parts = [row @ m @ column.T for row, m, column in zip(rows.before, maps, columns.before, strict=True)]
    product = np.prod(parts, axis=0)
    return product if rows.after is None or columns.after is None else rows.after @ product @ columns.after.T


@pytest.mark.parametrize(
    ("size", "cells"),
    [
        ((160, 160), ((10, 10), (5, 5))),
        ((160, 96), ((20, 12), (10, 6))),
        ((96, 130), ((7, 9), (4, 5))),  # sizes that are no multiples of the strides
        ((96, 130), ((7, 9), (7, 9))),
        ((64, 64), ((3, 3),)),
        ((128, 128), ((5, 5), (3, 3), (1, 1))),
    ],
)
def test_fewer_multiplications_give_the_same_product(size, cells) -> None:
    rows, columns = (axis(size[i], tuple(each[i] for each in cells), 2.5) for i in range(2))
    fewer = product_factors(rows, columns)
    assert fewer[0].after.shape[1] < size[0]
    assert fewer[1].after.shape[1] < size[1]
    random = np.random.default_rng(0)
    maps = [random.random(each) for each in cells]
    np.testing.assert_allclose(multiplied(*fewer, maps), multiplied(rows, columns, maps), rtol=0, atol=EXACT)


@pytest.mark.parametrize(("length", "cells", "sigma"), [(256, (64, 32, 16), 4.0), (160, (10, 5), 0.0)])
def test_matrices_stay_where_others_would_take_as_many_multiplications(length, cells, sigma) -> None:
    factors = axis(length, cells, sigma)
    assert product_factors(factors, factors) == (factors, factors)


@pytest.mark.parametrize("seed", range(3))
def test_a_map_of_two_taps_agrees_with_the_reference_in_float32(seed: int) -> None:
    shapes, size = [(112, 10, 8), (192, 5, 4)], (160, 128)
    generator = torch.Generator().manual_seed(seed)
    teachers, students = ([torch.randn(1, *s, generator=generator) for s in shapes] for _ in range(2))
    # Distances of a trained pair: small, with one defect.
    pairs = [(t, t + 0.05 * s) for t, s in zip(teachers, students, strict=True)]
    pairs[0][1][:, :, 3, 2] *= -1
    module = AnomalyMap(MapSpec((Tap("a"), Tap("b")), Combine.PRODUCT, blur_sigma=2.5), shapes, size)
    ours = module(pairs)[0].numpy()
    theirs = reference.anomaly_map(
        [(t[0].double().numpy(), s[0].double().numpy()) for t, s in pairs], size, product=True, sigma=2.5
    )
    assert np.abs(ours - theirs).max() <= TOLERANCE * theirs.max()
