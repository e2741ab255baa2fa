"""Compact networks: dense 3 × 3 convolutions that learn the features of a larger network.

A pretrained network is needed for its features alone. A compact network is trained to reproduce
those features on the product's images (:mod:`kd_train.training.distillation`), and then replaces
the pretrained network: as the teacher, and untrained as the student.

Every convolution is dense, because depthwise convolutions gain little from INT8, and its number of
channels is a multiple of eight, as vector units and tensor cores need it. At each tap of the source
a 1 × 1 convolution, the head, returns as many channels as the source has there.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from torch import Tensor, nn

from kd_train.models.backbones import Feature, FeatureNetwork
from kd_train.models.blocks import conv_norm_relu
from kdx.errors import OptionError

# For each size, the number of channels at the strides 2, 4, 8, 16 and 32.
_WIDTHS = {
    "compact-s": (8, 16, 32, 48, 64),
    "compact-m": (16, 32, 64, 96, 128),
    "compact-l": (24, 48, 96, 144, 192),
}
# The number of convolutions at each of these strides. The first two strides have the largest
# features and one convolution each: a second one would cost as much as all convolutions after it.
_DEPTHS = (1, 1, 2, 2, 2)
_STRIDES = (2, 4, 8, 16, 32)
NAMES = tuple(_WIDTHS)
DEFAULT = "compact-m"
# The image's values lie between -1 and 1, whatever the source's statistics are.
_MEAN = _STD = (0.5, 0.5, 0.5)


class Head(msgspec.Struct, frozen=True):
    """A feature of the source that a compact network reproduces.

    Attributes:
        tap: The name of the source's tap.
        channels: The source's number of channels.
        stride: The factor by which height and width are reduced: 2, 4, 8, 16 or 32.
    """

    tap: str
    channels: int
    stride: int


def require_distinct(name: str, taps: Sequence[str]) -> None:
    """Raise ``OptionError`` if two features that a compact network learns have one name."""
    if len(set(taps)) < len(taps):
        raise OptionError(
            f"one compact network cannot learn two taps with the same name: {', '.join(taps)}",
            fix=f"give each source its own: `backbone='{name},{name}'`",
        )


class CompactNetwork(FeatureNetwork):
    """A compact network with a head at each tap of its source.

    Its weights are random, and drawn from torch's current random state.

    Args:
        name: The network's size: one of :data:`NAMES`.
        heads: The features to reproduce.

    Raises:
        OptionError: A head has another stride than the network, or two heads have the same tap.
    """

    def __init__(self, name: str, heads: Sequence[Head]) -> None:
        super().__init__()
        other = [head for head in heads if head.stride not in _STRIDES]
        if other or not heads:
            raise OptionError(
                "a compact network has no feature of this stride",
                expected=f"taps of stride {', '.join(map(str, _STRIDES))}",
                received=f"'{other[0].tap}' of stride {other[0].stride}" if other else "no taps",
                fix="choose other `taps`",
            )
        require_distinct(name, [head.tap for head in heads])
        ordered = sorted(heads, key=lambda head: head.stride)
        self.taps = tuple(head.tap for head in ordered)
        self.mean, self.std = _MEAN, _STD
        self.stages = nn.ModuleList()
        channels = 3
        self._levels: list[Feature] = []
        for stride, width, depth in zip(_STRIDES, _WIDTHS[name], _DEPTHS, strict=True):
            if stride > ordered[-1].stride:
                break
            layers = [conv_norm_relu(channels, width, 3, 2)]
            layers += [conv_norm_relu(width, width, 3) for _ in range(depth - 1)]
            self.stages.append(nn.Sequential(*layers))
            self._levels.append(Feature(f"stride {stride}", width, stride, is_rectified=True, is_stem=False))
            channels = width
        self.heads = nn.ModuleDict(
            {
                _key(head.tap): nn.Conv2d(self._levels[_STRIDES.index(head.stride)].channels, head.channels, 1)
                for head in ordered
            }
        )
        self._features = {
            head.tap: Feature(head.tap, head.channels, head.stride, is_rectified=False, is_stem=False)
            for head in ordered
        }

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the features at each tap of normalised images ``(N, 3, H, W)``."""
        found: dict[int, Tensor] = {}
        for stride, stage in zip(_STRIDES, self.stages, strict=False):
            x = found[stride] = stage(x)
        return [self.heads[_key(tap)](found[self._features[tap].stride]) for tap in self.taps]

    def feature(self, tap: str) -> Feature:
        """Return the description of a tap's feature."""
        return self._features[tap]

    def levels_to(self, taps: Sequence[str]) -> list[Feature]:
        """Return one level for each stride up to the last of some taps: its tap if it has one.

        Where several taps have the same stride, each is a level.
        """
        last = max(self._features[tap].stride for tap in taps)
        levels: list[Feature] = []
        for level in self._levels:
            if level.stride <= last:
                levels += [self._features[tap] for tap in taps if self._features[tap].stride == level.stride] or [level]
        return levels


def _key(tap: str) -> str:
    """Return a tap's name as a module's name, which contains no dots."""
    return tap.replace(".", "_")
