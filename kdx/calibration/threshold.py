"""A threshold from held-out good images, through the graph that is deployed. No torch here."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from kdx.bundle.bundle import Bundle
from kdx.bundle.manifest import DefectChoice, LevelFit, ReviewBand, Threshold
from kdx.calibration.frame_limits import frame_limits_of
from kdx.errors import DataError, GateError, ImageError, OptionError
from kdx.folders.copies import unknown
from kdx.folders.image_sizes import require_size
from kdx.imaging.frame_faults import ChannelValues, FrameLimits, faults_of, values_of
from kdx.imaging.image_identity import Identity, KnownImages, Likeness, identify, nearly_repeated
from kdx.imaging.images import read_image
from kdx.imaging.lost_colour import misfits
from kdx.progress import SILENT, Progress
from kdx.remarks import Remark, remark
from kdx.runtime.detector import Detector
from kdx.storage.files import hash_of_hashes
from kdx.storage.json_records import now

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
        frame_faults: Good images that the line will take for frames without a part, and why: they are black, white or
            burnt out, which no golden image is. Limits of frames are not learned from them.
        frame_limits: What frames of real parts look like, learned from the others.
        frame_outliers: Images which alone widen those limits: look whether they show a part.
        remarks: Copies among the images, those that are nearly images trained on, and what cannot be known of them.
    """

    threshold: Threshold
    scores: NDArray[np.float64]
    trained_on: int
    bad_images: dict[str, str]
    frame_faults: dict[str, list[str]]
    frame_limits: FrameLimits
    frame_outliers: list[str]
    remarks: tuple[Remark, ...] = ()


@dataclass
class _Scored:
    """Images that were scored, and those that were left out; keys are those of fitted images too."""

    scores: list[float] = field(default_factory=list)
    hottest: list[float] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    trained_on: int = 0
    copies: list[Path] = field(default_factory=list)
    near: list[Path] = field(default_factory=list)
    identified: list[tuple[Path, Identity]] = field(default_factory=list)
    faults: dict[str, list[str]] = field(default_factory=dict)
    frames: dict[str, list[ChannelValues]] = field(default_factory=dict)


def calibrate(
    bundle: Bundle,
    detector: Detector,
    good_images: Sequence[Path],
    false_reject_rate: float,
    *,
    precision: str = "fp32",
    review_rate: float | None = None,
    defective_images: Sequence[Path] = (),
    level: LevelFit | None = None,
    fitted: Collection[str] = (),
    max_bad_images: int = 0,
    progress: Progress = SILENT,
) -> Calibration:
    """Choose the score that held-out good images exceed at a stated rate.

    Images that the student was trained on are recognised by their bytes or pixels and left out: their scores are too
    low. So are those of further exposures of the same parts: hold parts out whole (``kdx train --group-by``), or
    calibrate on parts that training never saw. Where the recipe keeps the best checkpoint, the held-out images have
    chosen it, which lowers their scores a little as well.

    With ``review_rate``, a larger one, a second score: between the two, somebody should look.

    With ``defective_images``, the threshold is :func:`best_split` of both instead, and no rate is promised.

    With ``level``, the detector's maps are divided by that level map, and the images whose hashes are ``fitted`` are
    passed over too: on them, no score exceeds 1, and the threshold would be too low.

    Raises:
        OptionError: A rate is not between 0 and 1, or the review rate is not the larger.
        DataError: Too few held-out images for that rate; or an image is both good and defective.
        GateError: Defective images do not score above good ones.
        ImageError: More images than allowed cannot be read.
    """
    require_rates(false_reject_rate, review_rate, with_defects=bool(defective_images))
    bad: dict[str, str] = {}
    require_size([*good_images, *defective_images], detector.input, max_bad_images)
    trained = bundle.training_images()
    good = _score(detector, good_images, trained, bad, max_bad_images, progress, "good", fitted)
    values = np.array(good.scores)
    hottest = np.array(good.hottest)
    choice: DefectChoice | None = None
    defective: _Scored | None = None
    interval: tuple[float | None, float | None] = (None, None)
    if defective_images:
        defective = _score(detector, defective_images, trained, bad, max_bad_images, progress, "defective")
        score, choice = _choose(good, defective)
        false_reject_rate = choice.false_rejects / len(values)
        # The hottest pixel is the score where that is the map's maximum; else as many good images exceed it.
        is_maximum = np.allclose(hottest, values, rtol=1e-6)
        pixel = score if is_maximum else float(np.sort(hottest)[-1 - choice.false_rejects])
    else:
        score, interval = quantile_with_interval(values, false_reject_rate, trained_on=good.trained_on)
        pixel = quantile_with_interval(hottest, false_reject_rate)[0]
    threshold = Threshold(
        score=score,
        false_reject_rate=false_reject_rate,
        interval=interval,
        confidence=CONFIDENCE,
        images=len(values),
        data_sha256=hash_of_hashes(good.hashes),
        graph_sha256=bundle.graph_of(precision).sha256,
        created=now(),
        pixel=pixel,
        scores=_kept(values),
        review=None if review_rate is None else _review_band(values, review_rate, score),
        roi_sha256=bundle.manifest.roi_sha256,
        level=level,
        defects=choice,
    )
    limits, outliers = frame_limits_of(bundle, good.frames)
    seen = misfits([*good_images, *defective_images], detector.input)
    remarks = tuple(_remarks(good, defective, trained, seen))
    return Calibration(threshold, values, good.trained_on, bad, good.faults, limits, outliers, remarks)


