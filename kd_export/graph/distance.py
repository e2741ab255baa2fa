"""Distances between feature vectors, always in FP32: squaring in FP16 overflows above about 256."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kd_export.graph.spec import Distance

# Keeps a zero vector finite. It is added to a sum of squares in FP32, where it is far above the smallest number and far
# below the square of any feature; in FP16 it would be zero, which is one reason why the tail is never FP16.
EPSILON = 1e-20


def unit_vectors(features: Tensor) -> Tensor:
    """Take ``(N, C, h, w)`` and return ``features / sqrt(‖features‖² + eps)`` of each position; computed in FP32."""
    exact = features.to(torch.float32)
    unit = exact * torch.rsqrt((exact * exact).sum(dim=1, keepdim=True) + EPSILON)
    return unit.to(features.dtype)


class _PerPosition(nn.Module):
    """What both distances share: sums over the channels, and normalised vectors.

    A sum over channels is the product with a vector of ones: ONNX Runtime's ReduceSum over a strided axis took 1.9 of
    36 ms for STPM (ResNet-18, 256², 2 cores), a matrix-vector product a tenth of it.

    Args:
        channels: C of the features.
    """

    ones: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("ones", torch.ones(1, channels), persistent=False)

    def channel_sum(self, x: Tensor) -> Tensor:
        """Take ``(N, C, P)`` and return ``(N, 1, P)``."""
        return self.ones @ x

    def normalise(self, features: Tensor) -> Tensor:
        """Take ``(N, C, h, w)`` and return ``features / sqrt(‖features‖² + eps)`` as ``(N, C, h·w)``, in FP32."""
        features = features.to(torch.float32).flatten(2)
        return features * torch.rsqrt(self.channel_sum(features * features) + EPSILON)


class HalfSquaredL2(_PerPosition):
    """``½‖t̂ − ŝ‖²`` of the normalised vectors at each position (STPM Eq. 1); in [0, 2], on unit vectors 1 − cos."""

    def forward(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Take ``(N, C, h, w)`` twice and return ``(N, h, w)``."""
        difference = self.normalise(teacher) - self.normalise(student)
        distance = 0.5 * self.channel_sum(difference * difference)
        return distance.reshape(-1, teacher.shape[2], teacher.shape[3])


class Cosine(_PerPosition):
    """``1 − cos(t, s)`` at each position; in [0, 2]."""

    def forward(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Take ``(N, C, h, w)`` twice and return ``(N, h, w)``."""
        distance = 1.0 - self.channel_sum(self.normalise(teacher) * self.normalise(student))
        return distance.reshape(-1, teacher.shape[2], teacher.shape[3])


def distance_module(distance: Distance, channels: int) -> nn.Module:
    """Return the module of a distance for features of so many channels."""
    return {Distance.HALF_SQUARED_L2: HalfSquaredL2, Distance.COSINE: Cosine}[distance](channels)
