"""What every method builds: a frozen teacher, its students, and which features are held against each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from kd_export.graph import Combine, Distance, MapSpec, PairSpec, ScoreRule, Tap
from kd_train.models.teacher import Teacher, TeacherOptions

Comparisons = list[tuple[Tensor, Tensor]]


class Pair(nn.Module):
    """A frozen teacher and its students. A method overrides :meth:`compare`, and where it must, the others.

    Teacher and students are apart so that the teacher's features, which never change, may be computed once and kept.

    Args:
        teacher: Frozen, always in eval mode.
        spec: The declaration.
        channels: Channels of the features of each of ``spec.loss_taps``.
        sees_image: Whether any student takes the image; where all take the teacher's features alone, training with kept
            features needs no image.
    """

    def __init__(self, teacher: Teacher, spec: PairSpec, channels: tuple[int, ...], *, sees_image: bool = True) -> None:
        super().__init__()
        self.teacher = teacher.requires_grad_(False).eval()
        self.spec = spec
        self.channels = channels
        self.sees_image = sees_image
        self.mean = teacher.mean
        self.std = teacher.std

    def teacher_features(self, x: Tensor) -> list[Tensor]:
        """Return the teacher's features, as the students are trained on them, of ``(N, 3, H, W)`` images."""
        features: list[Tensor] = self.teacher(x)
        return features

    def compare(self, x: Tensor, teacher: list[Tensor]) -> Comparisons:
        """Return the two features of each of ``spec.taps``, given the image and the teacher's features."""
        raise NotImplementedError

    def compare_training(self, x: Tensor, teacher: list[Tensor]) -> Comparisons:
        """Return the two features of each of ``spec.loss_taps``."""
        return self.compare(x, teacher)

    def forward(self, x: Tensor) -> Comparisons:
        """Return the two features of each of ``spec.taps``."""
        return self.compare(x, self.teacher_features(x))

    def train(self, mode: bool = True) -> Pair:
        """Set the students' mode; the teacher stays in eval."""
        super().train(mode)
        self.teacher.eval()
        return self


class StudentPair(Pair):
    """The usual pair: one student takes the image and returns a feature for each of the teacher's."""

    def __init__(self, teacher: Teacher, student: nn.Module, spec: PairSpec) -> None:
        super().__init__(teacher, spec, tuple(feature.channels for feature in teacher.features))
        self.student = student

    def compare(self, x: Tensor, teacher: list[Tensor]) -> Comparisons:
        """Return each of the teacher's features with the student's."""
        return list(zip(teacher, self.student(x), strict=True))


@dataclass(frozen=True)
class PairOptions:
    """What a method builds a pair from. None takes what the method declares.

    Attributes:
        teacher: The teacher's networks, weights and taps.
        blur_sigma: Standard deviation of the map's Gaussian blur, in map pixels.
        combine: How the taps' maps become one.
        distance: How features are compared in the map.
        score: How the map becomes a score.
        choices: Values of the method's own options, by name; every option is present.
    """

    teacher: TeacherOptions
    blur_sigma: float = 0.0
    combine: Combine | None = None
    distance: Distance | None = None
    score: ScoreRule | None = None
    choices: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class MethodOption:
    """A choice that a paper studies or leaves open.

    Attributes:
        name: As on the command line, without dashes.
        values: What it may be; the first is the default.
        help: What it decides, with the paper's table or equation.
    """

    name: str
    values: tuple[str, ...]
    help: str


@dataclass(frozen=True)
class Method:
    """A method of the papers.

    Attributes:
        name: As in ``--method``.
        paper: Where it is described.
        build: Makes the pair; the students' weights are drawn from torch's current seed. The second result says where
            the teacher's weights came from.
        options: The method's own options.
        recipe: Its recipe's file; None for ``recipes/NAME.toml`` of this package.
    """

    name: str
    paper: str
    build: Callable[[PairOptions], tuple[Pair, str]]
    options: tuple[MethodOption, ...] = ()
    recipe: Path | None = None


def declare_map(
    names: Sequence[str],
    options: PairOptions,
    *,
    distance: Distance,
    combine: Combine,
    weight: float = 1.0,
    loss_weight: float = 1.0,
    blur_sigma: float | None = None,
) -> MapSpec:
    """Declare one map over comparisons that are all alike.

    Args:
        names: Of the comparisons.
        options: The user's; they win over what follows.
        distance: The method's.
        combine: The method's.
        weight: Of each in a summed map.
        loss_weight: Of each in the loss.
        blur_sigma: Of the map where it is not the user's.
    """
    taps = tuple(Tap(name, options.distance or distance, weight, loss_weight) for name in names)
    return MapSpec(taps, options.combine or combine, options.blur_sigma if blur_sigma is None else blur_sigma)
