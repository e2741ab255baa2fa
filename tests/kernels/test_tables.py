"""What the kernels read is the constant matrices, without their zeros."""

from __future__ import annotations

import numpy as np
import pytest

from kdx.imaging.resampling import bilinear_matrix, gaussian_matrix
from kernels.tables import bilinear_tables, blur_bands


@pytest.mark.parametrize("large", [7, 37, 64])
def test_tables_are_the_bilinear_matrices(large) -> None:
    small = [1, 3, 16, 50]
    low, fraction = (table.numpy() for table in bilinear_tables(small, large))
    for tap, length in enumerate(small):
        rebuilt = np.zeros((large, length))
        rows = np.arange(large)
        np.add.at(rebuilt, (rows, low[tap]), 1.0 - fraction[tap])
        np.add.at(rebuilt, (rows, np.minimum(low[tap] + 1, length - 1)), fraction[tap])
        np.testing.assert_allclose(rebuilt, bilinear_matrix(length, large), atol=1e-7)


@pytest.mark.parametrize(("length", "sigma"), [(37, 1.5), (64, 4.0), (9, 6.0), (200, 9.0)])
def test_bands_are_the_blur(length, sigma) -> None:
    tile, block = 32, 64
    bands, first, reach = blur_bands(length, sigma, tile, block)
    assert reach % block == 0
    matrix = gaussian_matrix(length, sigma)
    assert bands.shape == (len(first) * tile, reach)
    rebuilt = np.zeros((len(bands), length + reach))
    for row, weights in enumerate(bands.numpy()):
        start = int(first[row // tile])
        rebuilt[row, start : start + reach] = weights
    np.testing.assert_allclose(rebuilt[:length, :length], matrix, atol=1e-7)
    assert not rebuilt[length:].any()
    assert not rebuilt[:, length:].any()
