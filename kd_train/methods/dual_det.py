"""The detection half of the dual model (Thomine, Snoussi, 2024, section 3.1).

The teacher is EfficientNet-b0 at deep taps (the paper says "the top layers"; here they are timm's
features of strides 16 and 32). There are two kinds of students: a residual network of 5 × 5
convolutions with the teacher's widths and sizes, which takes the image (``--part kd``), and for
each tap a small autoencoder of the teacher's feature (``--part ae``). The loss is Eq. 1 to 3 with
every factor 1. The map is the product over taps and parts of ``1 - cos`` (Eq. 4, 5), and the score
is its maximum. ``--combine sum`` gives the sum of Table 8.

Table 8 also has the "mean squared error" as a distance. The only such distance that the paper
defines is Eq. 1, of normalised features, without a square. With the square, as in STPM, which the
paper cites for it, it is ``½‖t̂ − ŝ‖² = 1 − cos``, the same distance. So there is no option for it.

The paper does not say how the maps of the two parts are combined; "feature multiplication to ensure
equal influence" is read as one product over all of them. Nor does it give the autoencoder's layers;
here the feature is reduced to half its size and a quarter of its channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor, nn

from kd_export.graph import Combine, Distance, PairSpec, ScoreRule
from kd_train.models.backbones import Feature
from kd_train.models.blocks import ResidualBlock, conv_norm_relu, initialise
from kd_train.models.pair import Comparisons, Method, MethodOption, Pair, PairOptions, declare_map
from kd_train.models.pyramid import Pyramid
from kd_train.models.teacher import Teacher, build_teacher


class FeatureAutoencoder(nn.Module):
    """An autoencoder of a feature, through half its size and a quarter of its channels."""

    def __init__(self, feature: Feature) -> None:
        super().__init__()
        wide, narrow = max(4, feature.channels // 2), max(4, feature.channels // 4)
        self.encoder = nn.Sequential(
            conv_norm_relu(feature.channels, wide, 3, stride=2), conv_norm_relu(wide, narrow, 3)
        )
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(narrow, wide, 2, stride=2, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(),
            nn.Conv2d(wide, feature.channels, 3, padding=1),
        )
        self.rectified = feature.is_rectified
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction of a feature; both are ``(N, C, h, w)``."""
        # The decoder returns an odd size enlarged by one.
        decoded: Tensor = self.decoder(self.encoder(x))[:, :, : x.shape[2], : x.shape[3]]
        return F.relu(decoded) if self.rectified else decoded


class DeepStudents(nn.Module):
    """The parts of the detection model: the student, the autoencoders, or both.

    Args:
        teacher: The teacher.
        group: The index of the teacher's group of taps.
        part: ``kd``, ``ae`` or ``kd+ae``.

    Attributes:
        names: The names of the comparisons.
        channels: The number of channels of each comparison's features.
    """

    def __init__(self, teacher: Teacher, group: int, part: str) -> None:
        super().__init__()
        taps = teacher.groups[group]
        self.student = (
            Pyramid(
                teacher.levels(group),
                [tap.name for tap in taps],
                lambda inputs, outputs, stride: ResidualBlock(inputs, outputs, 5, stride),
                stem_kernel=5,
            )
            if "kd" in part
            else None
        )
        self.autoencoders = nn.ModuleList(FeatureAutoencoder(tap) for tap in taps) if "ae" in part else None
        self.names = [tap.name for tap in taps] if self.student else []
        self.names += [f"{tap.name} autoencoder" for tap in taps] if self.autoencoders else []
        self.channels = tuple(tap.channels for tap in taps) * (len(self.names) // len(taps))

    def forward(self, x: Tensor, teacher: list[Tensor], seen: list[Tensor] | None = None) -> Comparisons:
        """Return the two features of each comparison, in the order of :attr:`names`.

        Args:
            x: The images ``(N, 3, H, W)``.
            teacher: The teacher's features with which the students are compared.
            seen: The teacher's features that the autoencoders take, if others.
        """
        comparisons: Comparisons = []
        if self.student is not None:
            comparisons += zip(teacher, self.student(x), strict=True)
        if self.autoencoders is not None:
            comparisons += [
                (target, autoencoder(taken))
                for target, taken, autoencoder in zip(teacher, seen or teacher, self.autoencoders, strict=True)
            ]
        return comparisons


class DetectionPair(Pair):
    """One teacher and the detection model's students."""

    def __init__(self, teacher: Teacher, students: DeepStudents, spec: PairSpec) -> None:
        super().__init__(teacher, spec, students.channels, sees_image=students.student is not None)
        self.students = students

    def compare(self, x: Tensor, teacher: list[Tensor]) -> Comparisons:
        """Return the two features of each comparison of every part."""
        compared: Comparisons = self.students(x, teacher)
        return compared

    def compare_damaged(self, x: Tensor, teacher: list[Tensor]) -> Comparisons:
        """Return the same; the autoencoders take the damaged images' features."""
        with torch.no_grad():
            seen = self.teacher_features(x) if self.students.autoencoders is not None else None
        compared: Comparisons = self.students(x, teacher, seen)
        return compared


PART = MethodOption("part", ("kd+ae", "kd", "ae"), "the student, the autoencoders or both (dual model, Table 7)")


def build(options: PairOptions) -> tuple[Pair, str]:
    """Build the method's pair; see :class:`kd_train.models.pair.Method`."""
    teacher, source = build_teacher(options.teacher, groups=1)
    students = DeepStudents(teacher, 0, options.choices["part"])
    maps = declare_map(students.names, options, distance=Distance.COSINE, combine=Combine.PRODUCT)
    return DetectionPair(teacher, students, PairSpec((maps,), score=options.score or ScoreRule.MAX)), source


METHOD = Method(
    name="dual-det", paper="Thomine and Snoussi, Dual model (detection), 2024", build=build, options=(PART,)
)
