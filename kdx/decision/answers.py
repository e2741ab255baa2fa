"""Checks a graph's answer for an image, map and score, before a decision is based on it.

A runtime may return NaN everywhere in the map and still a finite score: OpenVINO's maximum over NaN
is -3.4e38. Map and score are therefore both checked, before stitching, level map and region of
interest, each of which could hide a value that is not finite. Distances are never negative, and the
lowest value that a method builds from them is derived here from the pair's declaration. A lower
answer was not computed by that method; neither was a score that is not the maximum of its map
although the declaration says that it is. ``embed/src/answers.cpp`` is the counterpart.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from kdx.bundle.pair_spec import Combine, Distance, Join, MapSpec, PairSpec, ScoreRule

# The largest distance by which rounding may move a cosine distance, which is 0 to 2, below 0. After
# the taps, every precision computes in FP32: the error of a sum over C channels is at most (C + 8)
# / 2^24, which is half of this for 16,000 channels. Half a squared distance, a sum of squares,
# never becomes negative.
ROUNDING = 2.0**-9
_DISTANCES = {
    Distance.HALF_SQUARED_L2: (0.0, 2.0 + ROUNDING),
    Distance.COSINE: (-ROUNDING, 2.0 + ROUNDING),
}

# The largest difference of a score from the maximum of its map, relative to the score. The maximum
# is one of the map's values, and every precision computes in FP32 after the taps: the two differ by
# a few roundings of FP32 at most, where a runtime computes the map's last step twice. The bound is
# twice the error of rounding a score to BF16, the coarsest format here.
SCORE_TOLERANCE = 2.0**-8
# The smallest normal number of FP32: a runtime may replace smaller ones by zero.
_SMALLEST = 2.0**-126

_Range = tuple[float, float]


class AnswerFault(str, enum.Enum):
    """Why an answer is invalid, whatever its score; see :class:`kdx.decision.verdict.Reason`."""

    NOT_FINITE = "not_finite"
    BELOW_RANGE = "below_range"
    SCORE_MISMATCH = "score_mismatch"


@dataclass(frozen=True)
class AnswerLimits:
    """Properties of every answer that a method can give.

    Attributes:
        lowest_map: The lowest possible value of the map.
        lowest_score: The lowest possible score.
        score_is_max: Whether the score is the maximum of the map.
    """

    # For unknown declarations: distances are never negative.
    lowest_map: float = -ROUNDING
    lowest_score: float = -ROUNDING
    score_is_max: bool = False

    def fault_of(self, anomaly_map: NDArray[np.float32], score: float) -> AnswerFault | None:
        """Return what is wrong with a raw map ``(h, w)`` and its score, or None."""
        # Minimum and maximum propagate NaN, and detect infinity without a mask of the map's size.
        low, high = float(anomaly_map.min()), float(anomaly_map.max())
        if not (math.isfinite(low) and math.isfinite(high) and math.isfinite(score)):
            return AnswerFault.NOT_FINITE
        if low < self.lowest_map or score < self.lowest_score:
            return AnswerFault.BELOW_RANGE
        if self.score_is_max and abs(score - high) > SCORE_TOLERANCE * abs(score) + _SMALLEST:
            return AnswerFault.SCORE_MISMATCH
        return None

    def mark(self, maps: NDArray[np.float32], scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return scores ``(N, 1)`` with NaN for answers with a fault; maps are ``(N, h, w)``."""
        pairs = zip(maps, scores[:, 0], strict=True)
        is_invalid = [self.fault_of(anomaly_map, float(score)) is not None for anomaly_map, score in pairs]
        return np.where(np.array(is_invalid)[:, None], np.float32(np.nan), scores) if any(is_invalid) else scores


def answer_limits(spec: PairSpec | None, map_size: tuple[int, int]) -> AnswerLimits:
    """Return the properties of every answer of a method.

    Args:
        spec: The pair's declaration; None if it is not known.
        map_size: The height and width of the graph's map.
    """
    if spec is None:
        return AnswerLimits()
    first, score = _ranges(spec, map_size)
    # The other two joins score a map that is not returned.
    score_is_max = spec.score is ScoreRule.MAX and spec.join in (Join.SINGLE, Join.CONFIRMED, Join.SCORE_FIRST)
    return AnswerLimits(first[0], score[0], score_is_max)


def score_range(spec: PairSpec | None, map_size: tuple[int, int]) -> tuple[float, float]:
    """Return the lowest and the highest possible score of a method, without border weights.

    The arguments are those of :func:`answer_limits`; the highest score is infinite if the
    declaration is not known.
    """
    return (AnswerLimits().lowest_score, math.inf) if spec is None else _ranges(spec, map_size)[1]


def _ranges(spec: PairSpec, map_size: tuple[int, int]) -> tuple[_Range, _Range]:
    """Return the range of the map's values, and that of the score."""
    # Upsampling and blur are averages, which do not widen a range.
    ranges = [_range_of(one) for one in spec.maps]
    first, second = ranges[0], ranges[-1]
    if spec.join is Join.CONFIRMED:
        first = _times(first, _confirming(second))
    # The score of a frame in tiles is a maximum of its tiles' scores, and therefore not below
    # these.
    cells = 1 if spec.score is ScoreRule.MAX else map_size[0] * map_size[1]
    scores = [(cells * low, cells * high) for low, high in (first, second)]
    score = {Join.SCORE_SECOND: scores[1], Join.SCORE_BOTH: _times(*scores)}.get(spec.join, scores[0])
    return first, score


def _range_of(spec: MapSpec) -> _Range:
    distances = [_DISTANCES[tap.distance] for tap in spec.taps]
    if spec.combine is Combine.PRODUCT:
        return reduce(_times, distances)
    weighted = [_times(distance, (tap.weight, tap.weight)) for distance, tap in zip(distances, spec.taps, strict=True)]
    return sum(low for low, _ in weighted), sum(high for _, high in weighted)


def _confirming(second: _Range) -> _Range:
    """Return the range of ``(max M − min M) · M / ‖M‖``.

    The extent is at most 2‖M‖, and M at most ‖M‖.
    """
    low, high = second
    return 2 * min(low, 0.0), high - low


def _times(one: _Range, other: _Range) -> _Range:
    products = [a * b for a in one for b in other]
    return min(products), max(products)
