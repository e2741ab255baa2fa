"""STPM: student-teacher feature pyramid matching (Wang et al., BMVC 2021).

The student is the teacher's network with random initial weights. At each tap both features are
L2-normalised over the channels and compared by half the squared distance (Eq. 1); the loss is its
mean over positions, summed over taps (Eq. 2, 3 with every weight 1). The map is the product of the
taps' bilinearly upsampled distances (Eq. 4), and the score is its maximum.

Other taps (Table 6), other backbones (Table 7) and the share of the training images (Table 9) are
options of every method.
"""

from __future__ import annotations

from kd_export.graph import Combine, Distance, PairSpec, ScoreRule
from kd_train.models.pair import Method, Pair, PairOptions, StudentPair, declare_map
from kd_train.models.teacher import build_teacher, untrained_network


def build(options: PairOptions) -> tuple[Pair, str]:
    """Build the method's pair; see :class:`kd_train.models.pair.Method`."""
    teacher, source = build_teacher(options.teacher, groups=1)
    names = [feature.name for feature in teacher.features]
    student = untrained_network(options.teacher, tuple(names))
    maps = declare_map(names, options, distance=Distance.HALF_SQUARED_L2, combine=Combine.PRODUCT)
    spec = PairSpec((maps,), score=options.score or ScoreRule.MAX)
    return StudentPair(teacher, student, spec), source


METHOD = Method(name="stpm", paper="Wang et al., Student-Teacher Feature Pyramid Matching, BMVC 2021", build=build)
