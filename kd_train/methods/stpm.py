"""STPM: student-teacher feature pyramid matching (Wang et al., BMVC 2021).

The student is the teacher's network with random initial weights. At each tap both features are
L2-normalised over the channels and compared by half the squared distance (Eq. 1); the loss is its
mean over positions, summed over taps (Eq. 2, 3 with every weight 1). The map is the product of the
taps' bilinearly upsampled distances (Eq. 4), and the score is its maximum.

Other taps (Table 6), other backbones (Table 7) and the share of the training images (Table 9) are
options of every method.

``--scored-by`` is not in the paper. The map stays the product of all taps, which locates defects,
and the score comes from the deepest tap's distance alone, upsampled and not blurred, because that
tap sees most of the part at each position: ``deepest`` takes its maximum, ``deepest-squared`` the
sum of its squares, which a large weak defect raises too. (The square is the product of the tap's
map with itself.) Such a score does not come from the returned map, so that regions of interest,
normalisation per position and tiles do not apply.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from kd_export.graph import Combine, Distance, Join, MapSpec, PairSpec, ScoreRule
from kd_train.models.pair import Comparisons, Method, MethodOption, Pair, PairOptions, StudentPair, declare_map
from kd_train.models.teacher import Teacher, build_teacher, untrained_network

# How often the deepest tap is a factor of the map that gives the score, and the rule of that score.
_DEEPEST = {"deepest": (1, ScoreRule.MAX), "deepest-squared": (2, ScoreRule.SUM)}


class ScoredByDeepest(StudentPair):
    """A pair whose deepest tap is compared in the map, and in the score's map again.

    Args:
        teacher: The teacher.
        student: The student.
        spec: The declaration: all taps, and then the last one once or more.
    """

    def __init__(self, teacher: Teacher, student: nn.Module, spec: PairSpec) -> None:
        super().__init__(teacher, student, spec)
        self.channels += self.channels[-1:] * len(spec.maps[1].taps)

    def compare(self, x: Tensor, teacher: list[Tensor]) -> Comparisons:
        """Return the two features of each tap, then those of the last one for the score."""
        compared = super().compare(x, teacher)
        return compared + compared[-1:] * len(self.spec.maps[1].taps)


def build(options: PairOptions) -> tuple[Pair, str]:
    """Build the method's pair; see :class:`kd_train.models.pair.Method`."""
    teacher, source = build_teacher(options.teacher, groups=1)
    names = [feature.name for feature in teacher.features]
    student = untrained_network(options.teacher, tuple(names))
    maps = declare_map(names, options, distance=Distance.HALF_SQUARED_L2, combine=Combine.PRODUCT)
    if options.choices["scored-by"] == "map":
        return StudentPair(teacher, student, PairSpec((maps,), score=options.score or ScoreRule.MAX)), source
    power, rule = _DEEPEST[options.choices["scored-by"]]
    # Its loss has no weight here: the first map has trained this tap already.
    deepest = replace(maps.taps[-1], loss_weight=0.0)
    scored = MapSpec((deepest,) * power, Combine.PRODUCT)
    spec = PairSpec((maps, scored), Join.SCORE_SECOND, options.score or rule)
    return ScoredByDeepest(teacher, student, spec), source


METHOD = Method(
    name="stpm",
    paper="Wang et al., Student-Teacher Feature Pyramid Matching, BMVC 2021",
    build=build,
    options=(
        MethodOption("scored-by", ("map", *_DEEPEST), "what gives the score: the map of all taps, or the deepest tap"),
    ),
)
