from __future__ import annotations

import numpy as np
import pytest
import torch

from kd_export.graph.banded import BandedReduction, bands_of
from kdx.imaging.resampling import antialias_matrix

# Values reach 255; sums of float32 against float64.
TOLERANCE = 1e-4


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
def test_blocks_and_their_sum_are_the_matrix(length: int, out: int, kept: slice) -> None:
    matrix = antialias_matrix(length, out)[kept]
    blocks, total = bands_of(matrix)
    count, height, part = blocks.shape
    diagonal = np.zeros((count, height, count, part))
    diagonal[np.arange(count), :, np.arange(count)] = blocks
    np.testing.assert_array_equal(total @ diagonal.reshape(count * height, length), matrix)


def test_a_large_reduction_takes_a_fraction_of_the_multiplications() -> None:
    matrix = antialias_matrix(1280, 160)
    assert bands_of(matrix).multiplications < matrix.size / 4


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("size", "out"), [((120, 96), (40, 32)), ((61, 90), (24, 30)), ((20, 16), (40, 32))])
def test_images_are_multiplied_along_both_axes(channels: int, size: tuple[int, int], out: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (2, *size, channels)).astype(np.float32)
    rows, columns = (antialias_matrix(before, after) for before, after in zip(size, out, strict=True))
    ours = BandedReduction(bands_of(rows), bands_of(columns), channels)(torch.from_numpy(image)).numpy()
    theirs = np.einsum("yh,nhwc,xw->ncyx", rows, image, columns)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)
