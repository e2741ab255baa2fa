"""The constant matrices of ``kdx.imaging.resampling`` as the kernels read them, without zeros."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kdx.imaging.resampling import Matrix, bilinear_matrix, gaussian_matrix


def bilinear_tables(small: Sequence[int], large: int) -> tuple[Tensor, Tensor]:
    """Return where each pixel of an axis lies in each tap.

    Args:
        small: The axis' length in each tap.
        large: Its length in the map.

    Returns:
        int32 ``(taps, large)``, the lower neighbour; FP32 of the same shape, the weight of the one
        above it. Taken from the matrices rather than computed again, in FP32, on the GPU.
    """
    low = np.zeros((len(small), large), np.int32)
    fraction = np.zeros((len(small), large), np.float32)
    for tap, length in enumerate(small):
        matrix = bilinear_matrix(length, large)
        low[tap] = (matrix > 0).argmax(axis=1)
        fraction[tap] = 1.0 - matrix[np.arange(large), low[tap]]
    return torch.from_numpy(low), torch.from_numpy(fraction)


def blur_bands(length: int, sigma: float, tile: int, block: int) -> tuple[Tensor, Tensor, int]:
    """Return an axis' blur, tile by tile.

    Returns:
        FP32 ``(tiles · tile, reach)``, the rows of the matrix from each tile's first column that is
        not zero; int32 ``(tiles,)``, those columns; and the reach, in whole blocks. Rows beyond the
        axis are zero.
    """
    matrix = gaussian_matrix(length, sigma)
    starts = range(0, length, tile)
    ends = [_columns(matrix[start : start + tile]) for start in starts]
    reach = -(-max(last - first for first, last in ends) // block) * block
    bands = np.zeros((len(ends) * tile, reach), np.float32)
    for start, (first, last) in zip(starts, ends, strict=True):
        rows = matrix[start : start + tile, first:last]
        bands[start : start + len(rows), : last - first] = rows
    return torch.from_numpy(bands), torch.tensor([first for first, _ in ends], dtype=torch.int32), reach


def _columns(rows: Matrix) -> tuple[int, int]:
    """Return the first column that is not zero, and the one after the last."""
    used = np.flatnonzero(rows.any(axis=0))
    return int(used[0]), int(used[-1]) + 1
