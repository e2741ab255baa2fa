"""Intervals by resampling images: the paired bootstrap over frames.

A good image and the defects drawn on it are not independent, and neither are tiles of one frame. So
whole frames are drawn, with everything on them, as many as there are, with replacement; both
detectors are compared on the same ones. This is the bootstrap for clustered data of Rutter
(Bootstrap estimation of diagnostic accuracy with patient-clustered data, Academic Radiology 7,
2000), for areas under ROC curves as Obuchowski has them (Nonparametric analysis of clustered ROC
curve data, Biometrics 53, 1997). Independent images are drawn one by one.

Thresholds are chosen again in each resample. Of a few hundred images one or two choose a threshold,
so most of what is uncertain about the defects that are rejected comes from there.

An interval ends at percentiles of the resamples (Efron and Tibshirani, An Introduction to the
Bootstrap, 1993, chapter 13). The resamples depend on numbers of images alone. A detector whose
defects score lower is therefore no better in any of them, and no end of its interval is higher.
Intervals that are studentised or corrected for their bias do not have this property: a gate could
refuse a detector and pass a worse one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

# With 4000 resamples the ends of an interval vary by 4 % of a standard error.
RESAMPLES = 4000
# How many are computed at once, which bounds the memory.
_AT_ONCE = 250
_SEED = 0
_ENDS = 0.025, 0.975

_Floats = NDArray[np.float64]


def draws(*counts: int) -> Iterator[list[_Floats]]:
    """Draw from sets of so many independent things, from each as many as it has.

    Yields:
        How often each thing is drawn in the next ``B`` resamples, ``(B, count)`` for each set; the
        same numbers in every loop.
    """
    rngs = [np.random.default_rng([_SEED, index]) for index in range(len(counts))]
    for _ in range(RESAMPLES // _AT_ONCE):
        yield [
            rng.multinomial(count, np.full(count, 1 / count), _AT_ONCE).astype(np.float64)
            for rng, count in zip(rngs, counts, strict=True)
        ]


def aurocs(good: _Floats, defects: _Floats, good_drawn: _Floats, defects_drawn: _Floats) -> _Floats:
    """Return the area under the ROC curve in each resample, ``(B,)``; NaN in one without defects.

    Args:
        good: Scores of the good images, ``(G,)``.
        defects: Scores of the defects, ``(D,)``.
        good_drawn: How often each good image is drawn, ``(B, G)``.
        defects_drawn: How often each defect is drawn, ``(B, D)``.
    """
    order = np.argsort(good)
    # How many good images are below each place among them: whole numbers, so sums are exact.
    below = np.pad(np.cumsum(good_drawn[:, order], axis=1), ((0, 0), (1, 0)))
    left, right = np.searchsorted(good[order], defects, "left"), np.searchsorted(good[order], defects, "right")
    won = (defects_drawn * (below[:, left] + below[:, right])).sum(1) / 2
    return _quotient(won, good_drawn.sum(1) * defects_drawn.sum(1))


def shares(marked: NDArray[np.bool_], drawn: _Floats) -> _Floats:
    """Return the share of the images drawn that are marked, ``(B,)``; NaN where none is drawn.

    Args:
        marked: Which images are marked in each resample, ``(B, D)``.
        drawn: How often each is drawn, ``(B, D)``.
    """
    return _quotient((marked * drawn).sum(1), drawn.sum(1))


def thresholds(scores: _Floats, drawn: _Floats, above: int) -> _Floats:
    """Return the score that so many of the things drawn exceed at most, ``(B,)``.

    Args:
        scores: Scores of the things, ``(F,)``.
        drawn: How often each is drawn, ``(B, F)``.
        above: How many may have a higher score.
    """
    order, counted = _from_the_highest(scores, drawn)
    found: _Floats = scores[order[np.argmax(counted > above, axis=1)]]
    return found


def thresholds_of_others(scores: _Floats, drawn: _Floats, above: int) -> _Floats:
    """Return for each thing the threshold that the others drawn give, ``(B, F)``.

    See :func:`thresholds`; it is minus infinity where no others are drawn.
    """
    order, counted = _from_the_highest(scores, drawn)
    first = np.argmax(counted > above, axis=1)
    sorted_scores = scores[order]
    found = np.repeat(sorted_scores[first][:, None], len(scores), axis=1)
    # Leaving out what is below the threshold does not move it.
    for place in range(int(first.max()) + 1):
        exceeds = counted > above + drawn[:, order[place], None]
        without = np.where(exceeds.any(axis=1), sorted_scores[np.argmax(exceeds, axis=1)], -np.inf)
        found[:, place] = np.where(place <= first, without, found[:, place])
    result = np.empty_like(found)
    result[:, order] = found
    return result


def interval(values: Iterable[_Floats]) -> tuple[float, float]:
    """Return the 95 % interval of a value, from what it is in all resamples."""
    low, high = np.nanquantile(np.concatenate(list(values)), _ENDS)
    return float(low), float(high)


def _from_the_highest(scores: _Floats, drawn: _Floats) -> tuple[NDArray[np.intp], _Floats]:
    """Return the order of descending scores ``(F,)``, and how many are drawn up to each place."""
    order = np.argsort(-scores, kind="stable")
    return order, np.cumsum(drawn[:, order], axis=1)


def _quotient(part: _Floats, whole: _Floats) -> _Floats:
    found: _Floats = np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
    return found
