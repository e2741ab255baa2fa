"""What every method builds: a frozen teacher, its students, and the features that are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from kd_export.graph import Combine, Distance, MapSpec, PairSpec, ScoreRule, Tap
from kd_train.models.teacher import Teacher, TeacherOptions

Comparisons = list[tuple[Tensor, Tensor]]


class Pair(nn.Module):
    """A frozen teacher and its students.

    A method overrides :meth:`compare`, and the other methods where it must. Teacher and students
    are separate modules, so that the teacher's features, which never change, can be computed once
    and cached.

    Args:
        teacher: The teacher; it is frozen and stays in eval mode.
        spec: The declaration of the pair's maps.
        channels: The number of channels of each of ``spec.loss_taps``.
        sees_image: Whether any student takes the image. Where all students take the teacher's
            features alone, training on cached features needs no image.
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
        """Return the teacher's features of ``(N, 3, H, W)`` images, the targets of the students.

        They are computed in FP32, also where what learns is computed in BF16.
        """
        is_mixed = x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)
        with torch.autocast(x.device.type, enabled=False) if is_mixed else nullcontext():
            features: list[Tensor] = self.teacher(x)
        return features

    def compare(self, x: Tensor, teacher: list[Tensor]) -> Comparisons:
        """Return the features of ``spec.taps``, given the image and the teacher's features."""
        raise NotImplementedError

    def compare_training(self, x: Tensor, teacher: list[Tensor]) -> Comparisons:
        """Return the two features of each of ``spec.loss_taps``."""
        return self.compare(x, teacher)

    def compare_damaged(self, x: Tensor, teacher: list[Tensor]) -> Comparisons:
        """Return the two features of each of ``spec.loss_taps``, where students see damage.

        A method whose students take the teacher's features overrides this: they take those of the
        damaged image, and are compared with those of the undamaged one.

        Args:
            x: The damaged images ``(N, 3, H, W)``.
            teacher: The teacher's features of the undamaged images.
        """
        return self.compare_training(x, teacher)

    def forward(self, x: Tensor) -> Comparisons:
        """Return the two features of each of ``spec.taps``."""
        return self.compare(x, self.teacher_features(x))

    def train(self, mode: bool = True) -> Pair:
        """Set the students' mode; the teacher stays in eval."""
        super().train(mode)
        self.teacher.eval()
        return self


class StudentPair(Pair):
    """The usual pair: one student takes the image and returns a feature for each tap."""

    def __init__(self, teacher: Teacher, student: nn.Module, spec: PairSpec) -> None:
        super().__init__(teacher, spec, tuple(feature.channels for feature in teacher.features))
        self.student = student

    def compare(self, x: Tensor, teacher: list[Tensor]) -> Comparisons:
        """Return each of the teacher's features with the student's."""
        return list(zip(teacher, self.student(x), strict=True))


@dataclass(frozen=True)
class PairOptions:
    """What a method builds a pair from. None means the method's own choice.

    Attributes:
        teacher: The teacher's networks, weights and taps.
        blur_sigma: The standard deviation of the map's Gaussian blur, in map pixels.
        combine: How the maps of the taps are combined into one.
        distance: The distance by which features are compared in the map.
        score: The rule by which the map becomes a score.
        choices: The values of the method's own options, by name; every option is present.
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
        name: The option's name on the command line, without dashes.
        values: The allowed values; the first is the default.
        help: What the option decides, with the paper's table or equation.
    """

    name: str
    values: tuple[str, ...]
    help: str


@dataclass(frozen=True)
class Method:
    """A method of the papers.

    Attributes:
        name: The name that ``--method`` takes.
        paper: The paper that describes the method.
        build: The function that makes the pair. It draws the students' weights from torch's
            current random state. Its second result says where the teacher's weights came from.
        options: The method's own options.
        recipe: The recipe's file; None for ``recipes/NAME.toml`` of this package.
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
    """Declare one map whose taps all use the same distance and weights.

    Args:
        names: The names of the taps.
        options: The user's options, which take precedence over the method's arguments below.
        distance: The method's distance.
        combine: The method's way to combine the maps of the taps.
        weight: The weight of each tap in a summed map.
        loss_weight: The weight of each tap in the loss.
        blur_sigma: The blur of the map; None for the user's.
    """
    taps = tuple(Tap(name, options.distance or distance, weight, loss_weight) for name in names)
    return MapSpec(taps, options.combine or combine, options.blur_sigma if blur_sigma is None else blur_sigma)
