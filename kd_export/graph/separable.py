"""A separable linear operation on images: one constant matrix an axis."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdx.imaging.resampling import Matrix


class Separable(nn.Module):
    """``A_h X A_wᵀ`` for every image of a batch.

    The width comes first: most cameras' longer side, and so the smaller product where an image is
    reduced.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, rows: Matrix, columns: Matrix) -> None:
        super().__init__()
        self.register_buffer("rows", torch.tensor(rows, dtype=torch.float32))
        self.register_buffer("columns", torch.tensor(columns.T.copy(), dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """Take ``(..., h, w)`` and return ``(..., H, W)``."""
        return self.rows @ (x @ self.columns)
