"""How sure the shares of a report are: at the bundle's own thresholds, and at no others.

A threshold that a reader moves on these images is chosen by them, and so is one that was calibrated
on them: what is counted then says nothing of further parts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kd_train.evaluation.evaluate import Evaluation, Scored
from kdx.bundle.stored_threshold import Threshold
from kdx.calibration.rates import share_interval
from kdx.folders.data_folder import GOOD
from kdx.workflows.calibration_images import CHOSEN_ON_DEFECTS

Intervals = dict[str, tuple[float, float]]


def intervals_of(scored: Scored, result: Evaluation, threshold: Threshold | None) -> dict[str, Intervals | None]:
    """Return the 95 % confidence intervals of the shares of good and of defective images.

    Args:
        scored: The images of the report.
        result: Their figures, as ``kdx evaluate`` gives them.
        threshold: At which they are decided, or None.

    Returns:
        For ``good`` and ``defective`` the intervals of the shares ``rejected``, ``accepted`` and
        ``others`` (to review or undecided). None without images, without a threshold, and where
        images of that kind chose the threshold, so that their shares are no measurement.
    """
    is_good = scored.types == GOOD
    on_defects = any(each.kind == CHOSEN_ON_DEFECTS for each in result.remarks)
    found: dict[str, Intervals | None] = {"good": None, "defective": None}
    if threshold is not None and result.false_reject_rate is not None:
        found["good"] = _intervals(scored, is_good, threshold)
    if threshold is not None and not on_defects and not is_good.all():
        found["defective"] = _intervals(scored, ~is_good, threshold)
    return found


def _intervals(scored: Scored, chosen: NDArray[np.bool_], threshold: Threshold) -> Intervals:
    """Return the intervals of some images, decided as :func:`kdx.decision.verdict.decide` does."""
    scores, has_faults = scored.scores[chosen], scored.has_faults[chosen].astype(bool)
    rejected = scores > threshold.score
    to_review = scores > threshold.review.score if threshold.review else np.zeros_like(rejected)
    others = ~rejected & (has_faults | to_review)
    counted = {"rejected": rejected, "others": others, "accepted": ~rejected & ~others}
    return {name: share_interval(int(each.sum()), len(scores)) for name, each in counted.items()}
