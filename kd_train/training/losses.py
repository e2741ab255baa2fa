"""The training loss, from the same distances as the deployed map."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from kd_export.graph import PairSpec
from kd_export.graph.distance import distance_module


class FeatureMatching(nn.Module):
    """Mean distance over positions and images, weighted and summed over the taps (STPM Eq. 2 and 3).

    Args:
        spec: The pair's declaration.
        channels: Of the features of each of ``spec.loss_taps``.
    """

    def __init__(self, spec: PairSpec, channels: Sequence[int]) -> None:
        super().__init__()
        self.weights = [tap.loss_weight for tap in spec.loss_taps]
        self.distances = nn.ModuleList(
            distance_module(tap.distance, count) for tap, count in zip(spec.loss_taps, channels, strict=True)
        )

    def forward(self, compared: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Take the two features of each comparison and return a scalar."""
        parts = [
            weight * distance(t, s).mean()
            for (t, s), distance, weight in zip(compared, self.distances, self.weights, strict=True)
        ]
        total: Tensor = parts[0]
        for part in parts[1:]:
            total = total + part
        return total
