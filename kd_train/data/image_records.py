"""Images for training: found, hashed and split."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from msgspec import UNSET
from scipy.cluster.hierarchy import DisjointSet

from kdx.errors import DataError, ImageError, OptionError, TrainingError
from kdx.imaging.field_of_view import Crop, require_inside
from kdx.imaging.image_identity import Identity, KnownImages, Likeness, content_of
from kdx.imaging.image_size import ImageSize, both_sides
from kdx.imaging.images import InputSpec, read_header
from kdx.progress import SILENT, Progress, track
from kdx.text import number_of


@dataclass(frozen=True)
class ImageRecord:
    """An image file that can be used.

    Attributes:
        path: The file's path.
        sha256: The hash of the file's content.
        width: The width in pixels.
        height: The height in pixels.
        is_grey: Whether the file stores a single channel.
        pixels: The hash of the decoded pixels; empty if unknown.
        look: The perceptual hash, see :mod:`kdx.imaging.image_identity`; empty if unknown.
        shows_grey: Whether every pixel is grey, whatever the file stores; None if unknown.
        is_deep: Whether values have more than 8 bits; None if unknown.
        changed: The time in nanoseconds at which the file was changed last, and its bytes; None if
            unknown.
    """

    path: Path
    sha256: str
    width: int
    height: int
    is_grey: bool
    pixels: str = ""
    look: str = ""
    shows_grey: bool | None = None
    is_deep: bool | None = None
    changed: tuple[int, int] | None = None

    @property
    def shows_colour(self) -> bool:
        """Whether the image contains colour, as far as is known."""
        return not (self.is_grey if self.shows_grey is None else self.shows_grey)

    @property
    def identity(self) -> Identity:
        """The hashes by which copies of the image are recognised."""
        return Identity(file=self.sha256, pixels=self.pixels, look=self.look)


# How many images that cannot be used an error names with their reasons.
_LISTED = 5


class BadImages:
    """Images that could not be used; training stops when there are more than a limit.

    Args:
        limit: The number of images that may be skipped.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.reasons: dict[Path, str] = {}

    def add(self, path: Path, reason: str) -> None:
        """Add an image with the reason why it cannot be used.

        Raises:
            TrainingError: There are more images than the limit.
        """
        self.add_all({path: reason})

    def add_all(self, reasons: Mapping[Path, str]) -> None:
        """Add images that were found together, so that an error names all of them.

        Raises:
            TrainingError: There are more images than the limit.
        """
        self.reasons |= reasons
        if len(self.reasons) > self.limit:
            listed = "; ".join(list(self.reasons.values())[:_LISTED])
            more = len(self.reasons) - _LISTED
            listed += f"; and {more:,} more" if more > 0 else ""
            raise TrainingError(
                f"{number_of(len(self.reasons), '[image|images]')} cannot be used: {listed}",
                expected=f"at most {self.limit} bad images",
                fix="repair or remove them, or allow more: a larger `max_bad_images`",
            )


def scan_images(paths: Sequence[Path], bad: BadImages, progress: Progress = SILENT) -> list[ImageRecord]:
    """Read every file's header, and hash its bytes and its pixels."""
    records: list[ImageRecord] = []
    found: dict[Path, str] = {}
    with ThreadPoolExecutor(max_workers=4) as pool:
        for scanned in track(progress, pool.map(_scan_one, paths), "reading images", len(paths)):
            if isinstance(scanned, ImageRecord):
                records.append(scanned)
            else:
                found.update([scanned])
    bad.add_all(found)
    return records


def last_change(path: Path) -> tuple[int, int] | None:
    """Return the time of a file's last change in nanoseconds, and its bytes; None if unknown."""
    try:
        facts = path.stat()
    except OSError:  # whoever reads the file says so
        return None
    return facts.st_mtime_ns, facts.st_size


def _scan_one(path: Path) -> ImageRecord | tuple[Path, str]:
    try:
        changed = last_change(path)  # before the file is read, so that a later change is noticed
        width, height, is_grey = read_header(path)
        facts = content_of(path)
        if isinstance(facts, Identity):  # the pixels cannot be decoded; ImageSet reports that
            return ImageRecord(path, facts.file, width, height, is_grey, changed=changed)
        hashes = facts.identity
        known = (hashes.pixels, hashes.look, facts.is_grey, facts.is_deep)
        return ImageRecord(path, hashes.file, width, height, is_grey, *known, changed)
    except ImageError as error:
        return path, error.message


