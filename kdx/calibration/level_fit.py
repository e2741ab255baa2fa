"""The level map of ``kdx calibrate --per-position``, fitted on half of the held-out good images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from kdx.bundle.bundle import Bundle
from kdx.bundle.stored_threshold import LevelFit
from kdx.calibration.rates import describe_faults, images_to_promise
from kdx.decision.level_map import Level, level_from, level_of, rule_of
from kdx.errors import DataError, ImageError
from kdx.folders.bad_images import skip_bad
from kdx.folders.copies import identified
from kdx.imaging.bands import require_whole_frames
from kdx.imaging.frame_faults import lasting_faults_of
from kdx.imaging.image_identity import Likeness
from kdx.imaging.images import read_image
from kdx.progress import SILENT, Progress
from kdx.runtime.detector import Detector
from kdx.storage.files import hash_of_hashes
from kdx.verification.tolerances import TOLERANCES

# With fewer images, what good parts cause at a place cannot be separated from chance.
FEWEST_FITTED = 5


@dataclass(frozen=True)
class FittedLevel:
    """A level map, and what it was fitted on.

    Attributes:
        level: The level map.
        record: What a threshold records of the level map.
        images: Hashes of the images; neither they nor their copies may choose a threshold.
    """

    level: Level
    record: LevelFit
    images: frozenset[str]


def fit_level(
    bundle: Bundle,
    detector: Detector,
    good_images: Sequence[Path],
    false_reject_rate: float | None,
    *,
    max_bad_images: int = 0,
    progress: Progress = SILENT,
) -> FittedLevel:
    """Fit a level map on one half of the held-out good images, and leave the rest to the threshold.

    Args:
        bundle: The bundle whose training images are skipped.
        detector: The FP32 detector: the level is fitted to its graph's maps, in its region of
            interest.
        good_images: Files of good images; copies count once.
        false_reject_rate: The rate that the other half must promise; None if defects choose the
            threshold.
        max_bad_images: How many images may be unreadable.
        progress: Shows every image.

    Raises:
        InputError: The method's score does not follow from its map alone.
        DataError: Too few images for two halves, or their maps give no level.
        ImageError: More images than allowed cannot be read.
    """
    require_whole_frames(bundle.manifest.camera, "kdx calibrate --per-position")
    rule = rule_of(bundle.manifest)
    chosen = _first_half(bundle, good_images, false_reject_rate)
    hottest = np.zeros(bundle.manifest.camera_map_size, np.float32)
    read: list[str] = []
    bad: dict[str, str] = {}
    without_part: dict[str, list[str]] = {}
    with progress.task("fitting the level map", len(chosen)) as task:
        for number, (digest, path) in enumerate(chosen.items(), 1):
            task.advance()
            try:
                image = read_image(path, detector.input)
            except ImageError as error:  # calibration reads it again, and reports it
                skip_bad(path, error, bad, max_bad_images, len(chosen) - number)
                continue
            if faults := lasting_faults_of(image, detector.frame_limits):
                # Calibration names it where it scores the other images.
                without_part[str(path)] = [fault.value for fault in faults]
                continue
            answer = detector.checked(detector.backend.run(np.ascontiguousarray(image[None])))
            if not np.isfinite(answer.scores).all():
                raise DataError(f"the map or the score of '{path}' is not finite", fix="run kdx verify")
            hottest = np.maximum(hottest, answer.maps[0])
            read.append(digest)
    if len(read) < FEWEST_FITTED:
        seen = f" (of the half that was read, {describe_faults(without_part)})" if without_part else ""
        raise _too_few(2 * FEWEST_FITTED, 2 * len(read), f"could be read and show a part{seen}")
    level = level_from(hottest, rule, detector.roi.counted if detector.roi else None)
    record = LevelFit(sha256=level.sha256, images=len(read), data_sha256=hash_of_hashes(read))
    stored = _stored(bundle, level, record)
    return FittedLevel(*(stored or (level, record)), frozenset(read))


def _stored(bundle: Bundle, level: Level, record: LevelFit) -> tuple[Level, LevelFit] | None:
    """Return the bundle's level map if only rounding distinguishes it from the new one, else None.

    Thresholds belong to the level map's hash. FP32 maps of two machines or runtimes differ in their
    last digits, so each would discard the thresholds that another runtime measured elsewhere.
    """
    threshold = bundle.manifest.threshold
    if threshold is None or threshold.level is None or threshold.roi_sha256 != bundle.manifest.roi_sha256:
        return None
    if msgspec.structs.replace(threshold.level, sha256=record.sha256) != record:
        return None
    if threshold.level.sha256 != bundle.manifest.level_sha256:
        return None
    stored = level_of(bundle)
    if stored is None or stored.rule != level.rule:
        return None
    # Relative to the largest value, as the FP32 tolerance of maps is relative to their range.
    allowed = TOLERANCES["fp32"].map * float(stored.values.max())
    return (stored, threshold.level) if np.abs(stored.values - level.values).max() <= allowed else None


def _first_half(bundle: Bundle, good_images: Sequence[Path], false_reject_rate: float | None) -> dict[str, Path]:
    """Return the half of the held-out images whose hashes come first, by hash."""
    trained = bundle.training_images()
    held_out: dict[str, Path] = {}
    seen: set[str] = set()
    for path, identity in identified(good_images):  # the threshold's calibration reports those that cannot be read
        if trained.likeness(identity) is not Likeness.SAME and identity.key not in seen:
            held_out[identity.file] = path
            seen.add(identity.key)
    promised = 1 if false_reject_rate is None else images_to_promise(false_reject_rate)
    needed = max(2 * FEWEST_FITTED, 2 * promised - 1)
    if len(held_out) < needed:
        rate = "" if false_reject_rate is None else f" at a false-reject rate of {false_reject_rate:g}"
        skipped = len(good_images) - len(held_out)
        also = f" ({skipped} that were trained on, are copies, or cannot be read do not count)" if skipped else ""
        raise _too_few(needed, len(held_out), f"are held out{rate}{also}")
    return {digest: held_out[digest] for digest in sorted(held_out)[: len(held_out) // 2]}


def _too_few(needed: int, received: int, what: str) -> DataError:
    return DataError(
        "too few good images for a level map: one half fits the level map, the other chooses the threshold",
        expected=f"at least {needed}",
        received=f"{received} that {what}",
        fix="add good images, ask for a higher `false_reject_rate`, or calibrate without `per_position`",
    )
