"""Students that see the image: a stem, then one block for each of the teacher's levels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor, nn

from kd_train.models.backbones import Feature
from kd_train.models.blocks import ResidualBlock, conv_norm, initialise
from kd_train.models.pair import Pair
from kd_train.models.teacher import Teacher

Block = Callable[[int, int, int], nn.Module]


class Pyramid(nn.Module):
    """A network with the teacher's numbers of channels and feature sizes.

    The student's feature is rectified where the teacher's is. Elsewhere it is linear, since it must
    match negative values.

    Args:
        levels: The teacher's levels, in order.
        taps: The names of the levels that are returned.
        block: The function that makes a block, with a linear output, from its input channels,
            output channels and stride (1 or 2).
        stem_kernel: The side of the first convolution's kernel.
        halve: Whether every tap after the stem is average-pooled to half the teacher's size, and
            the next level takes the pooled feature (MixedTeacher section 3.2).
    """

    def __init__(
        self, levels: Sequence[Feature], taps: Sequence[str], block: Block, *, stem_kernel: int, halve: bool = False
    ) -> None:
        super().__init__()
        stride = min(2, levels[0].stride)
        channels = levels[0].channels
        self.stem = conv_norm(3, channels, stem_kernel, stride)
        self.steps = nn.ModuleList()
        self.stem_tap = levels[0] if levels[0].is_stem else None
        for level in levels[1:] if self.stem_tap else levels:
            tapped = level.name in taps
            # A pooled tap has twice the teacher's stride; the next level may have that already.
            pooled = halve and tapped and stride <= level.stride
            self.steps.append(_PyramidLevel(block, channels, level, max(1, level.stride // stride), tapped, pooled))
            channels, stride = level.channels, max(stride, level.stride * (2 if pooled else 1))
        initialise(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the features at the taps of images ``(N, 3, H, W)``."""
        linear = self.stem(x)
        x = F.relu(linear)
        features = [] if self.stem_tap is None else [x if self.stem_tap.is_rectified else linear]
        for step in self.steps:
            x, feature = step(x)
            if feature is not None:
                features.append(feature)
        return features


class _PyramidLevel(nn.Module):
    """One level: pooling before the block, the block, and pooling after it."""

    def __init__(self, block: Block, inputs: int, level: Feature, reduction: int, tapped: bool, pooled: bool) -> None:
        super().__init__()
        # A block halves the size at most once; a larger reduction pools first, as in ResNet.
        self.before = nn.MaxPool2d(3, reduction // 2, padding=1) if reduction > 2 else nn.Identity()
        self.block = block(inputs, level.channels, min(reduction, 2))
        self.after = nn.AvgPool2d(2, ceil_mode=True) if pooled else nn.Identity()
        self.tapped = tapped
        self.rectified = level.is_rectified

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        linear = self.block(self.before(x))
        rectified = self.after(F.relu(linear))
        if not self.tapped:
            return rectified, None
        return rectified, rectified if self.rectified else self.after(linear)


class HalvedPair(Pair):
    """A pair whose first group of taps is compared at half the size (MixedTeacher Eq. 1)."""

    def teacher_features(self, x: Tensor) -> list[Tensor]:
        """Return the teacher's features, those of the first group pooled."""
        features = super().teacher_features(x)
        first = self.teacher.groups[0]
        return halve_after_stem(features[: len(first)], first) + features[len(first) :]


def reduced_student(teacher: Teacher, group: int) -> Pyramid:
    """Return MixedTeacher's reduced student (section 3.2), one residual block for each level."""
    return Pyramid(
        teacher.levels(group),
        [feature.name for feature in teacher.groups[group]],
        lambda inputs, outputs, stride: ResidualBlock(inputs, outputs, stride=stride),
        stem_kernel=7,
        halve=True,
    )


def halve_after_stem(features: Sequence[Tensor], taps: Sequence[Feature]) -> list[Tensor]:
    """Average-pool a teacher's features, but for the stem's, to half the size (MixedTeacher Eq. 1).

    For even sizes this is adaptive pooling to half the size. For odd sizes the last row and column
    are pooled separately, as in the student, so that sizes agree at every level.
    """
    return [
        feature if tap.is_stem else F.avg_pool2d(feature, 2, ceil_mode=True)
        for feature, tap in zip(features, taps, strict=True)
    ]
