"""Thresholds from scores: the statistics of false-reject rates. No image is read here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kdx.bundle.stored_threshold import ReviewBand, Threshold
from kdx.bundle.threshold_checks import kept_ranks, rank_of
from kdx.errors import DataError, GateError, OptionError
from kdx.text import number_of

CONFIDENCE = 0.95
_MOST_KEPT = 1000
# More images than anybody has; the smallest rates that floating point holds would need infinitely
# many.
_MANY = 1e18


def require_rates(false_reject_rate: float, review_rate: float | None, *, with_defects: bool) -> None:
    """Raise ``OptionError`` for invalid rates."""
    if not with_defects and not 0 < false_reject_rate < 1:
        raise OptionError(
            "the false-reject rate is out of range",
            expected="above 0 and below 1, e.g. 0.01",
            received=f"{false_reject_rate:g}",
        )
    least = 0.0 if with_defects else false_reject_rate
    if review_rate is not None and not least < review_rate < 1:
        raise OptionError(
            "the review rate is out of range",
            expected=f"above {'0' if with_defects else f'the false-reject rate of {least:g}'}, below 1",
            received=f"{review_rate:g}",
        )


def quantile_with_interval(
    scores: NDArray[np.float64],
    false_reject_rate: float,
    *,
    trained_on: int = 0,
    copies: int = 0,
    faults: Mapping[str, Sequence[str]] | None = None,
) -> tuple[float, tuple[float | None, float | None]]:
    """Return the threshold at a false-reject rate and the confidence interval of that quantile.

    The threshold is the k-th smallest of n scores with ``k = ceil((n + 1)(1 - rate))``: a further
    good image from the same process exceeds it with probability at most ``rate`` (split conformal
    prediction). The interval comes from order statistics: the number of scores below the true
    quantile is binomial whatever their distribution.

    Args:
        scores: Scores of held-out good images, ``(n,)``.
        false_reject_rate: Above 0, below 1.
        trained_on: Images that were skipped because they were trained on, for the message.
        copies: Images that were skipped because they are copies of others, for the message.
        faults: Frame faults of images that were skipped because they show no part, by path, for the
            message.

    Raises:
        DataError: n is so small that no score can promise that rate.
    """
    ordered = np.sort(scores)
    n = len(ordered)
    k = rank_of(n, false_reject_rate)
    if k > n or n == 0:
        skipped = describe_skipped(trained_on, copies, faults or {})
        also = f" ({skipped})" if skipped else ""
        raise DataError(
            f"too few held-out good images for a false-reject rate of {false_reject_rate:g}",
            expected=f"at least {images_to_promise(false_reject_rate)}",
            received=f"{number_of(n, 'held-out good [image|images]')}{also}",
            fix=f"add good images, or pass `false_reject_rate={lowest_rate(n):g}`" if n else "add good images",
        )
    from scipy.stats import binom  # its import takes longer than most commands

    tail = (1 - CONFIDENCE) / 2
    quantile = 1 - false_reject_rate
    # P(order statistic i is below the quantile) = P(Binomial(n, quantile) >= i).
    low = int(binom.ppf(tail, n, quantile))
    high = int(binom.ppf(1 - tail, n, quantile)) + 1
    lower = float(ordered[low - 1]) if low >= 1 else None
    upper = float(ordered[high - 1]) if high <= n else None
    return float(ordered[k - 1]), (lower, upper)


def describe_skipped(trained_on: int, copies: int, faults: Mapping[str, Sequence[str]]) -> str:
    """Say why images were skipped; empty where none was.

    The arguments are those of :func:`quantile_with_interval`.
    """
    skipped = [number_of(copies, "[copy does|copies do] not count")] if copies else []
    skipped += [describe_faults(faults)] if faults else []
    skipped += [number_of(trained_on, "more [was|were] trained on and [does|do] not count")] if trained_on else []
    return ", ".join(skipped)


def describe_faults(faults: Mapping[str, Sequence[str]]) -> str:
    """Say how many images show no part, and why the first shows none.

    Args:
        faults: Names of the frame faults of each image, by path; of one image at least.
    """
    path, seen = next(iter(faults.items()))
    return f"{number_of(len(faults), '[shows|show] no part')}: '{path}' is {' and '.join(seen)}"


def review_band(scores: NDArray[np.float64], rate: float, threshold: float) -> ReviewBand:
    """Return the review band that begins at a rate of good images.

    Raises:
        DataError: Too few images for that rate.
        OptionError: The band would not begin below the threshold, so that no score could be in it.
    """
    score, interval = quantile_with_interval(scores, rate)
    if score >= threshold:
        below, images = int((scores < threshold).sum()), number_of(len(scores), "held-out good [image|images]")
        least = f"a review rate of at least {_rate_of_rank(below, len(scores)):g} with {images}"
        raise OptionError(
            f"the review band would be empty: it would begin at {score:.6g}, and the threshold is {threshold:.6g}",
            expected=least if below else f"good images that score below the threshold, which none of {images} does",
            received=f"a review rate of {rate:g}",
        )
    return ReviewBand(score=score, false_reject_rate=rate, interval=interval)


def best_split(good: NDArray[np.float64], defective: NDArray[np.float64]) -> float:
    """Return the score with the smallest sum of miss rate and false-reject rate.

    That is the maximum of Youden's index (Cancer 1950). The score lies halfway between two
    neighbouring scores of either kind; of several equally good ones, it is the lowest, which misses
    the fewest defects.

    Args:
        good: Scores of good images, ``(G,)``.
        defective: Scores of defective images, ``(D,)``.

    Raises:
        GateError: No score is better than chance.
    """
    both = np.unique(np.concatenate([good, defective]))
    between = (both[:-1] + both[1:]) / 2
    misses = np.searchsorted(np.sort(defective), between, side="right") / len(defective)
    rejects = 1 - np.searchsorted(np.sort(good), between, side="right") / len(good)
    costs = misses + rejects
    if not len(costs) or costs.min() >= 1:
        raise GateError(
            "no threshold separates these defective images from good ones",
            received=f"median scores {np.median(defective):.4g} and {np.median(good):.4g}",
            fix="check that the folders are not exchanged; kdx evaluate shows what the detector can distinguish",
        )
    # Sums of fractions that are equal may differ in their last digits.
    return float(between[np.flatnonzero(costs <= costs.min() + 1e-12)[0]])


def share_interval(events: int, trials: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a share that was counted (Clopper and Pearson 1934).

    Args:
        events: The number of images that were counted.
        trials: The number of all images, above 0.
    """
    from scipy.stats import binomtest

    interval = binomtest(events, trials).proportion_ci(CONFIDENCE, "exact")
    return float(interval.low), float(interval.high)


