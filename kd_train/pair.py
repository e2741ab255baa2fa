"""What every method builds: a frozen teacher and a student with taps at matching layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from kd_export.graph import PairSpec


class Pair(nn.Module):
    """A frozen teacher and its student.

    ``teacher_features`` and ``student_features`` are apart so that the teacher's may be computed once and kept; methods
    whose student takes the teacher's features as input override the latter.

    Args:
        teacher: Takes ``(N, 3, H, W)``, returns features at its taps. Frozen, always in eval mode.
        student: Returns features of the same shapes.
        spec: The declaration.
        channels: Of the features at each tap.
        mean: The teacher's input mean per RGB channel, of values in [0, 1].
        std: Likewise.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        spec: PairSpec,
        *,
        channels: tuple[int, ...],
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.teacher = teacher.requires_grad_(False).eval()
        self.student = student
        self.spec = spec
        self.channels = channels
        self.mean = mean
        self.std = std

    def teacher_features(self, x: Tensor) -> list[Tensor]:
        """Return the teacher's features at each tap."""
        features: list[Tensor] = self.teacher(x)
        return features

    def student_features(self, x: Tensor, teacher: list[Tensor]) -> list[Tensor]:
        """Return the student's features at each tap, given the teacher's."""
        features: list[Tensor] = self.student(x)
        return features

    def forward(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return (teacher, student) features of each tap."""
        teacher = self.teacher_features(x)
        return list(zip(teacher, self.student_features(x, teacher), strict=True))

    def train(self, mode: bool = True) -> Pair:
        """Set the student's mode; the teacher stays in eval."""
        super().train(mode)
        self.teacher.eval()
        return self


@dataclass(frozen=True)
class PairOptions:
    """What a method builds a pair from.

    Attributes:
        backbone: The teacher's timm name.
        weights: ``imagenet``, ``random``, or a file; None for an empty teacher that a checkpoint will fill.
        taps: Names of the teacher's taps, or empty: the backbone's features at ``strides``.
        strides: Strides of the default taps.
        blur_sigma: Standard deviation of the map's Gaussian blur, in map pixels.
    """

    backbone: str
    weights: str | None
    taps: tuple[str, ...]
    strides: tuple[int, ...]
    blur_sigma: float


@dataclass(frozen=True)
class Method:
    """A method of the papers.

    Attributes:
        name: As in ``--method``.
        paper: Where it is described.
        build: Makes the pair; the second result says where the teacher's weights came from.
    """

    name: str
    paper: str
    build: Callable[[PairOptions], tuple[Pair, str]]
