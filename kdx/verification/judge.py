"""Does a variant decide what FP32 decides? Scores against scores; what runs them is not asked here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from kdx.bundle.variants import HeldOutVerdicts
from kdx.verification.held_out import HeldOut, HeldOutScores, auroc, compare_verdicts


class Limits(msgspec.Struct, frozen=True):
    """What a variant may change.

    Attributes:
        margin: Reference scores this near to the threshold, or to each other, relatively, are no decision to be lost.
        score: Largest difference of a golden image's score, relative to that score or, where that is larger, to the
            median of all: the scores of very good images may move, they are far from any decision.
        auroc: Largest difference of the image AUROC on the evaluation images.
        map: Largest difference of a golden map's value, as :func:`map_differences` counts it.
        flips: Largest share of verdicts on held-out good images and synthetic defects that may differ. As many as one
            good image and the defects on it have may always: of few images a single verdict is more than this share.
        rate_bound: Largest upper 95 % bound of the share of good images with a flip. It is what few images are refused
            by: with 6 to 9 none may flip, one with 10, two with 14, three with 17. Beyond about 50, ``flips`` allows
            less.
        missed: Largest share of the synthetic defects that FP32 rejects which may be lost. No allowance is made for few
            images: what ``flips`` and ``rate_bound`` let through could all be defects, and a third of those found.
        passed_by: Of few images, the AUROC may fall by what one good image changes that passes such a share of the
            defects. All of them is a fall of ``1 / images``: 0.17 for 6. A smaller share would refuse variants for the
            order of two or three scores that lie near each other; defects that are lost are counted by ``missed``.
    """

    margin: float
    score: float
    auroc: float = 0.005
    map: float = 0.5
    flips: float = 0.02
    rate_bound: float = 0.4
    missed: float = 0.1
    passed_by: float = 0.3


# Trained STPM on tf_efficientnet_lite0, 348 magnetic tiles, everything quantised: the middle 90 % of the scores moved
# by -6 to +57 % with a median of +11 % (which the own threshold takes up), the upper end on scores a tenth of the
# threshold; with the 8 worst of 108 nodes in FP32 by -4 to +16 %, median +3 %. BF16: 3 % in the median, 29 % at most.
INT8 = Limits(margin=0.15, score=0.35)
BF16 = Limits(margin=0.10, score=0.25)
LIMITS = {"bf16": BF16, "int8": INT8}


@dataclass(frozen=True)
class Evidence:
    """What a variant is judged on.

    Attributes:
        golden: uint8 ``(K, H, W, C)``, real images.
        thresholds: FP32's and the variant's own, where both are calibrated.
        images: Evaluation images, M of ``(H, W, C)``, or None.
        is_defective: Their labels, bool ``(M,)``, both kinds among them; else the AUROC does not count.
        held_out: Held-out good images and synthetic defects on them; None where verdicts are judged otherwise.
    """

    golden: NDArray[np.uint8]
    thresholds: tuple[float, float] | None = None
    images: Iterable[NDArray[np.uint8]] | None = None
    is_defective: NDArray[np.bool_] | None = None
    held_out: HeldOut | None = None

    @property
    def is_labelled(self) -> bool:
        """Whether there are evaluation images of both kinds, without which there is no AUROC."""
        labels = self.is_defective
        return self.images is not None and labels is not None and bool(labels.any()) and not labels.all()


class Decided(NamedTuple):
    """Images that are decided.

    Attributes:
        thresholds: FP32's and the variant's own.
        reference: FP32's scores, ``(M,)``.
        scores: The variant's.
    """

    thresholds: tuple[float, float]
    reference: NDArray[np.float64]
    scores: NDArray[np.float64]


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """A variant in one runtime against FP32.

    Attributes:
        runtime: Which.
        compared: Images beyond the margin from the threshold or, without a threshold, pairs of golden images beyond it.
        flips: How many of those are decided, or ordered, otherwise.
        score_max: Largest golden score difference, as :attr:`Limits.score` counts it.
        score_median: Median over the golden images of the relative difference, signed.
        auroc: Of the variant on the evaluation images, or None.
        auroc_reference: Of FP32.
        verdicts: On held-out good images and synthetic defects, or None.
        faults: What is beyond the limits, in words; none where it passed.
    """

    runtime: str
    compared: int
    flips: int
    score_max: float
    score_median: float
    auroc: float | None = None
    auroc_reference: float | None = None
    verdicts: HeldOutVerdicts | None = None
    faults: list[str] = []

    @property
    def passed(self) -> bool:
        """Whether nothing is beyond the limits."""
        return not self.faults


def judge(
    runtime: str,
    limits: Limits,
    evidence: Evidence,
    golden: tuple[NDArray[np.float64], NDArray[np.float64]],
    maps: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
    evaluated: tuple[NDArray[np.float64], NDArray[np.float64] | None] | None = None,
    held_out: tuple[HeldOutScores, HeldOutScores] | None = None,
    decided: Decided | None = None,
) -> Judgement:
    """Hold scores against FP32's.

    Args:
        runtime: Where the variant's come from.
        limits: Of the precision.
        evidence: Thresholds and labels.
        golden: FP32's and the variant's scores of the golden images, ``(K,)`` each.
        maps: Likewise their maps, ``(K, h, w)``; None where they are not looked at.
        evaluated: Likewise of the evaluation images.
        held_out: Likewise of held-out good images and synthetic defects.
        decided: Further images that must keep their verdicts, as the golden ones must where there are thresholds.
    """
    reference, scores = golden
    if not np.isfinite(scores).all():
        return Judgement(
            runtime=runtime, compared=0, flips=0, score_max=float("inf"), score_median=float("inf"),
            faults=["scores that are not finite"],
        )  # fmt: skip
    compared, flips = (
        _flips(reference, scores, evidence.thresholds, limits.margin)
        if evidence.thresholds
        else _inversions(reference, scores, limits.margin)
    )
    if decided is not None:
        further, turned = _flips(decided.reference, decided.scores, decided.thresholds, limits.margin)
        compared, flips = compared + further, flips + turned
    # What moves all scores alike moves the threshold with them.
    shift = float(np.median(scores / reference.clip(1e-30)))
    scale = np.maximum(reference, np.median(reference)).clip(1e-30)
    score_max = float((np.abs(scores - reference) / scale).max())
    faults = []
    if flips:
        what = "images are decided" if evidence.thresholds else "pairs of golden images are ordered"
        faults.append(f"{flips} of {compared} {what} otherwise, beyond the margin of {limits.margin:.0%}")
    if score_max > limits.score:
        faults.append(f"a golden score moved by {score_max:.1%}, allowed are {limits.score:.0%}")
    map_max = None if maps is None else float(map_differences(*maps).max())
    if map_max is not None and not map_max <= limits.map:
        faults.append(f"a golden map moved by {map_max:.0%} of its range, allowed are {limits.map:.0%}")
    area = area_reference = None
    if evaluated is not None and evaluated[1] is not None and evidence.is_defective is not None:
        area_reference, area = (auroc(evidence.is_defective, each) for each in (evaluated[0], evaluated[1]))
        if not abs(area - area_reference) <= limits.auroc:
            faults.append(f"image AUROC {area:.4f}, FP32 has {area_reference:.4f}; allowed are {limits.auroc:g}")
    verdicts = None
    if held_out is not None:
        verdicts, found = _judge_verdicts(*held_out, limits)
        faults += found
    if not compared and evidence.held_out is None and not evidence.is_labelled:
        what = "image is further from the threshold" if evidence.thresholds else "two golden images are further apart"
        faults.append(f"there is no evidence: no {what} than the margin of {limits.margin:.0%}")
    return Judgement(
        runtime=runtime,
        compared=compared,
        flips=flips,
        score_max=score_max,
        score_median=shift - 1.0,
        auroc=area,
        auroc_reference=area_reference,
        verdicts=verdicts,
        faults=faults,
    )


def map_differences(reference: NDArray[np.float32], maps: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return how far maps ``(K, h, w)`` are from the reference's, relative to the range of each map of the reference.

    Where the median range of all is larger, it counts: the maps of very good images are nearly flat.
    """
    exact = reference.astype(np.float64)
    extent = np.ptp(exact, axis=(1, 2), keepdims=True)
    scale = np.maximum(extent, np.median(extent)).clip(np.finfo(np.float32).tiny)
    relative: NDArray[np.float64] = np.abs(maps - exact) / scale
    return relative


