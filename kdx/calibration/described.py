"""A stored threshold in one sentence: what it is, and what chose it."""

from __future__ import annotations

from kdx.bundle.stored_threshold import Threshold
from kdx.calibration.by_hand import consequences
from kdx.text import interval, number_of


def describe(threshold: Threshold | None) -> str:
    """Return a threshold, its origin and what it means, in words."""
    if threshold is None:
        return "none: calibrate with kdx calibrate BUNDLE DATA"
    meant = consequences(threshold)
    if meant is not None:
        review = f", review from {threshold.review.score:.6g}" if threshold.review else ""
        return (
            f"{threshold.score:.6g}{review}, set by hand: {threshold.reason}; {meant.describe()}, {threshold.created}"
        )
    if threshold.defects is not None:
        chosen = threshold.defects
        return (
            f"{threshold.score:.6g}, chosen on defects: misses {chosen.misses} of "
            f"{number_of(chosen.images, 'defective [image|images]')}, "
            f"rejects {chosen.false_rejects} of {threshold.images} good ones, {threshold.created}"
        )
    rate = f"{100 * threshold.false_reject_rate:g} % false rejects"
    return (
        f"{threshold.score:.6g} ({interval(*threshold.interval)}) for {rate}, "
        f"{number_of(threshold.images, 'good [image|images]')}, {threshold.created}"
    )