def _remarks(good: _Scored, defective: _Scored | None, trained: KnownImages, seen: Sequence[Remark]) -> list[Remark]:
    return [
        *seen,
        *remark("copies", "good images are copies of others and were not used again", good.copies),
        *remark(
            "near_trained_on",
            "good images are nearly the same as images trained on, so that their scores may be too low",
            good.near,
        ),
        *_repeated("near_copies", "good", good),
        *([] if defective is None else _repeated("near_copies_of_defects", "defective", defective)),
        *unknown(trained, len(good.scores)),
    ]


def _repeated(kind: str, name: str, scored: _Scored) -> list[Remark]:
    """Return a remark on images that say little that another one has not said already.

    They are used all the same: photographs of parts that always lie at one place may be as alike.
    """
    near = nearly_repeated(scored.identified)
    images = len(scored.scores)
    return remark(
        kind,
        f"of the {images} {name} images that were used are nearly the same as another of them. If they are copies of "
        f"one picture or show one part, the number of images is overstated, and so is what the threshold promises: "
        f"calibrate without them, on {images - len(near)} images",
        near,
    )


def best_split(good: NDArray[np.float64], defective: NDArray[np.float64]) -> float:
    """Return the score that tells defective from good images best: the smallest sum of miss and false-reject rate.

    That is the largest of Youden's index (Cancer 1950). It lies halfway between two neighbouring scores of either kind;
    of several that are as good, it is the lowest, which misses the fewest defects.

    Raises:
        GateError: None is better than chance.
    """
    both = np.unique(np.concatenate([good, defective]))
    between = (both[:-1] + both[1:]) / 2
    misses = np.searchsorted(np.sort(defective), between, side="right") / len(defective)
    rejects = 1 - np.searchsorted(np.sort(good), between, side="right") / len(good)
    costs = misses + rejects
    if not len(costs) or costs.min() >= 1:
        raise GateError(
            "no threshold tells these defective images from good ones",
            received=f"median scores {np.median(defective):.4g} and {np.median(good):.4g}",
            fix="check that the folders are not exchanged; kdx evaluate shows what the detector can tell",
        )
    # Sums of fractions that are equal may differ in their last digits.
    return float(between[np.flatnonzero(costs <= costs.min() + 1e-12)[0]])


def _choose(good: _Scored, defective: _Scored) -> tuple[float, DefectChoice]:
    for name, scored in (("good", good), ("defective", defective)):
        if not scored.scores:
            raise DataError(
                f"there are no {name} images to choose a threshold on",
                received=f"{scored.trained_on} that were trained on, which do not count",
                fix="name a folder with others",
            )
    both = set(good.keys) & set(defective.keys)
    if both:
        raise DataError(
            f"{len(both)} images are both good and defective", fix="remove them from one of the two folders"
        )
    values, defects = np.array(good.scores), np.array(defective.scores)
    score = best_split(values, defects)
    return score, DefectChoice(
        images=len(defects),
        misses=int((defects <= score).sum()),
        false_rejects=int((values > score).sum()),
        data_sha256=hash_of_hashes(defective.hashes),
    )


def require_rates(false_reject_rate: float, review_rate: float | None, *, with_defects: bool) -> None:
    """Raise ``OptionError`` for rates that cannot be."""
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


