"""How far from its reference a precision may be: at the gate of the export, and on golden images.

Every load needs these numbers, but not the statistics of the gate, which take long to import.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from kdx.bundle.manifest import Manifest


class Limits(msgspec.Struct, frozen=True):
    """What a variant may change at the gate, see :mod:`kdx.verification.judge`.

    Attributes:
        margin: Relative distance from the threshold, or between two images, within which a changed
            decision does not count.
        score: Largest difference of a golden image's score, relative to that score or to the median
            of all scores, whichever is larger: the scores of very good images may move, because
            they are far from any decision.
        auroc: Largest difference of the image AUROC on the evaluation images.
        map: Largest difference of a golden map's value, relative to the range of the map, see
            :func:`kdx.verification.comparison.map_differences`.
        flips: Largest share of verdicts on held-out good images and synthetic defects that may
            differ. One good image and the defects drawn on it may always differ: of few images, a
            single verdict is more than this share.
        rate_bound: Largest upper 95 % bound of the share of good images with a flip. It limits what
            few images can show: with 6 to 9 images none may flip, with 10 one, with 14 two, with 17
            three. Beyond about 50 images, ``flips`` allows less.
        missed: Largest share of the synthetic defects rejected by FP32 that the variant may miss.
            It makes no allowance for few images: what ``flips`` and ``rate_bound`` allow could all
            be defects, and a third of those detected.
        passed_by: With few images, the AUROC may fall by as much as one good image changes it that
            moves past this share of the defects. Moving past all of them is a fall of ``1 /
            images``: 0.17 for 6. A smaller share would refuse variants for the order of two or
            three scores that are close to each other; ``missed`` counts the lost defects.
    """

    margin: float
    score: float
    auroc: float = 0.005
    map: float = 0.5
    flips: float = 0.02
    rate_bound: float = 0.4
    missed: float = 0.1
    passed_by: float = 0.3


# Trained STPM on tf_efficientnet_lite0, 348 magnetic tiles, every node quantised: the middle 90 %
# of the scores moved by -6 to +57 % with a median of +11 % (which the variant's own threshold
# absorbs), the upper end on scores of a tenth of the threshold; with the 8 worst of 108 nodes in
# FP32 by -4 to +16 %, median +3 %. BF16: 3 % in the median, 29 % at most.
LIMITS = {"bf16": Limits(margin=0.10, score=0.25), "int8": Limits(margin=0.15, score=0.35)}


class DecisionLimits(msgspec.Struct, frozen=True):
    """How much worse than FP32 a variant may decide, see :mod:`kdx.verification.decisions`.

    Where a variant was found to be worse, its 95 % interval must end within these limits.

    Attributes:
        auroc: Largest loss of image AUROC.
        rejected: Largest net loss of rejected defects, as a share of those that FP32 rejects: what
            only FP32 rejects, less what only the variant does.
        false_rejects: Largest increase of the share of labelled good images that are rejected.
        enough: Number of independent images from which the limits hold as they are. Of fewer, they
            grow with ``sqrt(enough / images)`` as intervals do. So a variant that is as good as
            FP32 passes with few images as often as with many, and has shown less: limits of 6
            images are 3.3 times as wide.
    """

    auroc: float
    rejected: float
    false_rejects: float
    enough: int

    def factor(self, images: int) -> float:
        """Return how many times as wide the limits of so many independent images are."""
        return math.sqrt(max(1.0, self.enough / images))


# The first two limits are below what training an FP32 detector again changes: a variant within them
# is as good as another FP32 detector would be. Three trainings of compact-m on magnetic tiles, with
# other seeds and other held-out images: image AUROC 96.3 with a standard deviation of 0.9 points,
# such that two differ by 1.5 points or more one time in four; 21, 44 and 46 % of the test defects
# rejected at 1 %, where one or two good images choose the threshold.
#
# On 114 held-out tiles and 200 synthetic defects they separate two groups. Intervals of INT8
# networks (compact-s, -m and -l and tf_efficientnet_lite0 after training, compact-m's students)
# end at losses of up to 1.0 points and 10 % of the rejected defects. Those of a network that is
# worse than another (compact-s, -m and -l, tf_efficientnet_lite0) end at 2.1 points or more or at
# 20 % or more, most of them at both.
#
# The limit of false rejects comes from simulated scores: 100 held-out and 100 labelled good images,
# normally distributed, 60 draws. Variants that are as good as FP32, and as similar to it as INT8
# students are, have intervals that end at 7 points at most; with scores that differ six times as
# much, they end at 8 points or less in nine of ten draws. Of variants that also reject a tenth of
# the good images at random 92 % are refused, and of those that reject a fifth, all.
DECISIONS = DecisionLimits(auroc=0.015, rejected=0.15, false_rejects=0.1, enough=64)


class Tolerances(msgspec.Struct, frozen=True):
    """How far a backend may be from the reference on golden images.

    Attributes:
        score: Largest difference of a score, relative to it or to the median of all scores,
            whichever is larger: scores of very good images are far from any decision.
        map: Largest difference of a map's value, relative to the range of that image's reference
            map or to the median of all ranges, whichever is larger.
        tie: Relative distance from the threshold within which a reference score is a tie: a
            decision that differs there does not count.
    """

    score: float
    map: float
    tie: float


# Two FP32 runtimes sum the same products in different orders. Over the depth of these networks that
# came to at most a few 1e-6; the bound leaves room for other machines and stays far below what
# moves a verdict. The threshold is the score of one held-out image, which may be a golden image:
# FP32 runtimes round it to either side.
FP32 = Tolerances(score=1e-4, map=1e-4, tie=1e-5)

# FP16 rounds every value by up to 5e-4, and a distance is what is left of two features that nearly
# agree. On 40 magnetic tiles, trained stpm, dual, dual-det and mixed-teacher on
# tf_efficientnet_lite0: scores moved by up to 3.9 % (median 0.2 to 1 %), maps by up to 6 % of their
# range, the order of the scores hardly (rank correlation 0.9994 and more), with every activation
# rounded as with weights alone. Nearly all of it comes from that teacher: depthwise convolutions
# whose large weights cancel (up to 17.7). Students alone move scores by 0.4 % at most.
FP16 = Tolerances(score=6e-2, map=1.2e-1, tie=2e-2)

# BF16 and INT8 have the limits of their gate, which also judges the order of scores or the
# decisions.
TOLERANCES = {
    "fp32": FP32,
    "fp16": FP16,
    **{name: Tolerances(score=each.score, map=each.map, tie=each.margin) for name, each in LIMITS.items()},
}

# INT8 students are compared with the fake-quantised module, which sums in FP32. A value that lies
# between two steps may be rounded to the other one, which moves what follows, so the differences
# are not those of FP32 runtimes. 36 magnetic tiles and PCBs at 160 x 160, scales with a headroom of
# 1.5, largest difference of a score and of a map in ONNX Runtime, and in OpenVINO:
#
#     STPM on compact-m and -l, trained as INT8     0.8 and 1.6 %      0.8 and 1.6 %
#     trained STPM on compact-s, -m and -l          1.7 and 1.3 %      1.4 and 1.3 %
#     trained STPM on tf_efficientnet_lite0         6.2 and 7.8 %     14.1 and 22.6 %
#     every method on ResNet-18, random weights     4.7 and 18 %      10.9 and 37 %
#
# The median score of trained pairs differs by 0.7 % at most, and by 2.3 % in OpenVINO: where it
# fuses a residual addition into a convolution, it does not round what the convolution adds.
# Thresholds do not see what is common to all scores: each runtime has its own. The limits leave
# room for CPUs without VNNI, and refuse an operation that is computed wrongly. Graphs without
# residual additions, as of STPM on compact networks, have narrower ones.
INT8_STUDENTS = Tolerances(score=0.25, map=0.5, tie=0.15)
INT8_STUDENTS_WITHOUT_RESIDUALS = Tolerances(score=0.1, map=0.2, tie=0.1)


def student_tolerances(residual_additions: int | msgspec.UnsetType) -> Tolerances:
    """Return how far the graph of INT8 students may be from the module that was trained.

    Args:
        residual_additions: The number of quantised additions; unset where it is not known.
    """
    return INT8_STUDENTS_WITHOUT_RESIDUALS if residual_additions == 0 else INT8_STUDENTS


def tolerances_of(manifest: Manifest, precision: str) -> Tolerances:
    """Return how far a precision of a bundle may be from its reference on golden images."""
    if not manifest.is_own_reference(precision):
        return TOLERANCES[precision]
    origin = manifest.provenance.int8
    return student_tolerances(origin.residual_additions if origin is not None else msgspec.UNSET)
