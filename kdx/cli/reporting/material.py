"""Which images a report is about."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdx.bundle import Bundle
from kdx.errors import DataError
from kdx.files import hash_of_hashes, sha256_file
from kdx.folder import GOOD, ImageFolder, TestImage
from kdx.progress import SILENT, Progress, track
from kdx.remarks import Remark


@dataclass(frozen=True)
class Material:
    """The images of a report.

    Attributes:
        images: What is scored.
        found: How many there were to choose from.
        is_test: Whether they are a test split; else they are the folder's good images.
        trained_on: Images that were passed over because the student was trained on them.
        holds_calibration: Whether the folder holds exactly the images that the bundle was calibrated on.
        remarks: What was left out, and what is to be said of the images.
    """

    images: tuple[TestImage, ...]
    found: int
    is_test: bool
    trained_on: int
    holds_calibration: bool
    remarks: tuple[Remark, ...] = ()

    @property
    def is_sampled(self) -> bool:
        """Whether images were left out because there are too many."""
        return len(self.images) < self.found


def choose_images(bundle: Bundle, folder: ImageFolder, max_images: int, progress: Progress = SILENT) -> Material:
    """Return the test images, or where there are none the good ones, without those that were trained on.

    Raises:
        DataError: Nothing is left.
    """
    candidates = folder.test or tuple(TestImage(path, GOOD, None) for path in folder.good)
    paths = dict.fromkeys([*folder.good, *(image.path for image in candidates)])
    digests = {path: _digest(path) for path in track(progress, paths, "looking at files", len(paths))}
    trained = bundle.training_images()
    left = [image for image in candidates if digests[image.path] not in trained]
    if not left:
        raise DataError(
            f"'{folder.root}' holds no images to report on",
            expected="images in test/good and test/DEFECT_TYPE, or good images that were not trained on",
            received=f"{len(candidates)} images, all of them trained on" if candidates else "no images",
            fix="name a folder with other images",
        )
    held_out = {digest for path in folder.good if (digest := digests[path]) and digest not in trained}
    threshold = bundle.manifest.threshold_of("fp32")  # every precision is calibrated on the same images
    return Material(
        images=tuple(sample(left, max_images)),
        found=len(left),
        is_test=bool(folder.test),
        trained_on=len(candidates) - len(left),
        holds_calibration=threshold is not None and hash_of_hashes(held_out) == threshold.data_sha256,
        remarks=folder.remarks,
    )


def sample(images: Sequence[TestImage], most: int) -> list[TestImage]:
    """Return at most so many images, in order, drawn alike on every call: rare types whole, the others as evenly.

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


def _digest(path: Path) -> str | None:
    """Return a file's hash; None where it cannot be read, which is said where it is to be scored."""
    try:
        return sha256_file(path)
    except OSError:
        return None
