"""A threshold from held-out good images, scored by the graph that is deployed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from kdx.bundle.bundle import Bundle
from kdx.bundle.stored_threshold import ByHand, DefectChoice, LevelFit, ReviewBand, Threshold
from kdx.calibration.by_hand import GivenThreshold
from kdx.calibration.frame_limits import frame_limits_of
from kdx.calibration.rates import (
    CONFIDENCE,
    best_split,
    describe_skipped,
    quantile_with_interval,
    require_rates,
    review_band,
    scores_to_keep,
)
from kdx.calibration.scored_images import ImageScorer, ScoredImages
from kdx.calibration.scored_remarks import scored_remarks
from kdx.errors import DataError
from kdx.folders.image_sizes import require_size
from kdx.imaging.frame_faults import FrameLimits
from kdx.imaging.grey_conversion import grey_conversion_remarks
from kdx.progress import SILENT, Progress
from kdx.remarks import Remark, shorten
from kdx.runtime.detector import Detector
from kdx.storage.files import hash_of_hashes
from kdx.storage.json_records import now
from kdx.text import number_of


@dataclass(frozen=True)
class Calibration:
    """A threshold from held-out good images.

    Attributes:
        threshold: The threshold with its interval.
        scores: Scores of the held-out good images.
        trained_on: Number of images that were skipped because they were trained on.
        bad_images: Images that could not be read, and why.
        frame_faults: Good images that the line will take for frames without a part, and why: they
            are black, white or overexposed, as no golden image is; or, where golden images are not
            frames, as few of these are. Nothing is learned from them, neither a threshold nor
            limits of frames.
        frame_limits: What frames of real parts look like, learned from the others.
        frame_outliers: Single images that widen those limits: check whether they show a part.
        chosen_by: Keys of the images that chose the threshold, good and defective, or that the
            level map was fitted on, and of good images that show no part.
        remarks: Copies among the images, images that are those trained on or nearly the same, and
            what cannot be known of them.
    """

    threshold: Threshold
    scores: NDArray[np.float64]
    trained_on: int
    bad_images: dict[str, str]
    frame_faults: dict[str, list[str]]
    frame_limits: FrameLimits
    frame_outliers: list[str]
    chosen_by: frozenset[str] = frozenset()
    remarks: tuple[Remark, ...] = ()


def calibrate(
    bundle: Bundle,
    detector: Detector,
    good_images: Sequence[Path],
    false_reject_rate: float,
    *,
    precision: str = "fp32",
    review_rate: float | None = None,
    defective_images: Sequence[Path] = (),
    by_hand: GivenThreshold | None = None,
    exact: NDArray[np.float64] | None = None,
    level: LevelFit | None = None,
    fitted: Collection[str] = (),
    max_bad_images: int = 0,
    progress: Progress = SILENT,
) -> Calibration:
    """Choose the score that held-out good images exceed at a given rate.

    Images that the student was trained on are recognised by their bytes or pixels and skipped:
    their scores are too low. So are scores of further exposures of the same parts: hold out whole
    parts (``kdx train --group-by``), or calibrate on parts that training never saw. If the recipe
    keeps the best checkpoint, the held-out images have chosen it, which lowers their scores a
    little as well.

    Args:
        bundle: The bundle whose training images are skipped.
        detector: The bundle's detector.
        good_images: Files of good images.
        false_reject_rate: Share of further good images that may exceed the threshold.
        precision: The precision of the detector's graph.
        review_rate: A larger rate, for a second score: somebody should look at what is between the
            two.
        defective_images: Files of defective images. With them, the threshold is :func:`best_split`
            of both kinds, and no rate is promised.
        by_hand: A threshold that a person sets. Nothing is chosen then; the images show what the
            threshold means.
        exact: The scores of the same good images in FP32, for a threshold that is set by hand for
            another precision: it is on the scale of FP32's scores.
        level: The level map by which the detector's maps are divided.
        fitted: File hashes of the images that the level map was fitted on. They are skipped: none
            of their scores exceeds 1, and the threshold would be too low.
        max_bad_images: How many images may be unreadable.
        progress: Shows every image.

    Raises:
        OptionError: A rate is not between 0 and 1, or the review rate is not the larger.
        DataError: Too few held-out images for that rate; or an image is both good and defective.
        GateError: Defective images do not score above good ones.
        ImageError: More images than allowed cannot be read.
    """
    require_rates(false_reject_rate, review_rate, with_defects=bool(defective_images))
    require_size([*good_images, *defective_images], detector.input, max_bad_images)
    scorer = ImageScorer(detector, bundle.training_images(), max_bad_images, progress)
    good = scorer.score(good_images, "good", fitted)
    defective = scorer.score(defective_images, "defective") if defective_images else None
    values = np.array(good.scores)
    if by_hand is not None:
        chosen = _set_by_hand(by_hand.on_scale_of(values, exact), good, defective, by_hand)
    elif defective is not None:
        chosen = _chosen_on_defects(good, defective, review_rate)
    else:
        chosen = _at_rate(good, false_reject_rate, review_rate)
    threshold = Threshold(
        **chosen,
        confidence=CONFIDENCE,
        images=len(values),
        data_sha256=hash_of_hashes(good.hashes),
        graph_sha256=bundle.graph_of(precision).sha256,
        created=now(),
        scores=scores_to_keep(values),
        roi_sha256=bundle.manifest.roi_sha256,
        level=level,
    )
    limits, outliers = frame_limits_of(bundle, good.frames, detector.frame_limits)
    colours = grey_conversion_remarks([*good_images, *defective_images], detector.input)
    remarks = (*colours, *scored_remarks(good, defective, scorer.trained))
    return Calibration(
        threshold=threshold,
        scores=values,
        trained_on=len(good.trained_on),
        bad_images=scorer.bad,
        frame_faults=good.faults,
        frame_limits=limits,
        frame_outliers=outliers,
        chosen_by=_chosen_by(good, defective, by_hand),
        remarks=remarks,
    )


def _chosen_by(good: ScoredImages, defective: ScoredImages | None, by_hand: GivenThreshold | None) -> frozenset[str]:
    """Return the keys of the images that a calibration depends on.

    Those of good images include the ones that only the level map was fitted on, and those that show
    no part. A threshold by hand depends on no others.
    """
    if by_hand is not None:
        return frozenset(good.keys) - {identity.key for _, identity in good.identified}
    return frozenset(good.keys) | {identity.key for _, identity in (defective.identified if defective else ())}


class _Chosen(TypedDict, total=False):
    """The fields of a threshold that depend on what chose it."""

    score: float
    false_reject_rate: float
    interval: tuple[float | None, float | None]
    pixel: float
    review: ReviewBand | None
    defects: DefectChoice | None
    by_hand: ByHand


def _at_rate(good: ScoredImages, rate: float, review_rate: float | None) -> _Chosen:
    """Return what a rate chooses: the score that good images exceed at that rate."""
    values = np.array(good.scores)
    score, interval = quantile_with_interval(
        values, rate, trained_on=len(good.trained_on), copies=len(good.copies), faults=good.faults
    )
    pixel = quantile_with_interval(np.array(good.hottest), rate)[0]
    review = None if review_rate is None else review_band(values, review_rate, score)
    return {"score": score, "false_reject_rate": rate, "interval": interval, "pixel": pixel, "review": review}


def _chosen_on_defects(good: ScoredImages, defective: ScoredImages, review_rate: float | None) -> _Chosen:
    """Return what defective images choose: the score that separates both kinds best.

    Raises:
        DataError: There are no images of a kind, or an image is of both.
        GateError: Defective images do not score above good ones.
    """
    _require_both(good, defective)
    values = np.array(good.scores)
    score = best_split(values, np.array(defective.scores))
    review = None if review_rate is None else review_band(values, review_rate, score)
    return {**_counted(score, good), "review": review, "defects": _count_defects(score, good, defective)}


def _set_by_hand(
    scaled: GivenThreshold, good: ScoredImages, defective: ScoredImages | None, given: GivenThreshold
) -> _Chosen:
    """Return what a person sets.

    Args:
        scaled: The threshold on the scale of the images' scores.
        good: Good images.
        defective: Defective images, which are counted, or None.
        given: The threshold on the scale of FP32's scores, as it was given.

    Raises:
        DataError: There are no good images, or an image is of both kinds.
    """
    _require_both(good, defective)
    defects = None if defective is None else _count_defects(scaled.score, good, defective)
    band = scaled.band(np.array(good.scores))
    return {**_counted(scaled.score, good), "review": band, "by_hand": given.record(defects, scaled.factor)}


def _counted(score: float, good: ScoredImages) -> _Chosen:
    """Return a threshold that no rate has chosen, with the share of good images that it rejects."""
    values, hottest = np.array(good.scores), np.sort(good.hottest)
    rejected = int((values > score).sum())
    # The hottest pixel is the score where that is the map's maximum; else as many good images
    # exceed it.
    is_maximum = np.allclose(good.hottest, values, rtol=1e-6)
    pixel = score if is_maximum else float(hottest[max(len(hottest) - 1 - rejected, 0)])
    rate = rejected / len(values)
    return {"score": score, "false_reject_rate": rate, "interval": (None, None), "pixel": pixel}


def _count_defects(score: float, good: ScoredImages, defective: ScoredImages) -> DefectChoice:
    """Return how a score divides images of both kinds."""
    return DefectChoice(
        images=len(defective.scores),
        misses=int((np.array(defective.scores) <= score).sum()),
        false_rejects=int((np.array(good.scores) > score).sum()),
        data_sha256=hash_of_hashes(defective.hashes),
    )


def _require_both(good: ScoredImages, defective: ScoredImages | None) -> None:
    """Raise ``DataError`` if there are no images of a kind, or an image is of both."""
    for name, scored in (("good", good), ("defective", defective)):
        if scored is not None and not scored.scores:
            raise DataError(
                f"there are no {name} images to choose a threshold on",
                received=describe_skipped(len(scored.trained_on), len(scored.copies), scored.faults),
                fix="name a folder with others",
            )
    both = [str(path) for key, path in (defective.keys if defective else {}).items() if key in good.keys]
    if both:
        raise DataError(
            f"{number_of(len(both), '[image is|images are]')} both good and defective",
            expected="each image either good or defective",
            received=shorten(both),
            fix="remove them from one of the two folders",
        )
