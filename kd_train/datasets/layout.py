"""What a published data set is to kdx: facts, how its folder is recognised, and how its images are found."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kd_train.datasets.unpack import Unpacker
from kdx.errors import DataError
from kdx.folders.data_folder import ImageFolder, listing
from kdx.remarks import shorten

AGAIN = "download the data set again, or give the folder that is whole"


@dataclass(frozen=True)
class DatasetInfo:
    """A published data set.

    Attributes:
        key: Its name in records and in code.
        title: Its name in sentences.
        source: Who published it.
        image_size: Side of the square, in pixels, to which the papers bring its images.
        split: Which images are trained on and which are tested on.
    """

    key: str
    title: str
    source: str
    image_size: int
    split: str


@dataclass(frozen=True)
class Found:
    """Where a data set lies.

    Attributes:
        home: Its own folder.
        category: The category, where the folder that was named is itself one.
        is_published: False where only the layout is the published one, not what it holds.
    """

    home: Path
    category: str | None = None
    is_published: bool = True

    @classmethod
    def of_category(cls, folder: Path) -> Found:
        """Say that a folder is itself a category, of a data set that lies in the folder around it."""
        # Not resolved: where the folder is a link, its name says which category it is, and not the name behind it.
        folder = Path(os.path.normpath(folder.absolute()))
        return cls(folder.parent, folder.name)


@dataclass(frozen=True)
class Layout:
    """How one data set is laid out on disk as downloaded.

    Attributes:
        info: What it is.
        looked_for: The layout in a phrase, for the message when nothing was found.
        find: From a folder to where the data set lies, or None where this layout is not there. Reads names only.
        categories: From the data set's own folder to its categories; empty where it has none.
        open: From the data set's own folder and a category (empty where it has none) to its images.
        is_mvtec: Whether a category is a folder in MVTec AD's layout, in which users have images of their own too.
    """

    info: DatasetInfo
    looked_for: str
    find: Callable[[Path], Found | None]
    categories: Callable[[Path], tuple[str, ...]]
    open: Callable[[Path, str, Unpacker], ImageFolder]
    is_mvtec: bool = False


def is_folder(path: Path) -> bool:
    """Whether a path is a folder; one that may not be looked at is none, for recognising must not fail on it."""
    try:
        return path.is_dir()
    except PermissionError:
        return False


def no_categories(home: Path) -> tuple[str, ...]:
    """Return the categories of a data set that has none."""
    return ()


def pair_masks(images: Sequence[Path], masks: Mapping[str, Path], folder: Path) -> list[Path | None]:
    """Find the mask of each defective image by its name without suffix.

    Args:
        images: The defective images.
        masks: Mask files by the name of their image; none at all means that the masks were not downloaded.
        folder: Where they lie, for the message.

    Raises:
        DataError: Some images have no mask, or some masks no image.
    """
    if not masks or not images:  # an empty part of the test split is said to be that, and not a fault of its masks
        return [None] * len(images)
    without = [image.name for image in images if image.stem not in masks]
    spare = sorted(path.name for stem, path in masks.items() if stem not in {image.stem for image in images})
    if without or spare:
        details = [f"no mask for {shorten(without)}"] * bool(without) + [f"no image for {shorten(spare)}"] * bool(spare)
        raise DataError(
            f"the masks in '{folder}' do not fit the images",
            expected=f"{len(images)} masks, one for each defective image and named like it",
            received=f"{len(masks)} masks; {'; '.join(details)}",
            fix=f"{AGAIN}; or remove all of the masks to evaluate image scores only",
        )
    return [masks[image.stem] for image in images]


def require_whole(folder: ImageFolder, layout: Layout, home: Path, category: str) -> None:
    """Refuse a category without good images or without a test split: before training, not hours after.

    Raises:
        DataError: The published data set has both, so this copy of it is not whole.
    """
    defective = sum(image.is_defective for image in folder.test)
    good = len(folder.test) - defective
    if folder.good and good and defective:
        return
    name = f"the category '{category}' of " if category else ""
    where = home / category if category and is_folder(home / category) else home
    lacks = "good images to train on" if not folder.good else "test split"
    raise DataError(
        f"{name}{layout.info.title} in '{home}' has no {lacks}",
        expected=layout.looked_for,
        received=f"{good} good and {defective} defective test images; in '{where}': {listing(where)}",
        fix=AGAIN,
    )
