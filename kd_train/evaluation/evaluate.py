"""Scoring a test split with a detector of any runtime. This module does not import torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kd_train.data.annotations import Annotations, read_masks
from kd_train.evaluation.metrics import auroc, per_region_overlap
from kdx.calibration.rates import share_interval
from kdx.calibration.separation import separation_remarks
from kdx.errors import GateError, ImageError
from kdx.folders.bad_images import skip_bad
from kdx.folders.data_folder import GOOD, TestImage
from kdx.folders.image_sizes import require_size
from kdx.imaging.frame_faults import faults_of
from kdx.imaging.images import read_image
from kdx.progress import SILENT, Progress
from kdx.remarks import Remark, remark
from kdx.runtime.banded import judge_path
from kdx.runtime.detector import Detector
from kdx.text import number_of

_BATCH = 8  # images in a call of the detector
_NO_PART = (
    "[image looks like a frame|images look like frames] without a part: undecided, never good, but counted by score as "
    "not rejected"
)


@dataclass(frozen=True)
class TypeResult:
    """Results of one defect type against all good images.

    Attributes:
        images: The number of images of the type.
        image_auroc: The AUROC of the images' scores.
        pixel_auroc: The AUROC of the maps' pixels; NaN without masks.
        pro: The per-region overlap; NaN without masks.
        detection_rate: The share of images above the threshold; None without a threshold.
    """

    images: int
    image_auroc: float
    pixel_auroc: float
    pro: float
    detection_rate: float | None


@dataclass(frozen=True)
class Bands:
    """Shares of images that a bundle with a review band accepts, leaves to review, and rejects."""

    accept: float
    review: float
    reject: float


@dataclass(frozen=True)
class Evaluation:
    """Results of a test split.

    Attributes:
        good: The number of good images.
        defective: The number of defective images.
        image_auroc: The AUROC of the images' scores.
        pixel_auroc: The AUROC of the maps' pixels, within the region of interest if there is one. A
            pixel of the map is defective if any pixel of the mask that it covers is. NaN without
            masks.
        pro: The per-region overlap up to a false-positive rate of 0.3; NaN without masks.
        false_reject_rate: The share of good images above the threshold; None without a threshold.
        detection_rate: The share of defective images above the threshold; None without a threshold.
        types: The results of each defect type.
        scores: The score of each file, by its path relative to the data folder.
        bad_images: The files that could not be used, with the reason for each.
        bands: The shares of images in each band, under ``good`` and ``defective``; None without a
            review band. Frames that show no part count by their score, as in all figures.
        masks: What is unusual about the masks; None if the set has none.
        remarks: The remarks on images that were left out or are unusual.
        false_reject_interval: The 95 % confidence interval of ``false_reject_rate``; None without a
            threshold.
    """

    good: int
    defective: int
    image_auroc: float
    pixel_auroc: float
    pro: float
    false_reject_rate: float | None
    detection_rate: float | None
    types: dict[str, TypeResult]
    scores: dict[str, float] = field(repr=False)
    bad_images: dict[str, str] = field(default_factory=dict)
    bands: dict[str, Bands] | None = None
    masks: Annotations | None = None
    remarks: tuple[Remark, ...] = ()
    false_reject_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Scored:
    """Test images with their scores and maps.

    Attributes:
        images: The images that could be read, in order.
        scores: The score of each image, ``(N,)``.
        has_faults: Whether each image shows no part, so that its verdict would be undecided at
            best.
        maps: The anomaly maps ``(h, w)`` of the images whose map was kept, by position.
        masks: The masks, at the maps' size, of those images that count in pixel figures, by
            position; None if the set has no masks.
        bad_images: The files that could not be used, with the reason for each.
        annotations: What is unusual about the masks; None if the set has none.
    """

    images: list[TestImage]
    scores: NDArray[np.float64]
    has_faults: NDArray[np.bool_]
    maps: dict[int, NDArray[np.float32]]
    masks: dict[int, NDArray[np.bool_]] | None
    bad_images: dict[str, str]
    annotations: Annotations | None = None

    @property
    def types(self) -> NDArray[np.str_]:
        """The defect type of each image; ``good`` for good images."""
        return np.array([image.defect_type for image in self.images], dtype=np.str_)


def evaluate(
    detector: Detector,
    root: Path,
    test: Sequence[TestImage],
    *,
    max_bad_images: int = 0,
    unused_masks: Sequence[Path] = (),
    progress: Progress = SILENT,
) -> Evaluation:
    """Score every test image, and compare its score and map with its defect type and mask.

    The arguments, warnings and errors are those of :func:`score_images`; ``root`` is the folder
    that file names in the result are relative to. Remarks name the images that the line would not
    decide by their score, and say where defective images do not score higher than good ones.
    """
    scored = score_images(
        detector,
        test,
        max_bad_images=max_bad_images,
        unused_masks=unused_masks,
        progress=progress,
    )
    result = summarise(scored, detector, root, progress)
    if detector.threshold is None:
        return result
    undecided = scored.has_faults & (scored.scores <= detector.threshold)
    return replace(result, remarks=(*result.remarks, *remark("no_part", _NO_PART, _paths(scored.images, undecided))))


def score_images(
    detector: Detector,
    test: Sequence[TestImage],
    *,
    keeps_map: Callable[[TestImage], bool] = lambda _: True,
    max_bad_images: int = 0,
    unused_masks: Sequence[Path] = (),
    progress: Progress = SILENT,
) -> Scored:
    """Score every test image.

    Args:
        detector: The detector.
        test: The images.
        keeps_map: Whether an image's map and mask are kept; those of very many images would not fit
            into memory. Without masks, no map is kept: nothing is compared with it.
        max_bad_images: The number of images that may be unreadable.
        unused_masks: The masks in the data folder that belong to no image.
        progress: The progress display.

    Warns:
        MaskWarning: Masks are missing, belong to no image, or contradict their image's folder.

    Raises:
        ImageError: A mask cannot be used, or more images than allowed cannot be read.
        GateError: A score is not finite.
    """
    require_size([image.path for image in test], detector.input, max_bad_images)
    has_masks, read_in = any(image.mask for image in test), None
    if not detector.input.is_in_bands and (has_masks or unused_masks):
        size = _map_size(detector)
        read_in = read_masks(test, size, detector.view, keeps_map=keeps_map, unused=unused_masks, progress=progress)
    used: list[TestImage] = []
    scores: list[float] = []
    faults: list[bool] = []
    maps: dict[int, NDArray[np.float32]] = {}
    bad: dict[str, str] = {}
    with progress.task("evaluating", len(test)) as task:
        for image, frame, score, map_ in _answers(detector, test, bad, max_bad_images):
            if has_masks and map_ is not None and keeps_map(image):
                maps[len(used)] = map_.copy()
            used.append(image)
            scores.append(score)
            faults.append(bool(faults_of(frame, detector.frame_limits)))
            task.advance()
    _require_finite(used, scores)
    masks = None
    if read_in is not None and any(image.mask for image in used):
        by_image = read_in.by_image
        masks = {index: by_image[used[index].path] for index in maps if used[index].path in by_image}
    annotations = read_in.annotations if read_in else None
    return Scored(used, np.array(scores), np.array(faults, dtype=bool), maps, masks, bad, annotations)


def _answers(
    detector: Detector, test: Sequence[TestImage], bad: dict[str, str], max_bad_images: int
) -> Iterator[tuple[TestImage, NDArray[np.uint8], float, NDArray[np.float32] | None]]:
    """Yield each image with its frame, score and map; None for maps of frames read in bands."""
    if detector.input.is_in_bands:
        for number, image in enumerate(test, 1):
            with _skipping(image, bad, max_bad_images, len(test) - number):
                verdict, samples = judge_path(detector, image.path)
                yield image, samples, verdict.score, None
        return
    for start in range(0, len(test), _BATCH):
        images: list[TestImage] = []
        pixels: list[NDArray[np.uint8]] = []
        for number, image in enumerate(test[start : start + _BATCH], start + 1):
            with _skipping(image, bad, max_bad_images, len(test) - number):
                pixels.append(read_image(image.path, detector.input))
                images.append(image)
        if images:
            outputs = detector.outputs(pixels)
            yield from zip(images, pixels, outputs.scores[:, 0].tolist(), outputs.maps, strict=True)


@contextmanager
def _skipping(image: TestImage, bad: dict[str, str], most: int, later: int) -> Iterator[None]:
    """Skip an image that cannot be read, with ``later`` images after it, see :func:`skip_bad`."""
    try:
        yield
    except ImageError as error:
        skip_bad(image.path, error, bad, most, later)


def _map_size(detector: Detector) -> tuple[int, int]:
    """Return the height and width of a detector's maps, measured on an empty image."""
    spec = detector.input
    height, width = detector.outputs([np.zeros((spec.height, spec.width, spec.channels), np.uint8)]).maps.shape[1:]
    return height, width


