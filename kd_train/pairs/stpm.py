"""STPM: student-teacher feature pyramid matching (Wang et al., BMVC 2021).

The student is the teacher's network with random weights. At each tap both features are L2-normalised over the channels
and compared by half the squared distance (Eq. 1); the loss is the mean over positions, summed over taps (Eq. 2, 3 with
every weight 1). The map is the product of the taps' bilinearly upsampled distances (Eq. 4); the score its maximum.
"""

from __future__ import annotations

from kd_export.graph import Combine, Distance, PairSpec, ScoreRule
from kd_export.graph.spec import Tap
from kd_train.backbones import TapNetwork, create_backbone, taps_at_strides
from kd_train.pair import Method, Pair, PairOptions
from kd_train.weights import load_weights


def build(options: PairOptions) -> tuple[Pair, str]:
    """Build an STPM pair; the student's weights are drawn from torch's current seed."""
    student_model = create_backbone(options.backbone)
    teacher_model = create_backbone(options.backbone)
    source = "checkpoint" if options.weights is None else load_weights(teacher_model, options.backbone, options.weights)
    taps = options.taps or taps_at_strides(teacher_model, options.strides)
    teacher = TapNetwork(teacher_model, taps)
    student = TapNetwork(student_model, taps)
    spec = PairSpec(
        taps=tuple(Tap(name, Distance.HALF_SQUARED_L2) for name in teacher.taps),
        combine=Combine.PRODUCT,
        blur_sigma=options.blur_sigma,
        score=ScoreRule.MAX,
    )
    pair = Pair(teacher, student, spec, channels=teacher.channels, mean=teacher.mean, std=teacher.std)
    return pair, source


METHOD = Method(name="stpm", paper="Wang et al., Student-Teacher Feature Pyramid Matching, BMVC 2021", build=build)
