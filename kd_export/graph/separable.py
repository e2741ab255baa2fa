"""A separable linear operation on images: one constant matrix an axis."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kd_export.graph.banded import BandedAxis, are_worthwhile, windows_of
from kdx.imaging.resampling import Matrix


class WholeAxis(nn.Module):
    """A constant matrix ``(out, in)``, applied to the vertical axis of images.

    The constant is on the left: OpenVINO makes a fully connected layer of a product with a constant
    on the right, whose time differs from one process to the next, 1 to 73 µs for the two taps of a
    compact pair.
    """

    matrix: Tensor

    def __init__(self, matrix: Matrix) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.tensor(matrix, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """Take ``(N, in, others)`` and return ``(N, out, others)``."""
        return self.matrix @ x


class Separable(nn.Module):
    """``A_h X A_wᵀ`` for every image of a batch.

    Each axis takes the whole matrix or windows of it: windows halve the time of a Gaussian blur at
    320² on a CPU. Runtimes fuse transpositions into products with whole matrices. Windows cannot
    have them fused, so a sequence of two operations leaves one out: see :meth:`transposed`.

    Args:
        rows: ``A_h``, ``(H, h)``.
        columns: ``A_w``, ``(W, w)``.
    """

    def __init__(self, rows: Matrix, columns: Matrix) -> None:
        super().__init__()
        self.rows, self.columns = _axis(rows, columns.shape[1]), _axis(columns, rows.shape[1])

    def forward(self, x: Tensor) -> Tensor:
        """Take ``(N, h, w)`` and return ``(N, H, W)``."""
        # The width comes first: most cameras' longer side, and so the smaller product where an
        # image is reduced.
        return self.of_transposed(x.mT)

    def transposed(self, x: Tensor) -> Tensor:
        """Take ``(N, h, w)`` and return ``(N, W, H)``."""
        result: Tensor = self.columns(self.rows(x).mT)
        return result

    def of_transposed(self, x: Tensor) -> Tensor:
        """Take ``(N, w, h)`` and return ``(N, H, W)``."""
        result: Tensor = self.rows(self.columns(x).mT)
        return result


def _axis(matrix: Matrix, others: int) -> nn.Module:
    windows = windows_of(matrix)
    return BandedAxis(windows) if are_worthwhile(windows, matrix.shape, others) else WholeAxis(matrix)
