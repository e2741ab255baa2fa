"""The verdict on an image: the one place where a score becomes a decision."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdx.decision.answers import AnswerFault
from kdx.errors import InputError
from kdx.imaging.frame_faults import FrameFault


class Decision(str, enum.Enum):
    """The decision on an image. Only ``GOOD`` lets a part pass."""

    GOOD = "good"
    REVIEW = "review"
    DEFECTIVE = "defective"
    UNDECIDED = "undecided"


class Reason(str, enum.Enum):
    """Why a verdict is undecided; if several reasons apply, the first in this list.

    ``NOT_FINITE``: the map or the score contains NaN or infinity. ``BELOW_RANGE``: the map or the
    score is lower than the method can give. ``SCORE_MISMATCH``: the score is not the maximum of the
    map, although the method defines it so. These three mean that the runtime, its driver or the
    graph is at fault. ``NO_THRESHOLD``: there is no calibration, or it is no longer valid.
    ``OTHER_REGION``: the threshold belongs to another region of interest. ``FRAME``: the frame
    shows no part, see :attr:`Verdict.frame_faults`.
    """

    NOT_FINITE = "not_finite"
    BELOW_RANGE = "below_range"
    SCORE_MISMATCH = "score_mismatch"
    NO_THRESHOLD = "no_threshold"
    OTHER_REGION = "other_region"
    FRAME = "frame"

    @property
    def is_of_answer(self) -> bool:
        """Whether the answer is invalid, so that map and score say nothing about the part."""
        return self in _OF_ANSWER


_OF_ANSWER = frozenset(Reason(fault.value) for fault in AnswerFault)


@dataclass(frozen=True)
class Verdict:
    """The verdict on one image.

    Attributes:
        decision: The decision; undecided if the bundle has no threshold, or none for this region of
            interest, if the answer is not one that the method can give, or if the frame shows no
            part. Such an image is never called good.
        score: The anomaly score, computed inside the region of interest if there is one, and from
            the normalised map if the bundle has a level map. NaN if the answer is not one that the
            method can give.
        threshold: The calibrated score above which an image is defective, or None.
        anomaly_map: The anomaly map, float32 ``(h, w)``, at the network's resolution: divided by
            the level map if there is one, and 0 outside the region of interest. Values that are not
            finite stay in it.
        pixel_threshold: The map value that hardly any good image reaches anywhere, or None.
        frame_faults: Why the frame shows no part, whatever its score; empty if there is no fault.
        review_threshold: The score above which somebody should look, or None without a review band.
        reason: Why the decision is undecided; None for other decisions.
        frame_checked: Whether the frame was checked for faults; False for frames that lie on the
            GPU.
        p_value: The conformal p-value of the score: ``(1 + k) / (1 + n)``, where ``k`` of the ``n``
            good images of the calibration score at least as high. Small values are unusual for good
            parts; the smallest that ``n`` images can show is ``1 / (1 + n)``. None without a valid
            calibration, with one that kept no scores, and for a score that is not finite.
        held_out_images: The number ``n`` of good images that the p-value stands on; 0 without them.
    """

    decision: Decision
    score: float
    threshold: float | None
    anomaly_map: NDArray[np.float32]
    pixel_threshold: float | None = None
    frame_faults: tuple[FrameFault, ...] = ()
    review_threshold: float | None = None
    reason: Reason | None = None
    frame_checked: bool = True
    p_value: float | None = None
    held_out_images: int = 0

    def __bool__(self) -> bool:
        """Refuse ``if detector(frame):``, which would pass defective parts too.

        Raises:
            TypeError: Always.
        """
        raise TypeError("a verdict is neither true nor false: use verdict.is_good, or compare verdict.decision")

    @property
    def is_good(self) -> bool:
        """Whether the part may pass."""
        return self.decision is Decision.GOOD

    @property
    def relative_score(self) -> float | None:
        """The score in units of the threshold, ``score / threshold``: defective above 1.

        None without a threshold, and with one that is not above 0, which is no unit.
        """
        return self.score / self.threshold if self.threshold is not None and self.threshold > 0 else None

    @property
    def margin(self) -> float | None:
        """The relative distance to the threshold, ``score / threshold - 1``.

        Above 0 the score is defective. None where :attr:`relative_score` is None.
        """
        relative = self.relative_score
        return None if relative is None else relative - 1.0


def decide(
    score: float,
    threshold: float | None,
    frame_faults: Sequence[FrameFault] = (),
    review_threshold: float | None = None,
) -> Decision:
    """Return the decision for a score.

    Without a threshold, or with a score that is not finite, an image is undecided. It is defective
    if its score exceeds the threshold. Otherwise it is undecided if the frame has faults, to be
    reviewed if the score exceeds the review threshold, and else good.
    """
    if threshold is None or not math.isfinite(score):
        return Decision.UNDECIDED
    if score > threshold:
        return Decision.DEFECTIVE
    if frame_faults:
        return Decision.UNDECIDED
    return Decision.REVIEW if review_threshold is not None and score > review_threshold else Decision.GOOD


def reason_for(
    decision: Decision,
    score: float,
    threshold: float | None,
    fault: AnswerFault | None = None,
    *,
    other_region: bool = False,
) -> Reason | None:
    """Return why a decision is undecided, or None for other decisions.

    Args:
        decision: The result of :func:`decide`.
        score: The score that was decided upon.
        threshold: The threshold that was used.
        fault: What is wrong with the answer, see :mod:`kdx.decision.answers`.
        other_region: Whether the threshold was not used because it belongs to another region of
            interest.
    """
    if decision is not Decision.UNDECIDED:
        return None
    if fault is not None:
        return Reason(fault.value)
    if not math.isfinite(score):
        return Reason.NOT_FINITE
    if threshold is None:
        return Reason.OTHER_REGION if other_region else Reason.NO_THRESHOLD
    return Reason.FRAME


def verdict_fields(verdict: Verdict) -> dict[str, Any]:
    """Return the fields of a verdict as records have them, in builtins.

    ``review_threshold``, ``reason`` and ``frame_faults`` are left out where there is none.
    """
    record: dict[str, Any] = {
        "verdict": verdict.decision.value,
        "score": verdict.score,
        "threshold": verdict.threshold,
        "margin": verdict.margin,
        "relative_score": verdict.relative_score,
        "p_value": verdict.p_value,
        "held_out_images": verdict.held_out_images,
    }
    if verdict.review_threshold is not None:
        record["review_threshold"] = verdict.review_threshold
    if verdict.reason is not None:
        record["reason"] = verdict.reason.value
    if verdict.frame_faults:
        record["frame_faults"] = [fault.value for fault in verdict.frame_faults]
    return record


def locates_defects(verdict: Verdict) -> bool:
    """Return whether a verdict says where there are defects, and that there are none elsewhere.

    A verdict on an invalid answer does not, and neither does one on a frame that shows no part.
    """
    reason = verdict.reason
    return reason is None or not (reason.is_of_answer or reason is Reason.FRAME)


def above(values: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    """Return where values exceed a threshold, as :func:`decide` compares a score with one.

    NumPy would round the threshold to float32 first; NumPy 1 does so even where it is a float64.
    The float32 nearest to 0.8 exceeds 0.8, and would no longer.
    """
    found: NDArray[np.bool_] = np.greater(values, threshold, signature="dd->?")
    return found


def require_whole_map(anomaly_map: NDArray[np.float32]) -> None:
    """Raise ``InputError`` if a map holds one value for each row: its frame was read in bands."""
    height, width = anomaly_map.shape
    if width == 1 < height:
        raise InputError(
            "the map of a frame that was read in bands has no regions, mask or picture",
            expected="a map of the frame's height and width",
            received=f"the largest value of each of {height} rows",
            fix="use the regions that judge_file returned",
        )
