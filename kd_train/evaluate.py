"""Scoring a test split through a detector, whatever runs it. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kd_train.metrics import auroc, per_region_overlap
from kdx.errors import GateError, ImageError
from kdx.folder import GOOD, TestImage
from kdx.images import centred_box, image_facts, read_image, read_mask, require_mask
from kdx.progress import SILENT, Progress, Task
from kdx.runtime.detector import Detector


@dataclass(frozen=True)
class TypeResult:
    """Results of one defect type against all good images (NaN where there is no mask)."""

    images: int
    image_auroc: float
    pixel_auroc: float
    pro: float
    detection_rate: float | None


@dataclass(frozen=True)
class Bands:
    """Shares of images in the three bands of a bundle that has a review band."""

    accept: float
    review: float
    reject: float


@dataclass(frozen=True)
class Evaluation:
    """Results of a test split.

    Attributes:
        good: Number of good images.
        defective: Number of defective images.
        image_auroc: Over the images' scores.
        pixel_auroc: Over all pixels of the maps that count (in the region of interest, where there is one), masks
            brought to the maps' size by nearest neighbour; NaN without masks.
        pro: Per-region overlap up to a false-positive rate of 0.3; NaN without masks.
        false_reject_rate: Good images above the threshold; None without a threshold.
        detection_rate: Defective images above the threshold; None without a threshold.
        types: The same per defect type.
        scores: Score by file, relative to the data folder.
        bad_images: Files that could not be used, with the reason.
        bands: Shares of good and of defective images in each band, by ``good`` and ``defective``; None without a review
            band. Frames that show no part are counted by their score, as everywhere here.
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


def evaluate(
    detector: Detector,
    root: Path,
    test: Sequence[TestImage],
    *,
    max_bad_images: int = 0,
    batch_size: int = 8,
    progress: Progress = SILENT,
) -> Evaluation:
    """Score every test image and compare with the folder it came from and its mask.

    Raises:
        ImageError: A mask is missing or of another size; or more images than allowed cannot be read.
    """
    _require_masks(test)
    used: list[TestImage] = []
    maps: list[NDArray[np.float32]] = []
    scores: list[float] = []
    bad: dict[str, str] = {}
    with progress.task("evaluating", len(test)) as task:
        for images, pixels in _read_batches(detector, test, batch_size, bad, max_bad_images):
            outputs = detector.outputs(pixels)
            used += images
            maps += list(outputs.maps)
            scores += [float(score) for score in outputs.scores[:, 0]]
            task.advance(len(images))
    _require_finite(used, scores)
    masks = _masks(used, maps, detector.field_of_view) if any(image.mask for image in used) else None
    with progress.task("metrics", 1 + len({image.defect_type for image in used if image.is_defective})) as task:
        return _summarise(used, np.array(scores), maps, masks, detector, root, bad, task)


def _read_batches(
    detector: Detector, test: Sequence[TestImage], batch_size: int, bad: dict[str, str], max_bad_images: int
) -> Iterator[tuple[list[TestImage], list[NDArray[np.uint8]]]]:
    for start in range(0, len(test), batch_size):
        images: list[TestImage] = []
        pixels: list[NDArray[np.uint8]] = []
        for image in test[start : start + batch_size]:
            try:
                pixels.append(read_image(image.path, detector.input))
                images.append(image)
            except ImageError as error:
                bad[str(image.path)] = error.message
                if len(bad) > max_bad_images:
                    raise
        if images:
            yield images, pixels


def _require_masks(test: Sequence[TestImage]) -> None:
    """Find a missing mask, or one of another size than its image, before hours of inference."""
    for image in test:
        if image.mask is not None:
            try:
                width, height, _ = image_facts(image.path)
            except ImageError:
                continue  # counted where it is read
            require_mask(image.mask, width=width, height=height)


def _require_finite(images: Sequence[TestImage], scores: Sequence[float]) -> None:
    bad = [str(image.path) for image, score in zip(images, scores, strict=True) if not np.isfinite(score)]
    if bad:
        raise GateError(
            f"{len(bad)} images have scores that are not finite, for example '{bad[0]}'", fix="run kdx verify"
        )


def _masks(
    images: Sequence[TestImage], maps: Sequence[NDArray[np.float32]], field_of_view: float
) -> list[NDArray[np.bool_]]:
    """Read every mask and bring the part that its map covers to the map's size by nearest neighbour."""
    masks: list[NDArray[np.bool_]] = []
    for image, map_ in zip(images, maps, strict=True):
        if image.mask is None:
            masks.append(np.zeros(map_.shape, dtype=bool))
            continue
        mask = Image.fromarray(read_mask(image.mask).astype(np.uint8))
        box = centred_box(mask.width, mask.height, field_of_view)
        masks.append(np.asarray(mask.resize((map_.shape[1], map_.shape[0]), Image.Resampling.NEAREST, box)) > 0)
    return masks


def _summarise(
    images: Sequence[TestImage],
    scores: NDArray[np.float64],
    maps: Sequence[NDArray[np.float32]],
    masks: list[NDArray[np.bool_]] | None,
    detector: Detector,
    root: Path,
    bad: dict[str, str],
    task: Task,
) -> Evaluation:
    types = np.array([image.defect_type for image in images])
    is_defective = types != GOOD
    threshold = detector.threshold
    counted = detector.roi.counted if detector.roi else None

    def rate(chosen: NDArray[np.bool_]) -> float | None:
        return None if threshold is None or not chosen.any() else float((scores[chosen] > threshold).mean())

    def result(chosen: NDArray[np.bool_]) -> tuple[float, float, float]:
        """Return image AUROC, pixel AUROC and PRO of the chosen images."""
        task.advance()
        image = auroc(is_defective[chosen], scores[chosen])
        if masks is None:
            return image, float("nan"), float("nan")
        indices = np.flatnonzero(chosen).tolist()
        m, a = [masks[i] for i in indices], [maps[i] for i in indices]
        inside = slice(None) if counted is None else counted
        pixel = auroc(np.stack([each[inside] for each in m]), np.stack([each[inside] for each in a]))
        return image, pixel, per_region_overlap(m, a, counted=counted)

    overall = result(np.ones(len(images), dtype=bool))
    by_type = {
        name: TypeResult(int((types == name).sum()), *result((types == name) | ~is_defective), rate(types == name))
        for name in sorted(set(types.tolist()) - {GOOD})
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
        scores={_relative(image.path, root): float(s) for image, s in zip(images, scores, strict=True)},
        bad_images=bad,
        bands=_bands(scores, is_defective, detector),
    )


def _bands(scores: NDArray[np.float64], is_defective: NDArray[np.bool_], detector: Detector) -> dict[str, Bands] | None:
    if detector.threshold is None or detector.review_threshold is None:
        return None
    low, high = detector.review_threshold, detector.threshold

    def bands(part: NDArray[np.float64]) -> Bands:
        shares = (part <= low, (part > low) & (part <= high), part > high)
        return Bands(*(float(share.mean()) if len(part) else float("nan") for share in shares))

    return {"good": bands(scores[~is_defective]), "defective": bands(scores[is_defective])}


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
