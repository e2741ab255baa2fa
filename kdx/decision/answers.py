"""What a graph answered for one image, checked before anything is concluded from it.

A runtime may return NaN everywhere and still a finite score: the maximum of OpenVINO over NaN is -3.4e38. So the map is
checked as well as the score, before stitching, level map and region of interest, each of which could hide a value that
is not finite. Distances are never negative; what a method builds from them has a lowest value, which is derived here
from the pair's declaration. An answer below it was not computed by that method. Neither was a score that is not the
maximum of its map, where the declaration says that it is. ``embed/src/answer.cpp`` is the same.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from kdx.bundle.pair_spec import Combine, Distance, Join, MapSpec, PairSpec, ScoreRule

# How far rounding may move a cosine distance, which is 0 to 2, below 0. Behind the taps everything is FP32 in every
# precision: a sum over C channels is off by at most (C + 8) / 2^24, for 16,000 channels half of this. Half of a squared
# distance, a sum of squares, does not become negative at all.
ROUNDING = 2.0**-9
_DISTANCES = {
    Distance.HALF_SQUARED_L2: (0.0, 2.0 + ROUNDING),
    Distance.COSINE: (-ROUNDING, 2.0 + ROUNDING),
}

# How far a score may be from the maximum of its map, relative to the score. A maximum is one of the map's values, and
# behind the taps everything is FP32: both differ by a few roundings of FP32 at most, where a runtime computes the map's
# last step twice. The bound is twice what rounding to BF16, the coarsest of all formats here, changes a score.
SCORE_TOLERANCE = 2.0**-8
# Smallest normal number of FP32: a runtime may replace anything below it by zero.
_SMALLEST = 2.0**-126

_Range = tuple[float, float]


class AnswerFault(str, enum.Enum):
    """Why an answer is none, whatever its score."""

    NOT_FINITE = "not_finite"
    BELOW_RANGE = "below_range"
    SCORE_MISMATCH = "score_mismatch"


@dataclass(frozen=True)
class AnswerLimits:
    """What holds of every answer that a method can give.

    Attributes:
        lowest_map: Lowest value of the map.
        lowest_score: Lowest score.
        score_is_max: Whether the score is the maximum of the map.
    """

    # Where no declaration says more: distances are never negative.
    lowest_map: float = -ROUNDING
    lowest_score: float = -ROUNDING
    score_is_max: bool = False

    def fault_of(self, anomaly_map: NDArray[np.float32], score: float) -> AnswerFault | None:
        """Return what is wrong with a raw map ``(h, w)`` and its score; None for nothing."""
        # Both propagate NaN. Together they see every value that is not finite, without a mask of the map's size.
        low, high = float(anomaly_map.min()), float(anomaly_map.max())
        if not (math.isfinite(low) and math.isfinite(high) and math.isfinite(score)):
            return AnswerFault.NOT_FINITE
        if low < self.lowest_map or score < self.lowest_score:
            return AnswerFault.BELOW_RANGE
        if self.score_is_max and abs(score - high) > SCORE_TOLERANCE * abs(score) + _SMALLEST:
            return AnswerFault.SCORE_MISMATCH
        return None

    def mark(self, maps: NDArray[np.float32], scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return scores ``(N, 1)`` that are NaN where the answer has a fault; maps are ``(N, h, w)``."""
        wrong = [self.fault_of(one, float(score)) is not None for one, score in zip(maps, scores[:, 0], strict=True)]
        return np.where(np.array(wrong)[:, None], np.float32(np.nan), scores) if any(wrong) else scores


def answer_limits(spec: PairSpec | None, map_size: tuple[int, int]) -> AnswerLimits:
    """Return what holds of every answer of a method.

    Args:
        spec: The pair's declaration; None if it is not known.
        map_size: Height and width of the graph's map.
    """
    if spec is None:
        return AnswerLimits()
    # Upsampling and blur are averages: they leave a range as it is.
    ranges = [_range_of(one) for one in spec.maps]
    first, second = ranges[0], ranges[-1]
    if spec.join is Join.CONFIRMED:
        first = _times(first, _confirming(second))
    # The score of a frame in tiles is a maximum, and so never below these either.
    cells = 1 if spec.score is ScoreRule.MAX else map_size[0] * map_size[1]
    scores = [(cells * low, cells * high) for low, high in (first, second)]
    score = {Join.SCORE_SECOND: scores[1], Join.SCORE_BOTH: _times(*scores)}.get(spec.join, scores[0])
    # The other two joins score a map that is not returned.
    score_is_max = spec.score is ScoreRule.MAX and spec.join in (Join.SINGLE, Join.CONFIRMED, Join.SCORE_FIRST)
    return AnswerLimits(first[0], score[0], score_is_max)


def _range_of(spec: MapSpec) -> _Range:
    distances = [_DISTANCES[tap.distance] for tap in spec.taps]
    if spec.combine is Combine.PRODUCT:
        return reduce(_times, distances)
    weighted = [_times(distance, (tap.weight, tap.weight)) for distance, tap in zip(distances, spec.taps, strict=True)]
    return sum(low for low, _ in weighted), sum(high for _, high in weighted)


def _confirming(second: _Range) -> _Range:
    """Return the range of ``(max M − min M) · M / ‖M‖``: the extent is at most 2‖M‖, and M at most ‖M‖."""
    low, high = second
    return 2 * min(low, 0.0), high - low


def _times(one: _Range, other: _Range) -> _Range:
    products = [a * b for a in one for b in other]
    return min(products), max(products)
