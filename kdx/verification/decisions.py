"""Does a variant decide as well as FP32? For networks that were trained in their own precision.

The scores of students that were trained as INT8 networks, from a quantised teacher, may differ from
FP32's: rounding that is in the teacher while a student learns is no difference to it. So the gate
does not ask for FP32's verdicts here, as :mod:`kdx.verification.judge` does, but for verdicts as
good as those: it compares how well both separate defects from good images, and how many defects
each rejects at the calibrated false-reject rate. On labelled images it also compares how many good
images each rejects. On held-out images that follows from the rate: each threshold is the one at
which a detector rejects this share of the other held-out images.

That is a question of non-inferiority (D'Agostino, Massaro and Sullivan, Non-inferiority trials,
Statistics in Medicine 22, 2003). A variant fails where it was found to be worse and its 95 %
interval reaches beyond a stated limit: so that it is no worse than the limit has been shown, and
not just failed to be refuted. A variant that was found to be as good or better passes. Of few
images intervals are wide, and so are the limits, see
:class:`kdx.verification.tolerances.DecisionLimits`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from kdx.bundle.variants import DecisionComparison
from kdx.runtime.backend import Outputs
from kdx.verification.comparison import map_differences
from kdx.verification.held_out import HeldOutScores, auroc_of, compare_verdicts
from kdx.verification.judge import Judgement, inversions, median_shift, not_finite, score_differences
from kdx.verification.resampling import aurocs, draws, interval, shares, thresholds, thresholds_of_others
from kdx.verification.tolerances import LIMITS, DecisionLimits, Tolerances

_Scores = NDArray[np.float64]


class Labelled(NamedTuple):
    """Scores of labelled images.

    Attributes:
        is_defective: The labels, ``(M,)``, of both kinds.
        reference: FP32's scores, ``(M,)``.
        scores: The variant's scores, ``(M,)``.
    """

    is_defective: NDArray[np.bool_]
    reference: _Scores
    scores: _Scores


class _Decided(NamedTuple):
    """Scores and verdicts of a detector: good images ``(G,)`` and defects ``(D,)``."""

    good: _Scores
    defects: _Scores
    good_rejected: NDArray[np.bool_]
    defects_rejected: NDArray[np.bool_]


def compare_decisions(reference: HeldOutScores, variant: HeldOutScores) -> DecisionComparison:
    """Compare how well a variant and FP32 decide held-out good images and synthetic defects."""
    areas, rejected = [], []
    for (drawn,) in draws(reference.count):
        good, defects = drawn[:, reference.frame_of_good], drawn[:, reference.frame_of_defects]
        area, own_area = (aurocs(each.good, each.defects, good, defects) for each in (reference, variant))
        limits = (thresholds_of_others(each.of_frames, drawn, each.above_others) for each in (reference, variant))
        share, own_share = (
            shares(each.defects > limit[:, reference.frame_of_defects], defects)
            for each, limit in zip((reference, variant), limits, strict=True)
        )
        areas.append(own_area - area)
        rejected.append(own_share - share)
    exact, own = (_Decided(each.good, each.defects, *each.rejected()) for each in (reference, variant))
    return _comparison("synthetic", reference, exact, own, interval(areas), interval(rejected))


def compare_labelled(reference: HeldOutScores, variant: HeldOutScores, labelled: Labelled) -> DecisionComparison:
    """Compare how well a variant and FP32 decide labelled images.

    Args:
        reference: FP32's scores of held-out images, which choose its threshold.
        variant: The variant's scores of held-out images, which choose its own.
        labelled: Scores of the labelled images.
    """
    exact = _decided_labelled(reference, labelled.reference, labelled.is_defective)
    own = _decided_labelled(variant, labelled.scores, labelled.is_defective)
    areas, rejected, false_rejects = [], [], []
    for frames, good, defects in draws(reference.count, len(exact.good), len(exact.defects)):
        area, own_area = (aurocs(each.good, each.defects, good, defects) for each in (exact, own))
        limit, own_limit = (thresholds(each.of_frames, frames, each.above)[:, None] for each in (reference, variant))
        areas.append(own_area - area)
        rejected.append(shares(own.defects > own_limit, defects) - shares(exact.defects > limit, defects))
        false_rejects.append(shares(own.good > own_limit, good) - shares(exact.good > limit, good))
    intervals = interval(areas), interval(rejected), interval(false_rejects)
    return _comparison("labelled", reference, exact, own, *intervals)


def _decided_labelled(held_out: HeldOutScores, scores: _Scores, is_defective: NDArray[np.bool_]) -> _Decided:
    good, defects = scores[~is_defective], scores[is_defective]
    return _Decided(good, defects, good > held_out.threshold, defects > held_out.threshold)


def _comparison(
    kind: Literal["synthetic", "labelled"],
    held_out: HeldOutScores,
    exact: _Decided,
    own: _Decided,
    auroc_interval: tuple[float, float],
    rejected_interval: tuple[float, float],
    false_rejects_interval: tuple[float, float] | UnsetType = UNSET,
) -> DecisionComparison:
    return DecisionComparison(
        defects_are=kind,
        good=len(exact.good),
        frames=held_out.count if kind == "synthetic" else len(exact.good),
        defects=len(exact.defects),
        false_reject_rate=held_out.false_reject_rate,
        auroc=auroc_of(own.good, own.defects),
        auroc_reference=auroc_of(exact.good, exact.defects),
        auroc_interval=auroc_interval,
        rejected=int(own.defects_rejected.sum()),
        rejected_reference=int(exact.defects_rejected.sum()),
        rejected_interval=rejected_interval,
        false_rejects=int(own.good_rejected.sum()),
        false_rejects_reference=int(exact.good_rejected.sum()),
        false_rejects_interval=false_rejects_interval,
    )


def decision_faults(found: DecisionComparison, limits: DecisionLimits) -> list[str]:
    """Return what is worse than FP32 beyond the limits, in words; shares differ by points."""
    images = f"{found.defects_are} defects"
    factor = limits.factor(found.frames if found.defects_are == "synthetic" else min(found.good, found.defects))
    faults = []
    allowed = limits.auroc * factor
    low = found.auroc_interval[0]
    if found.auroc < found.auroc_reference and low < -allowed:
        faults.append(
            f"image AUROC on {images} {100 * found.auroc:.1f}, FP32 has {100 * found.auroc_reference:.1f}; with 95 % "
            f"confidence it may be lower by up to {-100 * low:.1f} points, allowed are {100 * allowed:.1f}"
        )
    if found.false_rejects_interval is not UNSET and found.false_rejects > found.false_rejects_reference:
        # The number of defects does not matter here.
        allowed = limits.false_rejects * limits.factor(found.good)
        high = found.false_rejects_interval[1]
        if high > allowed:
            faults.append(
                f"{found.false_rejects} of {found.good} labelled good images are rejected, FP32 rejects "
                f"{found.false_rejects_reference}; with 95 % confidence the share may be higher by up to "
                f"{100 * high:.1f} points, allowed are {100 * allowed:.1f}"
            )
    if not found.rejected_reference and found.defects_are == "labelled":
        return faults  # too subtle for FP32 too, and the synthetic defects are compared beside them
    if not found.rejected_reference:  # what rejects some by chance is no gain
        none = f"FP32 rejects none of the {found.defects} {images}, so missed defects cannot be compared"
        return [*faults, none]
    if not found.rejected:
        return [*faults, f"none of the {found.defects} {images} is rejected"]
    # The limit is a share of what FP32 rejects, and is compared as a share of all defects.
    low = found.rejected_interval[0]
    allowed = limits.rejected * factor * found.rejected_reference / found.defects
    if found.rejected < found.rejected_reference and low < -allowed:
        faults.append(
            f"{found.rejected} of {found.defects} {images} are rejected, FP32 rejects {found.rejected_reference}; "
            f"with 95 % confidence the share may be lower by up to {-100 * low:.1f} points, allowed are "
            f"{100 * allowed:.1f}"
        )
    return faults


def judge_decisions(
    runtime: str,
    limits: DecisionLimits,
    tolerances: Tolerances,
    golden: tuple[Outputs, Outputs, Outputs],
    held_out: tuple[HeldOutScores, HeldOutScores] | None = None,
    labelled: Labelled | None = None,
) -> Judgement:
    """Judge whether a variant decides as well as FP32, and computes what it was trained as.

    Args:
        runtime: The runtime that computed the variant's scores.
        limits: How much worse than FP32 it may be.
        tolerances: How far from its own reference it may be.
        golden: FP32's, the reference's and the variant's answers on the golden images. The
            reference is the module that was trained, as PyTorch computes it.
        held_out: FP32's and the variant's scores of held-out good images and synthetic defects;
            None where the golden images alone are judged.
        labelled: FP32's and the variant's scores of labelled images of both kinds, or None.
    """
    exact, expected, found = (each.scores[:, 0].astype(np.float64) for each in golden)
    if not (np.isfinite(found).all() and np.isfinite(golden[2].maps).all()):
        return not_finite(runtime)
    faults = []
    score_off, map_off = score_differences(expected, found).max(), map_differences(golden[1].maps, golden[2].maps).max()
    if not (score_off <= tolerances.score and map_off <= tolerances.map):
        faults.append(
            f"golden scores are off by {score_off:.2g} and maps by {map_off:.2g} of what the trained module computes, "
            f"allowed are {tolerances.score:g} and {tolerances.map:g}"
        )
    verdicts, decisions = None, []
    if held_out is not None:
        reference, variant = held_out
        if reference.missing:
            faults.append(reference.missing)
        elif not all(np.isfinite(scores).all() for each in held_out for scores in (each.good, each.defects)):
            faults.append("scores of held-out images that are not finite")
        else:
            verdicts = compare_verdicts(reference, variant)
            decisions = [compare_decisions(reference, variant)]
            if labelled is not None and not np.isfinite([labelled.reference, labelled.scores]).all():
                faults.append("scores of labelled images that are not finite")
            elif labelled is not None:
                decisions.append(compare_labelled(reference, variant, labelled))
    faults += [fault for each in decisions for fault in decision_faults(each, limits)]
    compared, flips = inversions(exact, found, LIMITS["int8"].margin)
    return Judgement(
        runtime=runtime,
        compared=compared,
        flips=flips,
        score_max=float(score_differences(exact, found).max()),
        score_median=median_shift(exact, found),
        auroc=next((each.auroc for each in decisions if each.defects_are == "labelled"), None),
        auroc_reference=next((each.auroc_reference for each in decisions if each.defects_are == "labelled"), None),
        verdicts=verdicts,
        decisions=decisions,
        faults=faults,
    )
