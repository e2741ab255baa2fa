"""Does a variant decide what FP32 decides? Compares scores, whatever computed them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from kdx.bundle.variants import DecisionComparison, HeldOutVerdicts
from kdx.text import number_of
from kdx.verification.comparison import map_differences
from kdx.verification.held_out import HeldOut, HeldOutScores, auroc, compare_verdicts
from kdx.verification.tolerances import Limits


@dataclass(frozen=True)
class Evidence:
    """What a variant is judged on.

    Attributes:
        golden: The golden images, uint8 ``(K, H, W, C)``.
        thresholds: FP32's threshold and the variant's own, where both are calibrated.
        images: Evaluation images, M of ``(H, W, C)``, or None.
        is_defective: Labels of the evaluation images, bool ``(M,)``; the AUROC needs both kinds.
        held_out: Held-out good images and synthetic defects on them; None to judge without them.
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
        thresholds: FP32's threshold and the variant's own.
        reference: FP32's scores, ``(M,)``.
        scores: The variant's scores, ``(M,)``.
    """

    thresholds: tuple[float, float]
    reference: NDArray[np.float64]
    scores: NDArray[np.float64]


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """A variant in one runtime against FP32.

    Attributes:
        runtime: The runtime that computed the variant's scores.
        compared: Images beyond the margin from the threshold or, without a threshold, pairs of
            golden images that are further apart than the margin.
        flips: How many of those are decided, or ordered, differently.
        score_max: Largest golden score difference, as :attr:`Limits.score` counts it.
        score_median: Median over the golden images of the relative difference, signed.
        auroc: The variant's AUROC on the evaluation images, or None.
        auroc_reference: FP32's AUROC on the evaluation images, or None.
        verdicts: What changed on held-out good images and synthetic defects, or None.
        decisions: How well the variant decides beside FP32, where it was judged by that.
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
    decisions: list[DecisionComparison] = []
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
    """Compare a variant's scores with FP32's.

    Args:
        runtime: The runtime that computed the variant's scores.
        limits: What a variant of this precision may change.
        evidence: Thresholds and labels.
        golden: FP32's and the variant's scores of the golden images, ``(K,)`` each.
        maps: FP32's and the variant's maps of the golden images, ``(K, h, w)``; None to skip them.
        evaluated: FP32's and the variant's scores of the evaluation images.
        held_out: FP32's and the variant's scores of held-out good images and synthetic defects.
        decided: Further images that must keep their verdicts, like golden images with thresholds.
    """
    reference, scores = golden
    if not (np.isfinite(reference).all() and np.isfinite(scores).all()):
        return not_finite(runtime)
    compared, flips = (
        _flips(reference, scores, evidence.thresholds, limits.margin)
        if evidence.thresholds
        else inversions(reference, scores, limits.margin)
    )
    if decided is not None:
        further, turned = _flips(decided.reference, decided.scores, decided.thresholds, limits.margin)
        compared, flips = compared + further, flips + turned
    score_max = float(score_differences(reference, scores).max())
    faults = []
    if flips:
        what = "images are decided" if evidence.thresholds else "pairs of golden images are ordered"
        if decided is not None and not evidence.thresholds:
            what = "pairs of golden images are ordered, or further images decided,"
        faults.append(f"{flips} of {compared} {what} differently, beyond the margin of {limits.margin:.0%}")
    if score_max > limits.score:
        faults.append(f"a golden score moved by {score_max:.1%}, allowed are {limits.score:.0%}")
    map_max = None if maps is None else float(map_differences(*maps).max())
    if map_max is not None and not map_max <= limits.map:
        faults.append(f"a golden map moved by {map_max:.0%} of its range, allowed are {limits.map:.0%}")
    area = area_reference = None
    if evaluated is not None and evaluated[1] is not None and evidence.is_defective is not None:
        area_reference, area = (auroc(evidence.is_defective, each) for each in (evaluated[0], evaluated[1]))
        if not (np.isfinite(evaluated[0]).all() and np.isfinite(evaluated[1]).all()):
            faults.append("scores of labelled images that are not finite")
        elif not abs(area - area_reference) <= limits.auroc:
            faults.append(
                f"image AUROC {100 * area:.2f}, FP32 has {100 * area_reference:.2f}; they may differ by "
                f"{100 * limits.auroc:g} points"
            )
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
        score_median=median_shift(reference, scores),
        auroc=area,
        auroc_reference=area_reference,
        verdicts=verdicts,
        faults=faults,
    )


def not_finite(runtime: str) -> Judgement:
    """Return the judgement of golden scores that are not finite."""
    return Judgement(
        runtime=runtime, compared=0, flips=0, score_max=float("inf"), score_median=float("inf"),
        faults=["scores that are not finite"],
    )  # fmt: skip


def score_differences(reference: NDArray[np.float64], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far scores ``(K,)`` are from the reference's, relatively.

    Where the median of all is larger than a score, it is used: the scores of very good images may
    move.
    """
    scale = np.maximum(reference, np.median(reference)).clip(1e-30)
    relative: NDArray[np.float64] = np.abs(scores - reference) / scale
    return relative


def median_shift(reference: NDArray[np.float64], scores: NDArray[np.float64]) -> float:
    """Return the median relative difference, signed: a shift of all scores shifts the threshold."""
    return float(np.median(scores / reference.clip(1e-30))) - 1.0


def _flips(
    reference: NDArray[np.float64], scores: NDArray[np.float64], thresholds: tuple[float, float], margin: float
) -> tuple[int, int]:
    """Count images beyond the margin from the threshold, and those decided differently."""
    exact, own = thresholds
    clear = np.abs(reference - exact) > margin * abs(exact)
    return int(clear.sum()), int((clear & ((reference > exact) != (scores > own))).sum())


def inversions(reference: NDArray[np.float64], scores: NDArray[np.float64], margin: float) -> tuple[int, int]:
    """Count pairs of images with FP32 scores beyond the margin, and those whose order changes."""
    apart = reference[:, None] > (1 + margin) * reference[None, :]
    return int(apart.sum()), int((apart & (scores[:, None] <= scores[None, :])).sum())


def _judge_verdicts(
    reference: HeldOutScores, variant: HeldOutScores, limits: Limits
) -> tuple[HeldOutVerdicts | None, list[str]]:
    """Compare verdicts on held-out images and synthetic defects, and name exceeded limits."""
    if reference.missing:
        return None, [reference.missing]
    if not all(np.isfinite(each).all() for of in (reference, variant) for each in (of.good, of.defects)):
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
            f"verdicts flipped on {found.flipped_images} of {number_of(found.frames, 'held-out good [image|images]')}, "
            f"which bounds their "
            f"share to {found.rate_bound:.0%} with 95 % confidence; allowed are {limits.rate_bound:.0%}"
        )
    if not found.caught:
        faults.append("FP32 rejects none of the synthetic defects, so missed defects cannot be counted")
    if found.missed > limits.missed * found.caught:
        faults.append(
            f"{found.missed} of {found.caught} synthetic defects that FP32 rejects are missed, allowed are "
            f"{limits.missed:.0%}"
        )
    fall = max(limits.auroc, limits.passed_by / found.frames)
    if not found.auroc >= found.auroc_reference - fall:
        faults.append(
            f"image AUROC on synthetic defects {100 * found.auroc:.2f}, FP32 has {100 * found.auroc_reference:.2f}; "
            f"it may fall by {100 * fall:.2g} points"
        )
    return found, faults
