"""Finding images that occur twice: they make figures and thresholds look better than they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from kdx.errors import DataError, ImageError
from kdx.folders.data_folder import ImageFolder, TestImage
from kdx.imaging.image_identity import Identity, KnownImages, Likeness, distinct, identify, nearly_repeated
from kdx.progress import SILENT, Progress, track
from kdx.remarks import Remark, remark, shorten
from kdx.text import agreeing, number_of

_Identified = Sequence[tuple[Path, Identity]]


def within(images: _Identified) -> list[Remark]:
    """Return remarks on copies among good images, which are used once, and on near copies.

    Of several copies, a training uses the last one. It has to stay so: runs know the files that
    they use, and can be resumed.
    """
    used, copies = (paths[::-1] for paths in distinct(images[::-1]))
    identities = dict(images)
    return [
        *remark(
            "copies", "[image is a copy of another and is|images are copies of others and are] not used again", copies
        ),
        *remark(
            "near_copies",
            "good [image is|images are] nearly the same as another of them (if they show one part, name it: kdx train "
            "DATA --group-by or --parts; if they are copies of one picture, remove them)",
            nearly_repeated([(path, identities[path]) for path in used]),
        ),
    ]


def across(training: _Identified, held_out: _Identified) -> list[Remark]:
    """Return a remark on held-out images that are near copies of images trained on."""
    known = KnownImages(identity for _, identity in training)
    near = [path for path, identity in held_out if known.likeness(identity) is Likeness.NEAR]
    return remark(
        "held_out_near_copies",
        "held-out [image is|images are] nearly the same as images trained on, so their scores are too low (if they "
        "show one part, name it: kdx train DATA --group-by or --parts)",
        near,
    )


def identified(paths: Iterable[Path], progress: Progress = SILENT) -> list[tuple[Path, Identity]]:
    """Return the hashes of image files; unreadable ones are reported where they are used."""
    paths = list(paths)
    found = []
    for path in track(progress, paths, "reading files", len(paths)):
        try:
            found.append((path, identify(path)))
        except ImageError:
            continue
    return found


def between(folder: ImageFolder, good: _Identified, progress: Progress = SILENT) -> list[Remark]:
    """Return remarks on test images that are among the good images.

    Raises:
        DataError: A defective test image is among the good ones, and the data set is not a
            published one, which the user does not change.
    """
    known = KnownImages(identity for _, identity in good)
    by_path = {image.path: image for image in folder.test}
    same: list[TestImage] = []
    near: list[TestImage] = []
    for path, identity in identified(by_path, progress):
        likeness = known.likeness(identity)
        if likeness is not Likeness.OTHER:
            (same if likeness is Likeness.SAME else near).append(by_path[path])
    defective = [image.path for image in same if image.is_defective]
    if defective and folder.dataset is None:
        raise DataError(
            f"{number_of(len(defective), '[image is|images are]')} both good and defective in '{folder.root}'",
            expected="each image either good or defective",
            received=shorten(map(str, defective)),
            fix="remove them from the good images, or from the test images",
        )
    return [
        *remark(
            "test_images_among_good",
            "test [image is|images are] among the good images too",
            [image.path for image in same],
        ),
        *remark(
            "test_images_near_good", "test [image is|images are] nearly the same as good images", [i.path for i in near]
        ),
    ]


def in_test(test: Sequence[TestImage], trained: KnownImages, progress: Progress = SILENT) -> list[Remark]:
    """Return remarks on test images that were trained on, nearly or exactly, or occur twice.

    Args:
        test: The test images.
        trained: The images that the detector was trained on.
        progress: Shows how many files were read.
    """
    images = identified((image.path for image in test), progress)
    likeness = {path: trained.likeness(identity) for path, identity in images}
    return [
        *remark(
            "trained_on",
            "test [image was|images were] trained on, so the figures are too good",
            [path for path, found in likeness.items() if found is Likeness.SAME],
        ),
        *remark(
            "near_trained_on",
            "test [image is|images are] nearly the same as images trained on",
            [path for path, found in likeness.items() if found is Likeness.NEAR],
        ),
        *repeated(test, images),
        *unknown(trained, len(images)),
    ]


def repeated(test: Sequence[TestImage], images: _Identified) -> list[Remark]:
    """Return remarks on images that figures count twice, and that are labelled both ways.

    Args:
        test: The images that the figures are of.
        images: Their hashes. An image that cannot be read has none.
    """
    first, copies = distinct(images)
    identities = dict(images)
    types: dict[str, set[bool]] = {}
    is_defective = {image.path: image.is_defective for image in test}
    for path, identity in images:
        types.setdefault(identity.key, set()).add(is_defective[path])
    return [
        *remark(
            "good_and_defective",
            "[image is|images are] labelled good in one copy and defective in another",
            [path for path, identity in images if len(types[identity.key]) == 2],
        ),
        *remark(
            "copies", "[image is a copy of another and counts|images are copies of others and count] twice", copies
        ),
        *remark(
            "near_copies",
            "[image is|images are] nearly the same as another of them, so the figures are based on fewer images "
            "than are counted",
            nearly_repeated([(path, identities[path]) for path in first]),
        ),
    ]


def unknown(trained: KnownImages, images: int) -> list[Remark]:
    """Return a remark if copies in other formats are not recognised, for lack of pixel hashes."""
    if trained.knows_pixels or not images:
        return []
    return [
        Remark(
            kind="pixels_unknown",
            text=agreeing(images, "[image was|images were]")
            + " compared with the images trained on only by the files' bytes, because no "
            "hashes of pixels were kept: copies in another format are not recognised (train and export again to keep "
            "hashes)",
            count=images,
            first=(),
        )
    ]
