"""Which images a report is about."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdx.bundle.bundle import Bundle
from kdx.errors import DataError, ImageError
from kdx.folders.copies import repeated, unknown
from kdx.folders.data_folder import GOOD, ImageFolder, TestImage
from kdx.imaging.grey_conversion import grey_conversion_remarks
from kdx.imaging.image_identity import Identity, Likeness, identify
from kdx.progress import SILENT, Progress, track
from kdx.remarks import Remark, remark
from kdx.workflows.calibration_images import chosen_on, holds_calibration


@dataclass(frozen=True)
class ReportImages:
    """The images of a report.

    Attributes:
        images: What is scored.
        found: How many there were to choose from.
        is_test: Whether they are a test split; else they are the folder's good images.
        trained_on: Images that were skipped because the student was trained on them.
        holds_calibration: Whether the folder holds exactly the images that the bundle was
            calibrated on.
        calibrated_on: How many of the images in the folder the calibration depends on; None if the
            bundle does not know.
        remarks: What was left out, and what is to be said of the images.
    """

    images: tuple[TestImage, ...]
    found: int
    is_test: bool
    trained_on: int
    holds_calibration: bool
    calibrated_on: int | None = None
    remarks: tuple[Remark, ...] = ()

    @property
    def is_sampled(self) -> bool:
        """Whether images were left out because there are too many."""
        return len(self.images) < self.found


def choose_images(bundle: Bundle, folder: ImageFolder, max_images: int, progress: Progress = SILENT) -> ReportImages:
    """Return the test images, or else the good ones, without those that were trained on.

    Raises:
        DataError: Nothing is left.
    """
    candidates = folder.test or tuple(TestImage(path, GOOD, None) for path in folder.good)
    paths = dict.fromkeys([*folder.good, *(image.path for image in candidates)])
    found = {path: _identity(path) for path in track(progress, paths, "looking at files", len(paths))}
    trained = bundle.training_images()
    likeness = {path: trained.likeness(each) for path, each in found.items() if each is not None}
    left = [image for image in candidates if likeness.get(image.path) is not Likeness.SAME]
    if not left:
        raise DataError(
            f"'{folder.root}' holds no images to report on",
            expected="images in test/good and test/DEFECT_TYPE, or good images that were not trained on",
            received=f"{len(candidates)} images, all of them trained on" if candidates else "no images",
            fix="name a folder with other images",
        )
    known = {path: each for path, each in found.items() if each is not None}
    chose = chosen_on(bundle, list(known.items()))
    chosen = sample(left, max_images)  # the figures are those of the sample, and so are the remarks on them
    identified = [(image.path, known[image.path]) for image in chosen if image.path in known]
    return ReportImages(
        images=tuple(chosen),
        found=len(left),
        is_test=bool(folder.test),
        trained_on=len(candidates) - len(left),
        holds_calibration=holds_calibration(bundle, [(path, known[path]) for path in folder.good if path in known]),
        calibrated_on=None if chose is None else len({known[path].key for path in chose}),
        remarks=(
            *folder.remarks,
            *remark(
                "near_trained_on",
                "[image is|images are] nearly the same as images trained on",
                [path for path, _ in identified if likeness[path] is Likeness.NEAR],
            ),
            *repeated(chosen, identified),
            *grey_conversion_remarks([image.path for image in chosen], bundle.manifest.camera),
            *unknown(trained, len(identified)),
        ),
    )


def sample(images: Sequence[TestImage], most: int) -> list[TestImage]:
    """Return a reproducible sample, in order: rare types whole, the others evenly.

    A type of defect that has few images tells most by each of them.
    """
    by_type: dict[str, list[TestImage]] = {}
    for image in images:
        by_type.setdefault(image.defect_type, []).append(image)
    chosen: set[Path] = set()
    left = most
    for index, group in enumerate(sorted(by_type.values(), key=len)):
        count = min(len(group), left // (len(by_type) - index))
        drawn = random.Random(0).sample(group, count)  # noqa: S311  # which images are shown is no secret
        chosen.update(image.path for image in drawn)
        left -= count
    return [image for image in images if image.path in chosen]


def _identity(path: Path) -> Identity | None:
    """Return an image's hashes; None for an unreadable file, which is reported later."""
    try:
        return identify(path)
    except ImageError:
        return None
