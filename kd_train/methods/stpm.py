"""STPM: student-teacher feature pyramid matching (Wang et al., BMVC 2021).

The student is the teacher's network with random initial weights. At each tap both features are
L2-normalised over the channels and compared by half the squared distance (Eq. 1); the loss is its
mean over positions, summed over taps (Eq. 2, 3 with every weight 1). The map is the product of the
taps' bilinearly upsampled distances (Eq. 4), and the score is its maximum.

Other taps (Table 6), other backbones (Table 7) and the share of the training images (Table 9) are
options of every method.

``--scored-by deepest`` is not in the paper: the map stays the product, and the score is the maximum
of the deepest tap's distance alone, upsampled and not blurred. The deepest tap sees most of the
part at each position and separates good from defective parts best, while the others locate defects.
"""

from __future__ import annotations

from torch import Tensor, nn

from kd_export.graph import Combine, Distance, Join, PairSpec, ScoreRule
from kd_train.models.pair import Comparisons, Method, MethodOption, Pair, PairOptions, StudentPair, declare_map
from kd_train.models.teacher import Teacher, build_teacher, untrained_network


class ScoredByDeepest(StudentPair):
    """A pair whose deepest tap is compared in the map and, once more, alone in the score."""

    def __init__(self, teacher: Teacher, student: nn.Module, spec: PairSpec) -> None:
        super().__init__(teacher, student, spec)
        self.channels += self.channels[-1:]

    def compare(self, x: Tensor, teacher: list[Tensor]) -> Comparisons:
        """Return the two features of each tap, and those of the last one twice."""
        compared = super().compare(x, teacher)
        return compared + compared[-1:]


def build(options: PairOptions) -> tuple[Pair, str]:
    """Build the method's pair; see :class:`kd_train.models.pair.Method`."""
    teacher, source = build_teacher(options.teacher, groups=1)
    names = [feature.name for feature in teacher.features]
    student = untrained_network(options.teacher, tuple(names))
    maps = declare_map(names, options, distance=Distance.HALF_SQUARED_L2, combine=Combine.PRODUCT)
    rule = options.score or ScoreRule.MAX
    if options.choices["scored-by"] == "map":
        return StudentPair(teacher, student, PairSpec((maps,), score=rule)), source
    # Trained once: the loss has this tap already.
    deepest = declare_map(
        names[-1:], options, distance=Distance.HALF_SQUARED_L2, combine=Combine.SUM, loss_weight=0.0, blur_sigma=0.0
    )
    return ScoredByDeepest(teacher, student, PairSpec((maps, deepest), Join.SCORE_SECOND, rule)), source


METHOD = Method(
    name="stpm",
    paper="Wang et al., Student-Teacher Feature Pyramid Matching, BMVC 2021",
    build=build,
    options=(
        MethodOption("scored-by", ("map", "deepest"), "what gives the score: the whole map, or the deepest tap alone"),
    ),
)
