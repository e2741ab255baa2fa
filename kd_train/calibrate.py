"""A threshold from held-out good images, through the graph that is deployed. No torch here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from kdx.bundle import Bundle, ReviewBand, Threshold
from kdx.errors import DataError, ImageError, OptionError
from kdx.files import hash_of_hashes, sha256_file
from kdx.images import read_image
from kdx.progress import SILENT, Progress
from kdx.records import now
from kdx.runtime.detector import Detector

CONFIDENCE = 0.95
_MOST_KEPT = 1000


@dataclass(frozen=True)
class Calibration:
    """A threshold from held-out good images.

    Attributes:
        threshold: With its interval.
        scores: Of the images.
        trained_on: Images that were passed over because they were trained on.
        bad_images: Those that could not be read, and why.
        frame_faults: Good images that the line will take for frames without a part, and why.
    """

    threshold: Threshold
    scores: NDArray[np.float64]
    trained_on: int
    bad_images: dict[str, str]
    frame_faults: dict[str, list[str]]


def calibrate(
    bundle: Bundle,
    detector: Detector,
    good_images: Sequence[Path],
    false_reject_rate: float,
    *,
    precision: str = "fp32",
    review_rate: float | None = None,
    max_bad_images: int = 0,
    progress: Progress = SILENT,
) -> Calibration:
    """Choose the score that held-out good images exceed at a stated rate.

    Images that the student was trained on are recognised by their content and passed over: their scores are too low.
    So are those of further exposures of the same parts: hold parts out whole (``kdx train --group-by``), or calibrate
    on parts that training never saw. Where the recipe keeps the best checkpoint, the held-out images have chosen it,
    which lowers their scores a little as well.

    With ``review_rate``, a larger one, a second score: between the two, somebody should look.

    Raises:
        OptionError: A rate is not between 0 and 1, or the review rate is not the larger.
        DataError: Too few held-out images for that rate.
        ImageError: More images than allowed cannot be read.
    """
    if not 0 < false_reject_rate < 1:
        raise OptionError(
            "the false-reject rate is out of range",
            expected="above 0 and below 1, e.g. 0.01",
            received=f"{false_reject_rate:g}",
        )
    if review_rate is not None and not false_reject_rate < review_rate < 1:
        raise OptionError(
            "the review rate is out of range",
            expected=f"above the false-reject rate of {false_reject_rate:g}, below 1",
            received=f"{review_rate:g}",
        )
    trained = bundle.training_images()
    scores: list[float] = []
    hottest: list[float] = []
    hashes: list[str] = []
    skipped = 0
    bad: dict[str, str] = {}
    faults: dict[str, list[str]] = {}
    with progress.task("scoring good images", len(good_images)) as task:
        for path in good_images:
            task.advance()
            try:
                digest = sha256_file(path)
                if digest in trained:
                    skipped += 1
                    continue
                if digest in hashes:  # a copy says nothing new
                    continue
                verdict = detector(read_image(path, detector.input))
                scores.append(verdict.score)
                hottest.append(float(verdict.anomaly_map.max()))
                hashes.append(digest)
                if verdict.frame_faults:
                    faults[str(path)] = [fault.value for fault in verdict.frame_faults]
            except ImageError as error:
                bad[str(path)] = error.message
                if len(bad) > max_bad_images:
                    raise
    values = np.array(scores)
    if not np.isfinite(values).all():
        raise DataError(
            f"{int((~np.isfinite(values)).sum())} good images have scores that are not finite", fix="run kdx verify"
        )
    score, interval = quantile_with_interval(values, false_reject_rate, trained_on=skipped)
    threshold = Threshold(
        score=score,
        false_reject_rate=false_reject_rate,
        interval=interval,
        confidence=CONFIDENCE,
        images=len(scores),
        data_sha256=hash_of_hashes(hashes),
        graph_sha256=sha256_file(bundle.graph_of(precision)),
        created=now(),
        pixel=quantile_with_interval(np.array(hottest), false_reject_rate)[0],
        scores=_kept(values),
        review=None if review_rate is None else _review_band(values, review_rate),
        roi_sha256=bundle.manifest.roi_sha256,
    )
    return Calibration(threshold, values, skipped, bad, faults)


def _review_band(scores: NDArray[np.float64], rate: float) -> ReviewBand:
    score, interval = quantile_with_interval(scores, rate)
    return ReviewBand(score=score, false_reject_rate=rate, interval=interval)


def images_to_bound(false_reject_rate: float) -> int:
    """Return how many held-out good images bound the threshold at a rate from above, with :data:`CONFIDENCE`.

    The largest of n scores is above the quantile unless all n are below it: with probability ``(1 - rate)^n``.
    """
    return math.ceil(math.log((1 - CONFIDENCE) / 2) / math.log(1 - false_reject_rate))


def _kept(scores: NDArray[np.float64]) -> list[float]:
    """Return scores to keep in the bundle: all of them, or as many of their quantiles as describe them."""
    ordered = np.sort(scores)
    if len(ordered) > _MOST_KEPT:
        ordered = ordered[np.linspace(0, len(ordered) - 1, _MOST_KEPT).round().astype(int)]
    return [float(score) for score in ordered]


def quantile_with_interval(
    scores: NDArray[np.float64], false_reject_rate: float, *, trained_on: int = 0
) -> tuple[float, tuple[float | None, float | None]]:
    """Return the threshold at a false-reject rate and the confidence interval of that quantile.

    The threshold is the k-th smallest of n scores with ``k = ceil((n + 1)(1 - rate))``: a further good image from the
    same process exceeds it with probability at most ``rate`` (split conformal prediction). The interval comes from
    order statistics: the number of scores below the true quantile is binomial whatever their distribution.

    Raises:
        DataError: n is so small that no score can promise that rate.
    """
    ordered = np.sort(scores)
    n = len(ordered)
    k = math.ceil((n + 1) * (1 - false_reject_rate) - 1e-9)
    if k > n or n == 0:
        needed = math.ceil(1 / false_reject_rate - 1 - 1e-9)
        held = f"{n} held-out good images" + (
            f" ({trained_on} more were trained on and do not count)" if trained_on else ""
        )
        raise DataError(
            f"too few held-out good images for a false-reject rate of {false_reject_rate:g}",
            expected=f"at least {needed}",
            received=held,
            fix=f"add good images, or ask for --false-reject-rate {math.ceil(1e4 / (n + 1)) / 1e4:g}"
            if n
            else "add good images",
        )
    tail = (1 - CONFIDENCE) / 2
    quantile = 1 - false_reject_rate
    # P(order statistic i is below the quantile) = P(Binomial(n, quantile) >= i).
    low = int(binom.ppf(tail, n, quantile))
    high = int(binom.ppf(1 - tail, n, quantile)) + 1
    lower = float(ordered[low - 1]) if low >= 1 else None
    upper = float(ordered[high - 1]) if high <= n else None
    return float(ordered[k - 1]), (lower, upper)
