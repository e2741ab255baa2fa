"""Products with constant matrices whose rows use a few neighbouring columns each.

An antialiased reduction from 1280 to 160 pixels uses 16 pixels for each result, and a Gaussian blur
of 256 pixels 33: most multiplications of a product with such a matrix are by zero. There are two
ways to leave them out, and each axis takes the one that :func:`cheapest` expects to be faster:

:class:`Bands`
    The axis is cut into blocks of equal length, each of which contributes to a few results:
    ``A = S · blockdiag(B₁ ... B_K)``, where ``S`` adds up the results to which two blocks
    contribute. Nothing is copied, so it suits large images that become small ones.

:class:`Windows`
    The results are cut into blocks of equal length, each of which uses a window of the axis:
    ``A = blockdiag(B₁ ... B_K) · G``, where ``G`` copies the windows, which overlap. Nothing is
    added up, so it suits images that keep about their size.

From 1024 × 1280 to 160², bands on both axes take 1.6 ms on one thread and whole matrices 5, in
OpenVINO and ONNX Runtime; from 320² to 256², windows take 0.8 ms and bands 1.7 (OpenVINO), or 0.4
and 2.0 (ONNX Runtime).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdx.imaging.resampling import Matrix

# A product with fewer rows than a vector unit handles at once takes as long as one with this many.
_ROWS_AT_ONCE = 8
# The multiplications of a large product that take as long as to copy a value, or to transpose one,
# on one thread of a CPU with AVX2 (OpenVINO: 39 multiplications, 2 to 5 copies and 0.6
# transpositions in a nanosecond).
_COPY, _TRANSPOSE = 16, 60
# So many more take as long as the further operations of windows.
_OPERATIONS = 400_000
# A matrix is divided only where this share of its time is left: CPUs differ.
_WORTHWHILE = 0.9


class Bands(NamedTuple):
    """A matrix ``(out, in)`` as the product of a sum and of blocks along the diagonal.

    Attributes:
        blocks: The blocks, ``(K, q, in / K)``.
        total: The sum, of zeros and ones: ``(out, K · q)``.
    """

    blocks: NDArray[np.float64]
    total: NDArray[np.float64]


class Windows(NamedTuple):
    """A matrix ``(out, in)`` as the product of blocks along the diagonal and of a selection.

    Attributes:
        blocks: The blocks, ``(K, out / K, L)``.
        selected: The positions of the axis in each window, one window after the other:
            ``(K · L,)``.
    """

    blocks: NDArray[np.float64]
    selected: NDArray[np.int64]


def cheapest(matrix: Matrix, before: int, after: int) -> Bands | Windows:
    """Return the division of a matrix that should take the least time in a :class:`BandedResize`.

    Args:
        matrix: The matrix, ``(out, in)``.
        before: The length of the other axis when the blocks are applied.
        after: The length of the other axis when their results are added up.
    """
    bands, windows = bands_of(matrix), windows_of(matrix)
    return bands if _bands_cost(bands, before, after) < _windows_cost(windows) * before else windows


def bands_of(matrix: Matrix) -> Bands:
    """Return the bands of a matrix that take the fewest multiplications."""
    return min((_bands(matrix, count) for count in _divisors(matrix.shape[1])), key=_bands_cost)


def windows_of(matrix: Matrix) -> Windows:
    """Return the windows of a matrix that take the least time."""
    return min((_windows(matrix, count) for count in _divisors(matrix.shape[0])), key=_windows_cost)


def are_worthwhile(windows: Windows, shape: tuple[int, int], others: int) -> bool:
    """Return whether windows take less time than their matrix.

    Args:
        windows: The windows of the matrix.
        shape: The shape of the matrix.
        others: The length of the other axis.
    """
    # Runtimes fuse a transposition into the product with a whole matrix, but not into a copy. There
    # is one between the two axes.
    divided = (_windows_cost(windows) + _TRANSPOSE * shape[1] / 2) * others + _OPERATIONS
    return divided < _WORTHWHILE * shape[0] * shape[1] * others


def _divisors(length: int) -> list[int]:
    return [count for count in range(1, length + 1) if length % count == 0]


def _bands(matrix: Matrix, count: int) -> Bands:
    out, length = matrix.shape[0], matrix.shape[1] // count
    parts = matrix.reshape(out, count, length)
    spans = [_span(np.flatnonzero(parts[:, block].any(axis=1))) for block in range(count)]
    height = max(end - start for start, end in spans)
    blocks, total = np.zeros((count, height, length)), np.zeros((out, count, height))
    for block, (start, end) in enumerate(spans):
        blocks[block, : end - start] = parts[start:end, block]
        total[np.arange(start, end), block, np.arange(end - start)] = 1.0
    return Bands(blocks, total.reshape(out, -1))


def _windows(matrix: Matrix, count: int) -> Windows:
    out, length = matrix.shape
    parts = matrix.reshape(count, out // count, length)
    spans = [_span(np.flatnonzero(part.any(axis=0))) for part in parts]
    width = max(end - start for start, end in spans)
    starts = [min(start, length - width) for start, _ in spans]
    blocks = np.stack([part[:, start : start + width] for part, start in zip(parts, starts, strict=True)])
    return Windows(blocks, np.concatenate([np.arange(start, start + width) for start in starts]))


def _span(used: NDArray[np.intp]) -> tuple[int, int]:
    """Return the first of increasing indices, and the one after the last; zeros without any."""
    return (int(used[0]), int(used[-1]) + 1) if used.size else (0, 0)


def _multiplications(blocks: NDArray[np.float64]) -> int:
    """Return the multiplications of blocks for each element of the other axis."""
    count, height, length = blocks.shape
    return int(count * length * max(height, _ROWS_AT_ONCE))


def _bands_cost(bands: Bands, before: int = 1, after: int = 1) -> int:
    return _multiplications(bands.blocks) * before + int(bands.total.size) * after


def _windows_cost(windows: Windows) -> int:
    """Return the time of windows for each element of the other axis, without a transposition."""
    return _multiplications(windows.blocks) + _COPY * len(windows.selected)


class BandedAxis(nn.Module):
    """The blocks of a matrix, applied to the vertical axis of images.

    Args:
        matrix: The matrix, divided.

    Attributes:
        height: The number of rows that :meth:`forward` gives.
        total: What still has to be multiplied with these rows, ``(out, height)``; None for windows.
    """

    blocks: Tensor
    selected: Tensor | None
    total: Tensor | None

    def __init__(self, matrix: Bands | Windows) -> None:
        super().__init__()
        selected = torch.tensor(matrix.selected) if isinstance(matrix, Windows) else None
        total = torch.tensor(matrix.total, dtype=torch.float32) if isinstance(matrix, Bands) else None
        self.register_buffer("blocks", torch.tensor(matrix.blocks, dtype=torch.float32))
        self.register_buffer("selected", selected)
        self.register_buffer("total", total)
        self.height = self.blocks.shape[0] * self.blocks.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        """Take ``(N, in, others)`` and return ``(N, height, others)``."""
        (count, _, length), others = self.blocks.shape, x.shape[2]
        if self.selected is not None:
            x = x.index_select(1, self.selected)
        return (self.blocks @ x.reshape(-1, count, length, others)).reshape(-1, self.height, others)


class BandedResize(nn.Module):
    """``A_h X A_wᵀ`` for every channel of images with the channels last.

    The height comes first, because channels that lie beside each other need not be separated for
    it. The sums of bands come last, when the image is small.

    Args:
        rows: ``A_h``, divided.
        columns: ``A_w``, divided.
        channels: The number of channels.
    """

    def __init__(self, rows: Bands | Windows, columns: Bands | Windows, channels: int) -> None:
        super().__init__()
        self.rows, self.columns, self.channels = BandedAxis(rows), BandedAxis(columns), channels

    def forward(self, image: Tensor) -> Tensor:
        """Take ``(N, H, W, C)`` and return ``(N, C, h, w)``."""
        height, width = image.shape[1:3]
        # Runtimes transpose a matrix faster than they reverse the axes of images.
        x = self.rows(image.reshape(-1, height, width * self.channels)).mT
        x = self.columns(x.reshape(-1, width, self.channels * self.rows.height))
        if self.columns.total is not None:
            x = self.columns.total @ x
        x = x.reshape(-1, x.shape[1], self.channels, self.rows.height).permute(0, 2, 3, 1)
        resized: Tensor = x if self.rows.total is None else self.rows.total @ x
        return resized
