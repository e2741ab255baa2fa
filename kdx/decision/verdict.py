"""What is said of an image, and why: the one place where a score becomes a decision."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdx.decision.answers import AnswerFault
from kdx.imaging.frame_faults import FrameFault


class Decision(str, enum.Enum):
    """What is said of an image. Only ``GOOD`` lets a part pass."""

    GOOD = "good"
    REVIEW = "review"
    DEFECTIVE = "defective"
    UNDECIDED = "undecided"


class Reason(str, enum.Enum):
    """Why a verdict is undecided; where several hold, the first of these.

    ``NOT_FINITE``: the map or the score holds NaN or infinity. ``BELOW_RANGE``: the map or the score is below any that
    the method can give. ``SCORE_MISMATCH``: the score is not the maximum of the map, as the method says it is. All
    three mean that the runtime, its driver or the graph is at fault. ``NO_THRESHOLD``: there is no
    calibration, or it does not hold any more. ``OTHER_REGION``: the threshold is of another region of interest.
    ``FRAME``: the frame shows no part, see :attr:`Verdict.frame_faults`.
    """

    NOT_FINITE = "not_finite"
    BELOW_RANGE = "below_range"
    SCORE_MISMATCH = "score_mismatch"
    NO_THRESHOLD = "no_threshold"
    OTHER_REGION = "other_region"
    FRAME = "frame"

    @property
    def is_of_answer(self) -> bool:
        """Whether map and score are not an answer of the method, so that neither says anything of the part."""
        return self in _OF_ANSWER


_OF_ANSWER = frozenset(Reason(fault.value) for fault in AnswerFault)


@dataclass(frozen=True)
class Verdict:
    """The answer for one image.

    Attributes:
        decision: Undecided where the bundle has no threshold, or none for this region of interest, the map or the score
            is not one that the method can give, or the frame shows no part: never silently good.
        score: The raw anomaly score, of the region of interest where there is one; where the bundle has a level map, of
            the normalised map. NaN where the map or the score is not one that the method can give.
        threshold: The calibrated score above which an image is defective, or None.
        anomaly_map: float32 ``(h, w)``, at the network's resolution: raw, or divided by the level map where there is
            one; 0 where the region of interest excludes it. Values that are not finite stay in it.
        pixel_threshold: The map value that hardly any good image reaches anywhere, or None.
        frame_faults: Why the frame shows no part, whatever it scored; empty for nothing.
        review_threshold: The score above which somebody should look, or None without such a band.
        reason: Why the decision is undecided; None where it is not.
        frame_checked: Whether the frame was looked at for faults; False for frames that lie on the GPU.
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

    @property
    def is_good(self) -> bool:
        """Whether the part may pass."""
        return self.decision is Decision.GOOD

    @property
    def margin(self) -> float | None:
        """Relative distance to the threshold, ``score / threshold - 1``: negative on the good side; None without."""
        return None if not self.threshold else self.score / self.threshold - 1.0


def decide(
    score: float,
    threshold: float | None,
    frame_faults: Sequence[FrameFault] = (),
    review_threshold: float | None = None,
) -> Decision:
    """Return the decision for a score.

    Defective when it exceeds the threshold; undecided in a frame with faults, which is never good; to be reviewed when
    it exceeds the review threshold; else good.
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
    """Return why a decision is undecided, or None where it is not.

    Args:
        decision: Of :func:`decide`.
        score: As it was decided.
        threshold: Likewise.
        fault: What is wrong with the answer, see :mod:`kdx.decision.answers`.
        other_region: Whether the threshold was left out for being of another region of interest.
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
