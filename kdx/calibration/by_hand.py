"""Thresholds that a person sets: the number, its scale, and what it would have meant."""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from kdx.bundle.manifest import Manifest
from kdx.bundle.stored_threshold import ByHand, DefectChoice, ReviewBand, Threshold
from kdx.calibration.rates import share_interval
from kdx.decision.answers import score_range
from kdx.errors import OptionError
from kdx.text import number_of

_LONGEST_REASON = 500


@dataclass(frozen=True)
class GivenThreshold:
    """A threshold that a person sets, on the scale of the scores of FP32.

    Attributes:
        score: The score above which a part is defective.
        review_score: The score above which somebody should look, or None.
        reason: Why it is this number, for whoever reads the bundle later.
        factor: What both numbers were multiplied by, to be on another scale; None where they are as
            given.
    """

    score: float
    review_score: float | None
    reason: str
    factor: float | None = None

    def on_scale_of(self, scores: NDArray[np.float64], exact: NDArray[np.float64] | None) -> GivenThreshold:
        """Return this threshold on the scale of another precision or runtime.

        Their scores differ from those of FP32 by up to some percent, mostly by a common factor: the
        median ratio of both scores of the same good images.

        Args:
            scores: Scores of good images in the other precision, ``(n,)``.
            exact: Scores of the same images in FP32, ``(n,)``; None if ``scores`` are those.
        """
        if exact is None or not (exact > 0).any():
            return self
        factor = float(np.median(scores[exact > 0] / exact[exact > 0]))
        review = None if self.review_score is None else self.review_score * factor
        return GivenThreshold(self.score * factor, review, self.reason, factor)

    def record(self, defects: DefectChoice | None, factor: float | None = None) -> ByHand:
        """Return what a bundle keeps of it, on a scale with this factor."""
        return ByHand(
            score=self.score,
            review_score=self.review_score,
            reason=self.reason,
            defects=defects,
            factor=msgspec.UNSET if factor is None else factor,
        )

    def band(self, scores: NDArray[np.float64]) -> ReviewBand | None:
        """Return the review band, with the share of good images that it and the threshold take."""
        if self.review_score is None:
            return None
        share = float((scores > self.review_score).mean())
        return ReviewBand(score=self.review_score, false_reject_rate=share, interval=(None, None))


def given_threshold(threshold: float | None, review: float | None, reason: str | None) -> GivenThreshold | None:
    """Return the threshold that a person sets, or None if nothing was given.

    Args:
        threshold: The score above which a part is defective.
        review: The score above which somebody should look; below the threshold.
        reason: Why it is this number.

    Raises:
        OptionError: A number is not finite, the review band would be empty, or there is no reason.
    """
    if threshold is None:
        for name, value in (("review", review), ("reason", reason)):
            if value is not None:
                raise OptionError(
                    f"`{name}` belongs to a threshold that is set by hand",
                    fix=f"add `threshold=SCORE`, or leave out `{name}`",
                )
        return None
    for name, value in (("threshold", threshold), ("review", review)):
        if value is not None and not math.isfinite(value):
            raise OptionError(f"`{name}` is not a finite number", expected="a score, e.g. 0.42", received=f"{value:g}")
    if review is not None and review >= threshold:
        raise OptionError(
            "the review band is empty",
            expected=f"`review` below the threshold of {threshold:g}",
            received=f"{review:g}",
        )
    text = " ".join((reason or "").split())
    if not 0 < len(text) <= _LONGEST_REASON:
        raise OptionError(
            "a threshold that is set by hand needs a reason, which the bundle keeps",
            expected=f"1 to {_LONGEST_REASON} characters",
            received=f"{len(text):,} characters",
            fix="say why it is this number: `reason=TEXT`, for example 'stains below 2 mm may pass'",
        )
    return GivenThreshold(float(threshold), None if review is None else float(review), text)


def require_reachable(given: GivenThreshold, manifest: Manifest, *, per_position: bool) -> None:
    """Refuse numbers that no score can reach: all parts would be on the same side of them.

    Args:
        given: The threshold.
        manifest: The bundle's.
        per_position: Whether maps are divided by a level map, which leaves their sign alone.

    Raises:
        OptionError: A number is below the lowest or above the highest score of the method.
    """
    lowest, highest = score_range(manifest.pair, manifest.camera_map_size)
    widened = math.prod(max([1.0, *weights]) for weights in manifest.provenance.border_weights)
    low, high = (0.0, math.inf) if per_position else (lowest, highest * widened)
    for name, value in (("threshold", given.score), ("review", given.review_score)):
        if value is not None and not low <= value <= high:
            raise OptionError(
                f"no score of this bundle can reach the `{name}`: every part would be on the same side of it",
                expected=f"{low:.6g} or more" if math.isinf(high) else f"{low:.6g} to {high:.6g}",
                received=f"{value:g}",
                fix="choose a number among the scores that kdx predict shows",
            )


class Consequences(msgspec.Struct, frozen=True, kw_only=True):
    """What a threshold that was set by hand would have meant on the images of its calibration.

    Attributes:
        good: The number of held-out good images.
        false_rejects: The number of those above the threshold.
        false_rejects_interval: The 95 % confidence interval of the share of further good images
            above the threshold.
        to_review: The number of held-out good images in the review band.
        defective: The number of defective images that were given.
        misses: The number of those at or below the threshold.
        misses_interval: The 95 % confidence interval of the share of further such images at or
            below the threshold; None without defective images.
    """

    good: int
    false_rejects: int
    false_rejects_interval: tuple[float, float]
    to_review: int
    defective: int
    misses: int
    misses_interval: tuple[float, float] | None

    def describe(self) -> str:
        """Return the figures in words."""
        text = (
            f"rejects {self.false_rejects} of {number_of(self.good, 'held-out good [image|images]')} "
            f"({_shares(self.false_rejects, self.good, self.false_rejects_interval)})"
        )
        if self.to_review:
            text += f", puts {self.to_review} aside for review"
        if self.misses_interval is not None:
            shares = _shares(self.misses, self.defective, self.misses_interval)
            text += f", misses {self.misses} of {number_of(self.defective, 'defective [image|images]')} ({shares})"
        return text


def consequences(threshold: Threshold) -> Consequences | None:
    """Return what a threshold would have meant; None if no person set it."""
    if threshold.by_hand is msgspec.UNSET:
        return None
    defects = threshold.by_hand.defects
    return Consequences(
        good=threshold.images,
        false_rejects=threshold.false_rejects,
        false_rejects_interval=share_interval(threshold.false_rejects, threshold.images),
        to_review=max(threshold.put_aside - threshold.false_rejects, 0),
        defective=defects.images if defects else 0,
        misses=defects.misses if defects else 0,
        misses_interval=share_interval(defects.misses, defects.images) if defects else None,
    )


def _shares(count: int, of: int, interval: tuple[float, float]) -> str:
    share, low, high = (f"{float(f'{100 * each:.2g}'):g}" for each in (count / of, *interval))
    return f"{share} %, 95 % interval {low} to {high} %"
