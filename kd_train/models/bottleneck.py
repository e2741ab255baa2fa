"""Students that take features: an embedding of several features and its decoder."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor, nn

from kd_train.models.backbones import Feature
from kd_train.models.blocks import ResidualBlock, UpsamplingBlock, conv_norm_relu, initialise


class Embedding(nn.Module):
    """One embedding of several features: the bottleneck of reverse distillation and DSKD (Fig. 4).

    Every feature is reduced to the size of the last by 3 × 3 convolutions of stride 2. The results
    are concatenated, and a residual layer of two blocks, the first with stride 2 and a 1 × 1
    shortcut, halves the size and doubles the channels.

    Args:
        features: The input features, from large to small.
        fuse: Whether all features are embedded; False takes the last one only (DSKD Table 8).
    """

    def __init__(self, features: Sequence[Feature], *, fuse: bool = True) -> None:
        super().__init__()
        last = features[-1]
        self.used = list(range(len(features)))[0 if fuse else -1 :]
        self.reductions = nn.ModuleList(_reduction(features[index], last) for index in self.used)
        self.channels = 2 * last.channels
        self.residual = nn.Sequential(
            ResidualBlock(len(self.used) * last.channels, self.channels, stride=2),
            nn.ReLU(),
            ResidualBlock(self.channels, self.channels),
            nn.ReLU(),
        )
        initialise(self)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return the embedding of features, each ``(N, C, h, w)``."""
        parts = [reduce(features[index]) for index, reduce in zip(self.used, self.reductions, strict=True)]
        embedded: Tensor = self.residual(torch.cat(parts, dim=1))
        return embedded


def _reduction(feature: Feature, last: Feature) -> nn.Module:
    """Return the convolutions that bring a feature to the size and channels of the last one.

    The number of channels doubles with each step, up to that of the last feature.
    """
    steps = round(math.log2(last.stride / feature.stride))
    if not steps:
        same = feature.channels == last.channels
        return nn.Identity() if same else conv_norm_relu(feature.channels, last.channels, 1)
    widths = [min(feature.channels * 2**step, last.channels) for step in range(steps)] + [last.channels]
    return nn.Sequential(*(conv_norm_relu(a, b, 3, 2) for a, b in itertools.pairwise(widths)))


class Decoder(nn.Module):
    """The teacher's network in reverse: from the embedding to every feature, the deepest first.

    Args:
        channels: The number of channels of the embedding, which has half the last feature's size.
        features: The features to decode, from large to small.
    """

    def __init__(self, channels: int, features: Sequence[Feature]) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        stride = 2 * features[-1].stride
        for feature in reversed(features):
            steps = round(math.log2(stride / feature.stride))
            blocks: list[nn.Module] = []
            for _ in range(steps):
                blocks += [UpsamplingBlock(channels, feature.channels), nn.ReLU()]
                channels = feature.channels
            self.stages.append(nn.Sequential(*blocks, ResidualBlock(channels, feature.channels)))
            channels, stride = feature.channels, feature.stride
        self.rectified = [feature.is_rectified for feature in reversed(features)]
        initialise(self)

    def forward(self, embedding: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
        """Decode an embedding.

        Args:
            embedding: ``(N, channels, h, w)``.
            like: Features of the sizes to return, from large to small, because an odd size is not
                reached by doubling.

        Returns:
            The decoded features, from large to small.
        """
        x = embedding
        features: list[Tensor] = []
        for stage, rectified, target in zip(self.stages, self.rectified, reversed(like), strict=True):
            linear = stage(x)[:, :, : target.shape[2], : target.shape[3]]
            x = F.relu(linear)
            features.append(x if rectified else linear)
        return features[::-1]
