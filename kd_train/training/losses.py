"""The training loss, which uses the same distances as the deployed map."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from kd_export.graph import PairSpec
from kd_export.graph.distance import distance_module


class FeatureMatching(nn.Module):
    """The mean distance over positions and images, as a weighted sum over taps (STPM Eq. 2, 3).

    Args:
        spec: The declaration of the pair's maps.
        channels: The number of channels of each of ``spec.loss_taps``.
    """

    def __init__(self, spec: PairSpec, channels: Sequence[int]) -> None:
        super().__init__()
        self.weights = [tap.loss_weight for tap in spec.loss_taps]
        self.distances = nn.ModuleList(
            distance_module(tap.distance, count) for tap, count in zip(spec.loss_taps, channels, strict=True)
        )

    def forward(self, compared: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Return the loss, a scalar, of the two features of each comparison."""
        parts = [
            weight * distance(t, s).mean()
            for (t, s), distance, weight in zip(compared, self.distances, self.weights, strict=True)
        ]
        total: Tensor = parts[0]
        for part in parts[1:]:
            total = total + part
        return total