def choose_input(
    records: Sequence[ImageRecord],
    image_size: ImageSize,
    *,
    tile: int | None = None,
    channels: Literal["auto", "1", "3"] = "auto",
    sixteen_bit_range: tuple[int, int] = (0, 65535),
    crop: Crop | None = None,
) -> InputSpec:
    """Return the detector's input, as the training images suggest.

    If all images have one size, it is taken as the camera's, and the graph resizes. Images of
    several sizes are resized to the networks' size when they are read. Grey images make a mono
    detector (see :mod:`kd_train.data.odd_images`). With ``tile``, squares of that side are cut from
    the images instead. With ``crop``, the networks see this window of the images.

    Raises:
        OptionError: An image is smaller than a tile, or does not hold the window.
    """
    sizes = {(record.height, record.width) for record in records}
    fixed = tile is not None or len(sizes) == 1
    height, width = (tile, tile) if tile else next(iter(sizes)) if fixed else both_sides(image_size)
    small = next((r for r in records if tile and min(r.height, r.width) < tile), None)
    if small is not None:
        raise OptionError(
            f"'{small.path}' is smaller than a tile",
            expected=f"at least {tile} × {tile} pixels",
            received=f"{small.width} × {small.height}",
            fix="choose a smaller `tile`",
        )
    if crop is not None:
        require_croppable(crop, sizes)
    if channels == "auto":
        # If no image contains colour, the majority of the files decides: they store what the camera
        # delivers.
        stored_grey = sum(record.is_grey for record in records)
        grey = not any(record.shows_colour for record in records) and 2 * stored_grey > len(records)
    else:
        grey = channels == "1"
    return InputSpec(
        height=height,
        width=width,
        channels=1 if grey else 3,
        fixed_size=fixed,
        sixteen_bit_range=sixteen_bit_range,
        crop=UNSET if crop is None else crop,
    )


def require_croppable(crop: Crop, sizes: Collection[tuple[int, int]]) -> None:
    """Check that a window lies inside of images that all have one size.

    Args:
        crop: The window.
        sizes: The heights and widths of the images.

    Raises:
        OptionError: It does not, or they do not.
    """
    if len(sizes) > 1:
        shown = ", ".join(f"{width} × {height}" for height, width in sorted(sizes)[:3])
        raise OptionError(
            "the window `crop` is a part of frames that all have one size",
            expected="images of one camera",
            received=f"images of {shown}{' and others' if len(sizes) > 3 else ''}",
            fix="leave out `crop`, or train on the images of each camera separately",
        )
    require_inside(crop, next(iter(sizes)))


def split_images(
    records: Sequence[ImageRecord],
    *,
    validation_fraction: float,
    train_fraction: float,
    seed: int,
    parts: Mapping[Path, str] | None = None,
    learnt: KnownImages | None = None,
) -> tuple[list[ImageRecord], list[ImageRecord]]:
    """Split good images into training and held-out ones.

    Of copies of one image, by bytes or by pixels, the last one is used, and images of one part stay
    on one side. ``train_fraction`` then reduces the training side (STPM Table 9 uses 5 and 10 %);
    the held-out side keeps its size.

    Args:
        records: The images.
        validation_fraction: The share of the images to hold out.
        train_fraction: The share of the remaining images to train on.
        seed: The seed of the shuffle.
        parts: The part that each image shows, see :mod:`kd_train.data.parts`; an image without an
            entry is a part of its own.
        learnt: Images that a student knows already: parts with one of them are not held out.

    Raises:
        DataError: There are too few images or parts to train on two and to hold out one.
    """
    unique = {record.identity.key: record for record in records}
    parts = parts_of_copies(records, parts or {})
    groups: dict[tuple[str, str], list[ImageRecord]] = {}
    for record in sorted(unique.values(), key=lambda record: record.path.as_posix()):
        known = parts.get(record.path)
        groups.setdefault(("part", known) if known else ("image", str(record.path)), []).append(record)
    order = [list(groups.values())[i] for i in np.random.default_rng(seed).permutation(len(groups))]
    wanted = max(1, round(validation_fraction * len(unique)))
    held_out: list[ImageRecord] = []
    training: list[ImageRecord] = []
    for group in order:
        side = held_out if len(held_out) < wanted and not _is_known(group, learnt) else training
        side += group
    kept = max(2, round(train_fraction * len(training)))
    if len(training) < 2:
        grouped = f" of {len(groups)} parts" if parts else ""
        raise DataError(
            "too few good images to split",
            expected="at least 2 different images to train on and 1 to hold out",
            received=f"{len(unique)} different images{grouped}, of which a validation fraction of "
            f"{validation_fraction:g} holds out {len(held_out)}",
            fix="add good images" if len(unique) < 3 else "add good images, or lower `validation_fraction`",
        )
    if not held_out:
        raise DataError(
            "the run of `init` was trained on all of these images: none can be held out",
            expected="good images that it was not trained on",
            fix="add good images, or leave out `init`",
        )
    by_name = [sorted(side, key=lambda record: record.path.as_posix()) for side in (training[:kept], held_out)]
    return by_name[0], by_name[1]


def parts_of_copies(records: Sequence[ImageRecord], parts: Mapping[Path, str]) -> dict[Path, str]:
    """Return the part of each image where copies show the same part, whichever of them names it.

    Two parts that share an image are one.

    Args:
        records: The images, with all copies.
        parts: The part of each image, as its file's name or a table says.
    """
    joined = DisjointSet(parts.values())
    of_image: dict[str, str] = {}
    for record in records:
        if (part := parts.get(record.path)) is not None:
            joined.merge(of_image.setdefault(record.identity.key, part), part)
    found = {record.path: of_image.get(record.identity.key) for record in records}
    return {path: str(joined[part]) for path, part in found.items() if part is not None}


def _is_known(group: Sequence[ImageRecord], learnt: KnownImages | None) -> bool:
    return learnt is not None and any(learnt.likeness(one.identity) is Likeness.SAME for one in group)
