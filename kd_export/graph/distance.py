"""Distances between feature vectors, always in FP32: squaring in FP16 overflows above about 256."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor, nn

from kdx.bundle.pair_spec import Distance

# Keeps a zero vector finite. A sum of squares in FP32 is at least this, far above the smallest
# number and far below the square of any feature; in FP16 it would be zero, which is one reason why
# the tail is never FP16. Not an addition: PyTorch's exporter removes one of less than 1e-8 as if it
# were one of zero.
EPSILON = 1e-20


def unit_vectors(features: Tensor) -> Tensor:
    """Return ``features / max(‖features‖, 1e-10)`` of each position, computed in FP32."""
    exact = features.to(torch.float32)
    unit = exact * torch.rsqrt((exact * exact).sum(dim=1, keepdim=True).clamp_min(EPSILON))
    return unit.to(features.dtype)


class _PerPosition(nn.Module):
    """The common part of both distances: sums over the channels, and normalised vectors.

    A sum over channels is a 1 × 1 convolution with ones. ONNX Runtime's ReduceSum over a strided
    axis took 1.9 of 36 ms for STPM (ResNet-18, 256², 2 cores), this a tenth of it. The product of a
    vector of ones with the flattened features is as fast there, but makes runtimes that keep
    channels last or in blocks convert the layout of every feature: of OpenVINO's 15.6 ms for the
    INT8 graph that took 1.5 (FP32: 2 of 40).

    Args:
        channels: C of the features.
    """

    ones: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("ones", torch.ones(1, channels, 1, 1), persistent=False)

    def channel_sum(self, x: Tensor) -> Tensor:
        """Take ``(N, C, h, w)`` and return ``(N, 1, h, w)``."""
        return F.conv2d(x, self.ones)

    def normalise(self, features: Tensor) -> Tensor:
        """Return ``features / max(‖features‖, 1e-10)`` of each position, in FP32."""
        features = features.to(torch.float32)
        return features * torch.rsqrt(self.channel_sum(features * features).clamp_min(EPSILON))


class HalfSquaredL2(_PerPosition):
    """``½‖t̂ − ŝ‖²`` of the normalised vectors at each position (STPM Eq. 1), in [0, 2]."""

    def forward(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Take ``(N, C, h, w)`` twice and return ``(N, h, w)``."""
        difference = self.normalise(teacher) - self.normalise(student)
        return _as_map(0.5 * self.channel_sum(difference * difference))


class Cosine(_PerPosition):
    """``1 − cos(t, s)`` at each position; in [0, 2]."""

    def forward(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Take ``(N, C, h, w)`` twice and return ``(N, h, w)``."""
        return _as_map(1.0 - self.channel_sum(self.normalise(teacher) * self.normalise(student)))


def _as_map(distance: Tensor) -> Tensor:
    """Return ``(N, h, w)`` for ``(N, 1, h, w)``; OpenVINO may run ``squeeze`` in BF16."""
    return distance.reshape(-1, distance.shape[2], distance.shape[3])


def distance_module(distance: Distance, channels: int) -> nn.Module:
    """Return the module of a distance for features of a number of channels."""
    return {Distance.HALF_SQUARED_L2: HalfSquaredL2, Distance.COSINE: Cosine}[distance](channels)
