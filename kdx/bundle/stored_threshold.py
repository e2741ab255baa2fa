"""A threshold as ``bundle.json`` holds it, with what chose it."""

from __future__ import annotations

from typing import Annotated

import msgspec


class ReviewBand(msgspec.Struct, frozen=True, kw_only=True):
    """The scores above ``score`` and up to the threshold, whose parts should be reviewed.

    Attributes:
        score: The lower end of the band, as a raw score of the graph.
        false_reject_rate: The requested rate of good images above ``score``. If the band was set by
            hand, it is the share of held-out good images above ``score``.
        interval: The confidence interval of the score at that rate. An end that so few images
            cannot bound is None; both ends are None if the band was set by hand.
    """

    score: float
    false_reject_rate: float
    interval: tuple[float | None, float | None]


class DefectChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Defective images, counted at a threshold.

    Either the threshold was also chosen on them, see ``kdx.calibration.rates.best_split``, or it
    was set by hand and they show what it would have meant.

    Attributes:
        images: The number of defective images.
        misses: The number of defective images at or below the threshold.
        false_rejects: The number of good images above the threshold.
        data_sha256: The hash over the defective images.
    """

    images: int
    misses: int
    false_rejects: int
    data_sha256: str


class LevelFit(msgspec.Struct, frozen=True, kw_only=True):
    """The level map of a threshold that was chosen with normalisation per position.

    See :mod:`kdx.decision.level_map`.

    Attributes:
        sha256: The hash of the level map.
        images: The number of good images that the level map was fitted on; none of them chose the
            threshold.
        data_sha256: The hash over those images.
    """

    sha256: str
    images: int
    data_sha256: str


class ByHand(msgspec.Struct, frozen=True, kw_only=True):
    """The record that a person set a threshold.

    Attributes:
        score: The number that was given, on the scale of the scores of FP32.
        review_score: The number that was given for the lower end of the review band, on the same
            scale, or None.
        reason: The reason, in the words of that person.
        defects: The defective images that were given, counted at the threshold, or None.
        factor: What both numbers were multiplied by, to be on the scale of BF16's or INT8's scores
            in a runtime; absent where they are as given.
    """

    score: float
    review_score: float | None
    reason: str
    defects: DefectChoice | None
    factor: float | msgspec.UnsetType = msgspec.UNSET


class Threshold(msgspec.Struct, frozen=True, kw_only=True):
    """A calibrated decision: an image is defective when its score exceeds ``score``.

    Attributes:
        score: The threshold, as a score of the detector: the graph's score, or the one after level
            map and region of interest.
        false_reject_rate: The requested rate of rejected good images. If the threshold was chosen
            on defective images, too, or set by hand, it is the share of rejected good images.
        interval: The confidence interval of the score at that rate. An end that so few images
            cannot bound is None; both ends are None if the threshold was chosen on defective
            images, too, or set by hand.
        confidence: The coverage of the interval, as a fraction.
        images: The number of held-out good images.
        data_sha256: The hash over those images.
        graph_sha256: The hash of the graph whose scores were used.
        created: The time of the calibration, UTC, ISO 8601.
        pixel: The map value that the highest pixel of a good image exceeds at that rate. It scales
            heat maps, and equals the score if the score is the map's maximum.
        scores: The scores of those images, ascending, or quantiles of very many. ``kdx drift``
            compares with them.
        review: The band below the threshold, or None.
        roi_sha256: The hash of the region of interest in which those images were scored; None for
            whole images.
        level: The level map by which their maps were divided, or None.
        defects: The defective images that the threshold was also chosen on, or None.
        by_hand: The record that a person set the threshold; absent if it was chosen from scores.
    """

    score: float
    false_reject_rate: float
    interval: tuple[float | None, float | None]
    confidence: float
    images: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
    data_sha256: str
    graph_sha256: str
    created: str
    pixel: float | None = None
    scores: list[float] = []
    review: ReviewBand | None = None
    roi_sha256: str | None = None
    level: LevelFit | None = None
    defects: DefectChoice | None = None
    by_hand: ByHand | msgspec.UnsetType = msgspec.UNSET

    @property
    def reason(self) -> str | None:
        """Why a person set the threshold, in their words; None if it was chosen from scores."""
        return None if self.by_hand is msgspec.UNSET else self.by_hand.reason

    @property
    def false_rejects(self) -> int:
        """The number of held-out good images above a threshold that no rate has chosen."""
        return round(self.false_reject_rate * self.images)

    @property
    def put_aside(self) -> int:
        """The number of held-out good images above a review band that was set by hand, or 0."""
        return round(self.review.false_reject_rate * self.images) if self.review else 0
