from __future__ import annotations

import numpy as np
import pytest
import torch

from kd_export.graph.banded import BandedResize, Bands, Windows, bands_of, cheapest, windows_of
from kdx.imaging.resampling import antialias_matrix

# Values reach 255; sums of float32 against float64.
TOLERANCE = 1e-4


def whole(divided: Bands | Windows, length: int) -> np.ndarray:
    """Return the matrix that was divided."""
    count, height, part = divided.blocks.shape
    diagonal = np.zeros((count, height, count, part))
    diagonal[np.arange(count), :, np.arange(count)] = divided.blocks
    blocks = diagonal.reshape(count * height, count * part)
    return divided.total @ blocks if isinstance(divided, Bands) else blocks @ np.eye(length)[divided.selected]


@pytest.mark.parametrize(
    ("length", "out", "kept"),
    [
        (1280, 160, slice(None)),
        (494, 160, slice(None)),
        (97, 32, slice(None)),
        (160, 159, slice(None)),
        (48, 160, slice(None)),
        (5, 1, slice(None)),
        (1280, 160, slice(60, 80)),  # a crop: blocks at either end contribute to nothing
    ],
)
def test_what_a_matrix_is_divided_into_is_the_matrix(length: int, out: int, kept: slice) -> None:
    matrix = antialias_matrix(length, out)[kept]
    for divided in (bands_of(matrix), windows_of(matrix)):
        np.testing.assert_array_equal(whole(divided, length), matrix)


def test_images_that_keep_their_size_are_divided_into_windows() -> None:
    assert isinstance(cheapest(antialias_matrix(320, 256), 320, 256), Windows)
    assert isinstance(cheapest(antialias_matrix(1024, 160), 1280, 160), Bands)


def test_a_large_reduction_takes_a_fraction_of_the_multiplications() -> None:
    matrix = antialias_matrix(1280, 160)
    blocks, total = cheapest(matrix, 1024, 160)
    assert blocks.size + total.size < matrix.size / 4


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("divide_rows", [bands_of, windows_of])
@pytest.mark.parametrize("divide_columns", [bands_of, windows_of])
@pytest.mark.parametrize(("size", "out"), [((120, 96), (40, 32)), ((61, 90), (24, 30)), ((20, 16), (40, 32))])
def test_images_are_multiplied_along_both_axes(channels, divide_rows, divide_columns, size, out) -> None:
    image = np.random.default_rng(0).integers(0, 256, (2, *size, channels)).astype(np.float32)
    rows, columns = (antialias_matrix(before, after) for before, after in zip(size, out, strict=True))
    ours = BandedResize(divide_rows(rows), divide_columns(columns), channels)(torch.from_numpy(image)).numpy()
    theirs = np.einsum("yh,nhwc,xw->ncyx", rows, image, columns, optimize=True)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)