def _flips(
    reference: NDArray[np.float64], scores: NDArray[np.float64], thresholds: tuple[float, float], margin: float
) -> tuple[int, int]:
    """Count images beyond the margin from FP32's threshold, and those of them that are decided otherwise."""
    exact, own = thresholds
    clear = np.abs(reference - exact) > margin * abs(exact)
    return int(clear.sum()), int((clear & ((reference > exact) != (scores > own))).sum())


def _inversions(reference: NDArray[np.float64], scores: NDArray[np.float64], margin: float) -> tuple[int, int]:
    """Count pairs of images that FP32 tells apart by more than the margin, and those of them whose order changes."""
    apart = reference[:, None] > (1 + margin) * reference[None, :]
    return int(apart.sum()), int((apart & (scores[:, None] <= scores[None, :])).sum())


def _judge_verdicts(
    reference: HeldOutScores, variant: HeldOutScores, limits: Limits
) -> tuple[HeldOutVerdicts | None, list[str]]:
    """Compare verdicts on held-out good images and synthetic defects, and say what is beyond the limits."""
    if reference.missing:
        return None, [reference.missing]
    if not (np.isfinite(variant.good).all() and np.isfinite(variant.defects).all()):
        return None, ["scores of held-out images that are not finite"]
    found = compare_verdicts(reference, variant)
    count = found.good + found.defects
    faults = []
    allowed = int(max(limits.flips * count, count / found.frames))
    if found.flips > allowed:
        faults.append(
            f"{found.flips} of {count} verdicts on held-out good images and synthetic defects flipped, allowed are "
            f"{allowed}"
        )
    if found.rate_bound > limits.rate_bound:
        faults.append(
            f"verdicts flipped on {found.flipped_images} of {found.frames} held-out good images, which bounds their "
            f"share to {found.rate_bound:.0%} with 95 % confidence; allowed are {limits.rate_bound:.0%}"
        )
    if not found.caught:
        faults.append("FP32 rejects none of the synthetic defects: none could be seen to be missed")
    if found.missed > limits.missed * found.caught:
        faults.append(
            f"{found.missed} of {found.caught} synthetic defects that FP32 rejects are missed, allowed are "
            f"{limits.missed:.0%}"
        )
    fall = max(limits.auroc, limits.passed_by / found.frames)
    if found.auroc < found.auroc_reference - fall:
        faults.append(
            f"image AUROC on synthetic defects {found.auroc:.4f}, FP32 has {found.auroc_reference:.4f}; it may fall by "
            f"{fall:.2g}"
        )
    return found, faults