def lowest_rate(images: int) -> float:
    """Return the lowest false-reject rate that so many held-out good images promise.

    It is rounded up to two digits, as somebody would type it.
    """
    rate = 1 / (images + 1)
    scale = 10.0 ** (1 - math.floor(math.log10(rate)))
    return math.ceil(round(rate * scale, 9)) / scale


def images_to_promise(false_reject_rate: float) -> int:
    """Return the least number of held-out good images that promises a rate."""
    return math.ceil(min(1 / false_reject_rate, _MANY) - 1 - 1e-9)


def images_to_bound(false_reject_rate: float) -> int:
    """Return how many held-out good images give the threshold at a rate an upper confidence bound.

    The largest of n scores is above the quantile unless all n are below it: with probability ``(1 -
    rate)^n``.
    """
    return math.ceil(math.log((1 - CONFIDENCE) / 2) / math.log(1 - false_reject_rate))


def scores_to_keep(scores: NDArray[np.float64]) -> list[float]:
    """Return the scores that a bundle keeps, ascending: all, or quantiles of very many."""
    ordered = np.sort(scores)
    if len(ordered) > _MOST_KEPT:
        ordered = ordered[np.array(kept_ranks(len(ordered), _MOST_KEPT)) - 1]
    return [float(score) for score in ordered]


def settable_thresholds(threshold: Threshold) -> list[tuple[float, float, float]]:
    """Return every threshold that ``kdx calibrate`` can set from a calibration's images.

    Its thresholds are scores of those images. The k-th smallest of n comes from every rate from
    ``(n + 1 - k)/(n + 1)`` to below ``(n + 2 - k)/(n + 1)``, see :func:`quantile_with_interval`.

    Returns:
        For each score that the bundle keeps, ascending: the score; the rate to ask for, with as few
        digits as possible; and the rate at which further good images exceed it at most,
        ``(n + 1 - k)/(n + 1)``.
    """
    n, kept = threshold.images, threshold.scores
    if len(kept) > n:
        return []
    ranks = kept_ranks(n, len(kept))
    return [(score, _rate_of_rank(k, n), (n + 1 - k) / (n + 1)) for score, k in zip(kept, ranks, strict=True)]


def _rate_of_rank(k: int, n: int) -> float:
    lowest: float = (n + 1 - k) / (n + 1)
    for digits in range(1, 12):
        rate: float = math.ceil(lowest * 10**digits - 1e-9) / 10**digits
        if 0 < rate < 1 and rank_of(n, rate) == k:
            return rate
    return lowest