def _require_finite(images: Sequence[TestImage], scores: Sequence[float]) -> None:
    bad = [str(image.path) for image, score in zip(images, scores, strict=True) if not np.isfinite(score)]
    if bad:
        raise GateError(
            number_of(len(bad), "[image has a score that is|images have scores that are] not finite")
            + f", for example '{bad[0]}'",
            fix="run `kdx verify`",
        )


def summarise(scored: Scored, detector: Detector, root: Path, progress: Progress = SILENT) -> Evaluation:
    """Return the figures of scored images; a figure that is not defined is NaN.

    Args:
        scored: The scored images.
        detector: The detector, for its thresholds and region of interest.
        root: The folder that file names in the result are relative to.
        progress: The progress display.
    """
    scores, masks, types = scored.scores, scored.masks, scored.types
    is_defective = types != GOOD
    threshold = detector.threshold
    counted = detector.roi.counted if detector.roi else None

    def rate(chosen: NDArray[np.bool_]) -> float | None:
        return None if threshold is None or not chosen.any() else float((scores[chosen] > threshold).mean())

    def result(chosen: NDArray[np.bool_]) -> tuple[float, float, float]:
        """Return image AUROC, pixel AUROC and PRO of the chosen images."""
        task.advance()
        image = auroc(is_defective[chosen], scores[chosen])
        indices = [i for i in np.flatnonzero(chosen).tolist() if masks is not None and i in masks]
        if masks is None or not indices:
            return image, float("nan"), float("nan")
        m, a = [masks[i] for i in indices], [scored.maps[i] for i in indices]
        inside = slice(None) if counted is None else counted
        pixel = auroc(np.stack([each[inside] for each in m]), np.stack([each[inside] for each in a]))
        return image, pixel, per_region_overlap(m, a, counted=counted)

    names = sorted(set(types.tolist()) - {GOOD})
    with progress.task("metrics", 1 + len(names)) as task:
        overall = result(np.ones(len(types), dtype=bool))
        by_type = {
            name: TypeResult(int((types == name).sum()), *result((types == name) | ~is_defective), rate(types == name))
            for name in names
        }
    return Evaluation(
        good=int((~is_defective).sum()),
        defective=int(is_defective.sum()),
        image_auroc=overall[0],
        pixel_auroc=overall[1],
        pro=overall[2],
        false_reject_rate=rate(~is_defective),
        detection_rate=rate(is_defective),
        types=by_type,
        scores={_relative(image.path, root): float(s) for image, s in zip(scored.images, scores, strict=True)},
        bad_images=scored.bad_images,
        bands=_bands(scores, is_defective, detector),
        masks=scored.annotations,
        remarks=tuple(separation_remarks(scores[~is_defective], scores[is_defective])),
        false_reject_interval=None
        if threshold is None or is_defective.all()
        else share_interval(int((scores[~is_defective] > threshold).sum()), int((~is_defective).sum())),
    )


def _bands(scores: NDArray[np.float64], is_defective: NDArray[np.bool_], detector: Detector) -> dict[str, Bands] | None:
    if detector.threshold is None or detector.review_threshold is None:
        return None
    low, high = detector.review_threshold, detector.threshold

    def bands(part: NDArray[np.float64]) -> Bands:
        shares = (part <= low, (part > low) & (part <= high), part > high)
        return Bands(*(float(share.mean()) if len(part) else float("nan") for share in shares))

    return {"good": bands(scores[~is_defective]), "defective": bands(scores[is_defective])}


def _paths(images: Sequence[TestImage], chosen: NDArray[np.bool_]) -> list[Path]:
    return [image.path for image, is_chosen in zip(images, chosen.tolist(), strict=True) if is_chosen]


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