def _score(
    detector: Detector,
    paths: Sequence[Path],
    trained: KnownImages,
    bad: dict[str, str],
    max_bad_images: int,
    progress: Progress,
    kind: str,
    passed_over: Collection[str] = (),
) -> _Scored:
    """Score each image once that was not trained on or passed over; add those that cannot be read to ``bad``."""
    found = _Scored()
    seen: set[str] = set()
    golden_limits = msgspec.structs.replace(detector.frame_limits, channels=())
    with progress.task(f"scoring {kind} images", len(paths)) as task:
        for path in paths:
            task.advance()
            try:
                identity = identify(path)
                likeness = trained.likeness(identity)
                if likeness is Likeness.SAME:
                    found.trained_on += 1
                    continue
                hashes = {identity.file, identity.key}
                if hashes & seen:  # a copy says nothing new
                    found.copies.append(path)
                    continue
                seen |= hashes
                found.keys.append(identity.key)
                if identity.file in passed_over:
                    continue
                if likeness is Likeness.NEAR:
                    found.near.append(path)
                image = read_image(path, detector.input)
                verdict = detector(image)
                found.identified.append((path, identity))
                found.scores.append(verdict.score)
                found.hottest.append(float(verdict.anomaly_map.max()))
                found.hashes.append(identity.file)
                # By what golden images look like alone: an earlier calibration's limits are replaced.
                faults = faults_of(image, golden_limits)
                if faults:
                    found.faults[str(path)] = [fault.value for fault in faults]
                else:
                    found.frames[str(path)] = values_of(image)
            except ImageError as error:
                bad[str(path)] = error.message
                if len(bad) > max_bad_images:
                    raise
    wrong = int((~np.isfinite(np.array(found.scores))).sum())
    if wrong:
        raise DataError(f"{wrong} {kind} images have scores that are not finite", fix="run kdx verify")
    return found


def _review_band(scores: NDArray[np.float64], rate: float, threshold: float) -> ReviewBand:
    score, interval = quantile_with_interval(scores, rate)
    if score > threshold:  # only where defects chose the threshold
        raise OptionError(
            "the review band would begin above the threshold",
            expected=f"a review rate above {(scores > threshold).mean():.3g}, the share of good images it rejects",
            received=f"{rate:g}",
        )
    return ReviewBand(score=score, false_reject_rate=rate, interval=interval)


def images_to_bound(false_reject_rate: float) -> int:
    """Return how many held-out good images bound the threshold at a rate from above, with :data:`CONFIDENCE`.

    The largest of n scores is above the quantile unless all n are below it: with probability ``(1 - rate)^n``.
    """
    return math.ceil(math.log((1 - CONFIDENCE) / 2) / math.log(1 - false_reject_rate))


def settable(threshold: Threshold) -> list[tuple[float, float, float]]:
    """Return every threshold that ``kdx calibrate`` can set from the held-out images of one that was calibrated.

    Its thresholds are scores of those images. The k-th smallest of n comes from every rate from ``(n + 1 - k)/(n + 1)``
    to below ``(n + 2 - k)/(n + 1)``, see :func:`quantile_with_interval`.

    Returns:
        For each score that the bundle keeps, ascending: the score; the rate to ask for, with as few digits as will do;
        and the rate at which further good images exceed it at most, ``(n + 1 - k)/(n + 1)``.
    """
    n, kept = threshold.images, threshold.scores
    if len(kept) > n:
        return []
    ranks = (1 + np.linspace(0, n - 1, len(kept)).round().astype(int)).tolist()  # as _kept takes them
    return [(score, _rate_of_rank(k, n), (n + 1 - k) / (n + 1)) for score, k in zip(kept, ranks, strict=True)]


def _rate_of_rank(k: int, n: int) -> float:
    lowest: float = (n + 1 - k) / (n + 1)
    for digits in range(1, 12):
        rate: float = math.ceil(lowest * 10**digits - 1e-9) / 10**digits
        if 0 < rate < 1 and _rank(n, rate) == k:
            return rate
    return lowest


def _rank(n: int, false_reject_rate: float) -> int:
    return math.ceil((n + 1) * (1 - false_reject_rate) - 1e-9)


def images_to_promise(false_reject_rate: float) -> int:
    """Return how many held-out good images it takes at least to promise a rate, see :func:`quantile_with_interval`."""
    return math.ceil(1 / false_reject_rate - 1 - 1e-9)


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
    k = _rank(n, false_reject_rate)
    if k > n or n == 0:
        needed = images_to_promise(false_reject_rate)
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
