"""A threshold from held-out good images, scored by the graph that is deployed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdx.bundle.bundle import Bundle
from kdx.bundle.manifest import DefectChoice, LevelFit, Threshold
from kdx.calibration.frame_limits import frame_limits_of
from kdx.calibration.rates import (
    CONFIDENCE,
    best_split,
    quantile_with_interval,
    require_rates,
    review_band,
    scores_to_keep,
)
from kdx.calibration.scored_images import ImageScorer, ScoredImages
from kdx.errors import DataError
from kdx.folders.copies import unknown
from kdx.folders.image_sizes import require_size
from kdx.imaging.frame_faults import FrameLimits
from kdx.imaging.grey_conversion import grey_conversion_remarks
from kdx.imaging.image_identity import KnownImages, nearly_repeated
from kdx.progress import SILENT, Progress
from kdx.remarks import Remark, remark
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
            are black, white or overexposed, as no golden image is. Limits of frames are not learned
            from them.
        frame_limits: What frames of real parts look like, learned from the others.
        frame_outliers: Single images that widen those limits: check whether they show a part.
        remarks: Copies among the images, images nearly the same as images trained on, and what
            cannot be known of them.
    """

    threshold: Threshold
    scores: NDArray[np.float64]
    trained_on: int
    bad_images: dict[str, str]
    frame_faults: dict[str, list[str]]
    frame_limits: FrameLimits
    frame_outliers: list[str]
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
    values, hottest = np.array(good.scores), np.array(good.hottest)
    choice: DefectChoice | None = None
    defective: ScoredImages | None = None
    interval: tuple[float | None, float | None] = (None, None)
    if defective_images:
        defective = scorer.score(defective_images, "defective")
        score, choice = _choose(good, defective)
        false_reject_rate = choice.false_rejects / len(values)
        # The hottest pixel is the score where that is the map's maximum; else as many good images
        # exceed it.
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
        scores=scores_to_keep(values),
        review=None if review_rate is None else review_band(values, review_rate, score),
        roi_sha256=bundle.manifest.roi_sha256,
        level=level,
        defects=choice,
    )
    limits, outliers = frame_limits_of(bundle, good.frames)
    colours = grey_conversion_remarks([*good_images, *defective_images], detector.input)
    remarks = (*colours, *_remarks(good, defective, scorer.trained))
    return Calibration(threshold, values, good.trained_on, scorer.bad, good.faults, limits, outliers, remarks)


def _choose(good: ScoredImages, defective: ScoredImages) -> tuple[float, DefectChoice]:
    """Return the threshold that separates both kinds best, and what it was chosen on.

    Raises:
        DataError: There are no images of a kind, or an image is of both.
        GateError: Defective images do not score above good ones.
    """
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
            f"{number_of(len(both), '[image is|images are]')} both good and defective",
            fix="remove them from one of the two folders",
        )
    values, defects = np.array(good.scores), np.array(defective.scores)
    score = best_split(values, defects)
    return score, DefectChoice(
        images=len(defects),
        misses=int((defects <= score).sum()),
        false_rejects=int((values > score).sum()),
        data_sha256=hash_of_hashes(defective.hashes),
    )


def _remarks(good: ScoredImages, defective: ScoredImages | None, trained: KnownImages) -> list[Remark]:
    return [
        *remark(
            "copies",
            "good [image is a copy of another and was|images are copies of others and were] not used again",
            good.copies,
        ),
        *remark(
            "near_trained_on",
            "good [image is|images are] nearly the same as images trained on, so that their scores may be too low",
            good.near,
        ),
        *_repeated("near_copies", "good", good),
        *([] if defective is None else _repeated("near_copies_of_defects", "defective", defective)),
        *unknown(trained, len(good.scores)),
    ]


def _repeated(kind: str, name: str, scored: ScoredImages) -> list[Remark]:
    """Return a remark on images that are nearly the same as another one.

    They are used nevertheless: photographs of parts that always lie at one place may be as alike.
    """
    near = nearly_repeated(scored.identified)
    images = len(scored.scores)
    return remark(
        kind,
        f"of the {images} {name} images that were used [is|are] nearly the same as another of them. If they are copies "
        f"of one picture or show one part, the number of images is overstated, and so is what the threshold promises: "
        f"calibrate without them, on {images - len(near)} images",
        near,
    )
