from __future__ import annotations

import numpy as np
import pytest
import torch

from kd_export.graph.banded import BandedAxis
from kd_export.graph.separable import Separable, WholeAxis
from kdx.imaging.resampling import bilinear_matrix, gaussian_matrix


@pytest.mark.parametrize(
    ("size", "kinds"),
    [
        ((96, 160), (WholeAxis, WholeAxis)),
        ((256, 320), (BandedAxis, BandedAxis)),
        ((96, 320), (WholeAxis, BandedAxis)),
        ((320, 96), (BandedAxis, WholeAxis)),
    ],
)
def test_each_axis_of_a_blur_takes_what_is_faster(size: tuple[int, int], kinds: tuple[type, type]) -> None:
    maps = np.random.default_rng(0).random((2, *size), dtype=np.float32)
    rows, columns = (gaussian_matrix(length, 4.0) for length in size)
    blur = Separable(rows, columns)
    assert (type(blur.rows), type(blur.columns)) == kinds
    theirs = np.einsum("yh,nhw,xw->nyx", rows, maps, columns, optimize=True)
    # Values reach 1; sums of float32 against float64.
    for ours in (blur(torch.from_numpy(maps)), blur.of_transposed(torch.from_numpy(maps).mT)):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=1e-6)


def test_a_transposed_result_is_the_result_transposed() -> None:
    maps = np.random.default_rng(0).random((2, 8, 10), dtype=np.float32)
    rows, columns = bilinear_matrix(8, 64), bilinear_matrix(10, 40)
    ours = Separable(rows, columns).transposed(torch.from_numpy(maps)).numpy()
    np.testing.assert_allclose(ours, np.einsum("yh,nhw,xw->nxy", rows, maps, columns, optimize=True), rtol=0, atol=1e-6)
