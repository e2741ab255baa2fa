"""MixedTeacher: two teachers against the bias of one (Thomine et al., VISAPP 2023, section 4).

The first teacher is ResNet-18 with the reduced student. The second is EfficientNet-b0 at "blocks 5
and 6", with one convolution for each block and no pooling. The paper does not say from where it
counts; the authors' published code takes timm's features of strides 16 and 32, ``blocks.4`` and
``blocks.6``, as kdx does (``--taps act1,layer1,layer2/blocks.5,blocks.6`` is another reading). The
students share no weights. The loss adds the second teacher's part with alpha = 0.1 (Eq. 8). The
maps of each teacher's taps are summed (Eq. 9, 10), the second teacher's map confirms the first
one's (Eq. 11, :class:`kd_export.graph.tail.Confirmed`), and the score is the sum of the map (Eq.
12; ``--score max`` gives the maximum).
"""

from __future__ import annotations

from torch import Tensor, nn

from kd_export.graph import Combine, Distance, Join, PairSpec, ScoreRule
from kd_train.models.blocks import conv_norm
from kd_train.models.pair import Comparisons, Method, Pair, PairOptions, declare_map
from kd_train.models.pyramid import HalvedPair, Pyramid, reduced_student
from kd_train.models.teacher import Teacher, build_teacher

_ALPHA = 0.1  # Eq. 8: "feature difference in efficientNet was about 10 times bigger"


class MixedPair(HalvedPair):
    """Two teachers, each with its student."""

    def __init__(self, teacher: Teacher, students: list[nn.Module], spec: PairSpec) -> None:
        super().__init__(teacher, spec, tuple(feature.channels for feature in teacher.features))
        self.students = nn.ModuleList(students)

    def compare(self, x: Tensor, teacher: list[Tensor]) -> Comparisons:
        """Return the features of each teacher with those of its student."""
        students = [feature for student in self.students for feature in student(x)]
        return list(zip(teacher, students, strict=True))


def build(options: PairOptions) -> tuple[Pair, str]:
    """Build the method's pair; see :class:`kd_train.models.pair.Method`."""
    teacher, source = build_teacher(options.teacher, groups=2)
    shallow, deep = ([feature.name for feature in group] for group in teacher.groups)
    convolutions = Pyramid(
        teacher.levels(1), deep, lambda inputs, outputs, stride: conv_norm(inputs, outputs, 3, stride), stem_kernel=3
    )
    distance = Distance.HALF_SQUARED_L2
    maps = (
        declare_map(shallow, options, distance=distance, combine=Combine.SUM),
        declare_map(deep, options, distance=distance, combine=Combine.SUM, loss_weight=_ALPHA, blur_sigma=0.0),
    )
    spec = PairSpec(maps, Join.CONFIRMED, options.score or ScoreRule.SUM)
    return MixedPair(teacher, [reduced_student(teacher, 0), convolutions], spec), source


METHOD = Method(name="mixed-teacher", paper="Thomine et al., MixedTeacher, VISAPP 2023", build=build)
