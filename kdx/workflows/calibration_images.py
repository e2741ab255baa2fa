"""Images that a calibration leaves out, and test images that chose the threshold.

Of those, the rates at that threshold are no measurement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import UNSET

from kdx.folders.copies import identified
from kdx.imaging.image_identity import Identity, Likeness, distinct
from kdx.remarks import Remark, remark
from kdx.storage.files import hash_of_hashes

if TYPE_CHECKING:
    from kd_train.evaluation.evaluate import Evaluation
    from kdx.bundle.bundle import Bundle
    from kdx.folders.data_folder import TestImage

# The kind of remark on defective images that chose the threshold.
CHOSEN_ON_DEFECTS = "calibrated_on_defects"
_UNKNOWN = (
    "good [image was|images were] compared with those of the calibration only as a whole, because the bundle keeps "
    "no hashes of single ones: if some of them chose the threshold, false rejects are too low (calibrate again to keep "
    "the hashes)"
)


def without_left_out(bundle: Bundle, images: Sequence[Path]) -> tuple[list[Path], list[Remark]]:
    """Return the good images without those that the training left out as odd, and a remark on them.

    Frames of another camera would set a threshold, or could not be scored at all.
    """
    left_out = bundle.left_out_images()
    known = identified(images) if len(left_out) else []
    odd = {path for path, identity in known if left_out.likeness(identity) is Likeness.SAME}
    text = "good [image was|images were] left out of the calibration, as the training left [it|them] out as odd"
    return [path for path in images if path not in odd], remark("left_out_of_training", text, sorted(odd))


def chosen_on(bundle: Bundle, images: Sequence[tuple[Path, Identity]]) -> list[Path] | None:
    """Return those of the images that chose the threshold, or that its level map was fitted on.

    Args:
        bundle: The calibrated bundle.
        images: The images.

    Returns:
        The images; None if the bundle does not know them, because it was calibrated by a kdx that
        kept no hashes, and they are not exactly the images of the calibration.
    """
    manifest, threshold = bundle.manifest, bundle.manifest.threshold
    is_by_hand = threshold is not None and threshold.by_hand is not UNSET
    if threshold is None or (is_by_hand and threshold.level is None):  # what it lists shows no part
        return []
    if manifest.calibration_images is not UNSET:
        known = set(manifest.calibration_images)
        return [path for path, identity in images if identity.key in known]
    if is_by_hand:
        return []
    others = _held_out(bundle, images)
    return [path for path, _ in others] if _hash(others) == threshold.data_sha256 else None


def holds_calibration(bundle: Bundle, good: Sequence[tuple[Path, Identity]]) -> bool:
    """Whether the good images of a folder are exactly those of the calibration.

    The hash of a threshold is of the good images that were scored. Those that the level map was
    fitted on, and frames without a part, are not among them; the bundle lists their keys.

    Args:
        bundle: The calibrated bundle.
        good: The good images, also those that a calibration leaves out.
    """
    threshold = bundle.manifest.threshold_of("fp32")  # every precision is calibrated on the same images
    if threshold is None:
        return False
    images, listed = _held_out(bundle, good), bundle.manifest.calibration_images
    if _hash(images) == threshold.data_sha256:  # all of them were scored
        return True
    if listed is UNSET:
        return False
    keys = {identity.key for _, identity in images}
    others = set(listed) - keys
    if threshold.by_hand is not UNSET:  # of the images that were scored, it lists none
        scored = [(path, identity) for path, identity in images if identity.key not in set(listed)]
        return not others and _hash(scored) == threshold.data_sha256
    defects = threshold.defects.images if threshold.defects else 0
    return keys <= set(listed) and len(others) == defects


def _held_out(bundle: Bundle, images: Sequence[tuple[Path, Identity]]) -> list[tuple[Path, Identity]]:
    """Return the images that a calibration on them uses: neither trained on nor left out as odd."""
    apart = (bundle.training_images(), bundle.left_out_images())
    return [
        (path, identity)
        for path, identity in images
        if all(known.likeness(identity) is not Likeness.SAME for known in apart)
    ]


def _hash(images: Sequence[tuple[Path, Identity]]) -> str:
    """Return the hash over good images that a calibration on them records: copies count once."""
    files = {path: identity.file for path, identity in images}
    return hash_of_hashes(files[path] for path in distinct(images)[0])


def without_chosen_rates(bundle: Bundle, images: Sequence[TestImage], result: Evaluation) -> Evaluation:
    """Return an evaluation with remarks on the images that chose the threshold.

    Where no good image is left that neither chose it nor was trained on, there is no rate of false
    rejects: it would be that for which the threshold was chosen.
    """
    remarks: list[Remark] = []
    images = [image for image in images if str(image.path) not in result.bad_images]
    if result.false_reject_rate is not None:
        good = identified(image.path for image in images if not image.is_defective)
        chose = chosen_on(bundle, good)
        if chose is None:
            remarks += remark("calibration_unknown", _UNKNOWN, [path for path, _ in good])
        elif chose:
            trained = bundle.training_images()
            measure = {path for path, identity in good if trained.likeness(identity) is not Likeness.SAME}
            is_measured = bool(measure - set(chose))
            end = "are too low" if is_measured else "are not measured: they are what the threshold was chosen for"
            text = f"of {len(good):,} good images chose the threshold, so false rejects {end}"
            remarks += remark("calibrated_on", text, chose)
            if not is_measured:
                result = _without_false_rejects(result)
    if result.detection_rate is not None:
        defective = identified(image.path for image in images if image.is_defective)
        text = f"of {len(defective):,} defective images chose the threshold, so too many are detected at it"
        remarks += remark(CHOSEN_ON_DEFECTS, text, chosen_on(bundle, defective) or ())
    return replace(result, remarks=(*result.remarks, *remarks))


def _without_false_rejects(result: Evaluation) -> Evaluation:
    bands = None if result.bands is None else {name: each for name, each in result.bands.items() if name != "good"}
    return replace(result, false_reject_rate=None, false_reject_interval=None, bands=bands)
