"""The dual model: detection and localisation in one graph (Thomine, Snoussi, 2024, section 3).

The anomaly map is that of :mod:`kd_train.methods.dual_loc`: ResNet-18 and its reduced student. The
score is that of :mod:`kd_train.methods.dual_det`, EfficientNet-b0 and its students, which the paper
reports for textures; or that of the localisation model; or a combination of both. The paper says
that objects need both, but not how they are combined; here it is their product, which does not
depend on their scales.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kd_export.graph import Combine, Distance, Join, PairSpec, ScoreRule
from kd_train.methods.dual_det import PART, DeepStudents
from kd_train.models.pair import Comparisons, Method, MethodOption, Pair, PairOptions, declare_map
from kd_train.models.pyramid import HalvedPair, reduced_student
from kd_train.models.teacher import Teacher, build_teacher

_JOIN = {"det": Join.SCORE_SECOND, "loc": Join.SCORE_FIRST, "both": Join.SCORE_BOTH}


class DualPair(HalvedPair):
    """Two teachers: the localisation model's, then the detection model's."""

    def __init__(self, teacher: Teacher, shallow: nn.Module, deep: DeepStudents, spec: PairSpec) -> None:
        channels = tuple(tap.channels for tap in teacher.groups[0]) + deep.channels
        super().__init__(teacher, spec, channels)
        self.shallow = shallow
        self.deep = deep

    def compare(self, x: Tensor, teacher: list[Tensor]) -> Comparisons:
        """Return the two features of each comparison, the localisation model's first."""
        count = len(self.teacher.groups[0])
        located: Comparisons = list(zip(teacher[:count], self.shallow(x), strict=True))
        detected: Comparisons = self.deep(x, teacher[count:])
        return located + detected

    def compare_damaged(self, x: Tensor, teacher: list[Tensor]) -> Comparisons:
        """Return the same; the autoencoders take the damaged images' features."""
        count = len(self.teacher.groups[0])
        with torch.no_grad():
            seen = self.teacher_features(x)[count:] if self.deep.autoencoders is not None else None
        located: Comparisons = list(zip(teacher[:count], self.shallow(x), strict=True))
        detected: Comparisons = self.deep(x, teacher[count:], seen)
        return located + detected


def build(options: PairOptions) -> tuple[Pair, str]:
    """Build the method's pair; see :class:`kd_train.models.pair.Method`."""
    teacher, source = build_teacher(options.teacher, groups=2)
    shallow = [feature.name for feature in teacher.groups[0]]
    deep = DeepStudents(teacher, 1, options.choices["part"])
    maps = (
        declare_map(shallow, options, distance=Distance.HALF_SQUARED_L2, combine=Combine.SUM),
        declare_map(deep.names, options, distance=Distance.COSINE, combine=Combine.PRODUCT, blur_sigma=0.0),
    )
    spec = PairSpec(maps, _JOIN[options.choices["scored-by"]], options.score or ScoreRule.MAX)
    return DualPair(teacher, reduced_student(teacher, 0), deep, spec), source


METHOD = Method(
    name="dual",
    paper="Thomine and Snoussi, Dual model knowledge distillation, 2024",
    build=build,
    options=(
        PART,
        MethodOption("scored-by", ("det", "loc", "both"), "the model whose map gives the score (section 3.2)"),
    ),
)
