"""From the taps to the map: distance, upsampling, combination, blur.

Upsampling U and blur G are linear and separable, so each is one constant matrix per axis. For a sum they are one
matrix, ``A = G U``, and each tap's map becomes ``A_h M A_wᵀ``; for a product the product comes between U and G.
"""

from __future__ import annotations

from torch import Tensor, nn

from kd_export.graph.distance import distance_module
from kd_export.graph.separable import Separable
from kd_export.graph.spec import Combine, PairSpec, ScoreRule
from kdx.resampling import bilinear_matrix, gaussian_matrix


class AnomalyMap(nn.Module):
    """Features at the taps to one map (STPM Eq. 4 for products).

    Args:
        spec: The pair's declaration.
        tap_shapes: Channels, height and width of each tap's features.
        size: Height and width of the map.
    """

    def __init__(self, spec: PairSpec, tap_shapes: list[tuple[int, int, int]], size: tuple[int, int]) -> None:
        super().__init__()
        self.combine = spec.combine
        self.weights = [tap.weight for tap in spec.taps]
        self.distances = nn.ModuleList(
            distance_module(tap.distance, shape[0]) for tap, shape in zip(spec.taps, tap_shapes, strict=True)
        )
        blur = [gaussian_matrix(length, spec.blur_sigma) for length in size]
        upsample = [
            [bilinear_matrix(small, large) for small, large in zip(t[1:], size, strict=True)] for t in tap_shapes
        ]
        if spec.combine is Combine.SUM:
            upsample = [[g @ u for g, u in zip(blur, matrices, strict=True)] for matrices in upsample]
        self.upsample = nn.ModuleList(Separable(*matrices) for matrices in upsample)
        blurs_last = spec.combine is Combine.PRODUCT and spec.blur_sigma > 0
        self.blur = Separable(*blur) if blurs_last else nn.Identity()

    def forward(self, features: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Take (teacher, student) features of each tap, ``(N, C, h, w)``, and return the map ``(N, H, W)``."""
        combined: Tensor | None = None
        for (teacher, student), distance, upsample, weight in zip(
            features, self.distances, self.upsample, self.weights, strict=True
        ):
            part = upsample(distance(teacher, student))
            if self.combine is Combine.SUM:
                part = part if weight == 1.0 else part * weight
                combined = part if combined is None else combined + part
            else:
                combined = part if combined is None else combined * part
        assert combined is not None
        blurred: Tensor = self.blur(combined)
        return blurred


class Score(nn.Module):
    """A map to a score."""

    def __init__(self, rule: ScoreRule) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, anomaly_map: Tensor) -> Tensor:
        """Take ``(N, H, W)`` and return ``(N, 1)``."""
        flat = anomaly_map.flatten(1)
        return flat.amax(dim=1, keepdim=True) if self.rule is ScoreRule.MAX else flat.sum(dim=1, keepdim=True)
