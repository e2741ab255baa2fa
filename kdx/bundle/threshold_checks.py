"""Does a stored threshold contradict the calibration that is stored beside it?

``bundle.json`` holds no hash of itself, so an edited threshold is found only where the held-out
scores, of which it is one, show that it is another. Only a signature protects all of the file.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from itertools import pairwise
from pathlib import Path

import numpy as np
from msgspec import UNSET, UnsetType

from kdx.bundle.manifest import INDEX
from kdx.bundle.stored_threshold import Threshold
from kdx.errors import BundleError

_FIX = (
    "copy the bundle again from where it was calibrated, or export it again. A threshold is changed with kdx calibrate"
)


def rank_of(images: int, false_reject_rate: float) -> int:
    """Return which of the scores of so many good images, counted from 1, is the threshold."""
    return math.ceil((images + 1) * (1 - false_reject_rate) - 1e-9)


def kept_ranks(images: int, kept: int) -> list[int]:
    """Return the ranks, from 1, of the scores that a calibration on so many images keeps."""
    ranks: list[int] = (1 + np.linspace(0, images - 1, kept).round().astype(int)).tolist()
    return ranks


def require_calibrated(threshold: Threshold, path: Path) -> None:
    """Check that a threshold is what its own held-out scores give, as far as they are stored.

    Args:
        threshold: The threshold.
        path: The bundle's folder, for messages.

    Raises:
        BundleError: The threshold, or the lower end of its review band, is another one.
    """
    score, review, by_hand = threshold.score, threshold.review, threshold.by_hand is not UNSET
    if not threshold.scores:
        return  # an older kdx kept none
    if len(threshold.scores) > threshold.images:
        raise BundleError(
            f"{INDEX} of '{path}' contradicts itself: it keeps more held-out scores than there were images",
            expected=f"at most {threshold.images} scores",
            received=str(len(threshold.scores)),
            fix=_FIX,
        )
    if any(not low <= high for low, high in pairwise(threshold.scores)):
        raise BundleError(
            f"{INDEX} of '{path}' contradicts itself: its threshold does not fit its held-out scores, which are out of "
            "order",
            expected="scores that rise, as a calibration writes them",
            fix=_FIX,
        )
    if by_hand or threshold.defects is not None:
        counted = threshold.defects.false_rejects if threshold.defects else threshold.false_rejects
        _require_count(threshold, counted, score, "threshold", path)
    else:
        _require_score_at(threshold, threshold.false_reject_rate, score, "threshold", path)
    if review is not None and by_hand:
        _require_count(threshold, threshold.put_aside, review.score, "review band", path)
    elif review is not None:
        _require_score_at(threshold, review.false_reject_rate, review.score, "review band", path)


def require_given(threshold: Threshold, path: Path, *, is_scaled: bool) -> None:
    """Check that a threshold that a person set is the number that was given.

    Args:
        threshold: The threshold.
        path: The bundle's folder, for messages.
        is_scaled: Whether it is on the scale of BF16's or INT8's scores in a runtime, which differs
            from that of the number by the record's factor. Without one, only the ratio to the lower
            end of the review band is known.

    Raises:
        BundleError: The threshold, or the lower end of its review band, is another one.
    """
    given = threshold.by_hand
    if given is UNSET:
        return
    found = (threshold.score, threshold.review.score if threshold.review else None)
    expected = (given.score, given.review_score)
    if found == expected and not (is_scaled and given.factor is not UNSET):
        return
    is_fitting = is_scaled and (found[1] is None) == (expected[1] is None)
    if is_fitting and given.factor is not UNSET:
        is_fitting = math.isclose(found[0], expected[0] * given.factor, rel_tol=1e-9)
    if is_fitting and found[1] is not None and expected[1] is not None:
        is_fitting = math.isclose(found[0] * expected[1], found[1] * expected[0], rel_tol=1e-9)
    if not is_fitting:
        raise BundleError(
            f"{INDEX} of '{path}' contradicts itself: a threshold that was set by hand is not the number given",
            expected=_described(*expected) + (_scaled_by(given.factor) if is_scaled else ""),
            received=_described(*found),
            fix=_FIX,
        )


def _scaled_by(factor: float | UnsetType) -> str:
    return ", or both multiplied by one factor" if factor is UNSET else f", multiplied by {factor:.10g}"


def _described(score: float, review: float | None) -> str:
    return f"{score:.10g}, " + ("no review band" if review is None else f"a review band from {review:.10g}")


def _require_count(threshold: Threshold, expected: int, score: float, name: str, path: Path) -> None:
    """Check how many good images exceed a score; quantiles of very many do not tell."""
    above = sum(each > score for each in threshold.scores)
    if len(threshold.scores) == threshold.images and above != expected:
        raise BundleError(
            f"{INDEX} of '{path}' contradicts itself: its {name} does not fit its held-out scores",
            expected=f"one that {expected} of {threshold.images} good images exceed",
            received=f"{score:.6g}, which {above} exceed",
            fix=_FIX,
        )


def _require_score_at(threshold: Threshold, rate: float, score: float, name: str, path: Path) -> None:
    """Check a score at a rate. Of very many images a bundle keeps quantiles, which bound it."""
    kept, ranks = threshold.scores, kept_ranks(threshold.images, len(threshold.scores))
    rank = rank_of(threshold.images, rate)
    low, high = kept[max(bisect_right(ranks, rank) - 1, 0)], kept[min(bisect_left(ranks, rank), len(kept) - 1)]
    if not low <= score <= high:
        raise BundleError(
            f"{INDEX} of '{path}' contradicts itself: its {name} does not fit its held-out scores",
            expected=f"{low:.6g}" + (f" to {high:.6g}" if high > low else "") + f", for a rate of {rate:g}",
            received=f"{score:.6g}",
            fix=_FIX,
        )
