"""The reduced student (Thomine, Snoussi, Soua: MixedTeacher, VISAPP 2023, section 3).

The teacher is ResNet-18 with taps after its first activation, layer1 and layer2. The student has a
stem and one residual block for each stage, where the teacher has two. After the stem, average
pooling halves the features of both (Eq. 1). The distance is half the squared distance of the
normalised features (Eq. 2; printed without the square, read as in STPM, which the paper cites); the
loss is its mean over positions, summed over taps (Eq. 3, 4). The map is the sum over taps, blurred,
and the score is its maximum, as in the authors' published code (Eq. 12 sums the map: ``--score
sum``).
"""

from __future__ import annotations

from kd_export.graph import Combine, Distance, PairSpec, ScoreRule
from kd_train.models.pair import Method, Pair, PairOptions, StudentPair, declare_map
from kd_train.models.pyramid import HalvedPair, reduced_student
from kd_train.models.teacher import build_teacher


class ReducedPair(StudentPair, HalvedPair):
    """One student, compared at half the size."""


def build(options: PairOptions) -> tuple[Pair, str]:
    """Build the method's pair; see :class:`kd_train.models.pair.Method`."""
    teacher, source = build_teacher(options.teacher, groups=1)
    names = [feature.name for feature in teacher.features]
    maps = declare_map(names, options, distance=Distance.HALF_SQUARED_L2, combine=Combine.SUM)
    spec = PairSpec((maps,), score=options.score or ScoreRule.MAX)
    return ReducedPair(teacher, reduced_student(teacher, 0), spec), source


METHOD = Method(
    name="reduced-student", paper="Thomine et al., MixedTeacher (reduced student), VISAPP 2023", build=build
)
