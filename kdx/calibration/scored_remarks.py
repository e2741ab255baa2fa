"""Remarks on the images that a calibration scored, and on those that it left out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kdx.calibration.scored_images import ScoredImages
from kdx.calibration.separation import separation_remarks
from kdx.folders.copies import unknown
from kdx.imaging.image_identity import KnownImages, nearly_repeated
from kdx.remarks import Remark, remark
from kdx.text import number_of


def scored_remarks(good: ScoredImages, defective: ScoredImages | None, trained: KnownImages) -> list[Remark]:
    """Return what the user should know about the images of a calibration.

    Args:
        good: Good images. Of those that were trained on or show no part,
            :class:`kdx.calibration.threshold.Calibration` says more.
        defective: Defective images, or None.
        trained: The images that the student was trained on.
    """
    remarks = [
        *_copies("copies", "good", good),
        *remark(
            "near_trained_on",
            "good [image is|images are] nearly the same as images trained on, so that their scores may be too low",
            good.near,
        ),
        *_repeated("near_copies", "good", good),
    ]
    if defective is not None:
        remarks += _of_defects(defective)
        remarks += separation_remarks(np.array(good.scores), np.array(defective.scores))
    return [*remarks, *unknown(trained, len(good.scores))]


def _of_defects(defective: ScoredImages) -> Iterator[Remark]:
    yield from remark(
        "trained_on_defects",
        "defective [image was trained on as a good part and was|images were trained on as good parts and were] not "
        "used: the student has learned [this defect|these defects], so that such ones may be missed; train again "
        "without [it|them]",
        defective.trained_on,
    )
    yield from remark(
        "near_trained_on_defects",
        "defective [image is|images are] nearly the same as images trained on as good parts, so that such defects may "
        "be missed",
        defective.near,
    )
    yield from _copies("copies_of_defects", "defective", defective)
    yield from _repeated("near_copies_of_defects", "defective", defective)
    yield from remark(
        "no_part",
        "defective [image shows no part and was|images show no part and were] not used",
        defective.faults,
    )


def _copies(kind: str, name: str, scored: ScoredImages) -> list[Remark]:
    text = f"{name} [image is a copy of another and was|images are copies of others and were] not used again"
    return remark(kind, text, scored.copies)


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
        f"calibrate without them, on {number_of(images - len(near), '[image|images]')}",
        near,
    )
