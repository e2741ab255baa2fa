"""A separable linear operation on images: one constant matrix an axis."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdx.imaging.resampling import Matrix


class Separable(nn.Module):
    """``A_h X A_wᵀ`` for every image of a batch.

    The width comes first: most cameras' longer side, and so the smaller product where an image is
    reduced. Both constants are on the left: OpenVINO makes a fully connected layer of a product
    with a constant on the right, whose time differs from one process to the next, 1 to 73 µs for
    the two taps of a compact pair. Runtimes fuse transpositions into the products.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, rows: Matrix, columns: Matrix) -> None:
        super().__init__()
        self.register_buffer("rows", torch.tensor(rows, dtype=torch.float32))
        self.register_buffer("columns", torch.tensor(columns.copy(), dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """Take ``(..., h, w)`` and return ``(..., H, W)``."""
        return self.rows @ (self.columns @ x.mT).mT
