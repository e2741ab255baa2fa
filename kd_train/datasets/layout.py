"""The interface of a data set: its description, and how its folder and images are found."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kd_train.datasets.unpack import Unpacker
from kdx.errors import DataError
from kdx.folders.data_folder import ImageFolder, listing
from kdx.remarks import shorten

AGAIN = "download the data set again, or name the folder of a complete copy"


@dataclass(frozen=True)
class DatasetInfo:
    """A published data set.

    Attributes:
        key: The data set's identifier in records and in code.
        title: The data set's name in texts.
        source: The publication of the data set.
        image_size: The side of the square, in pixels, to which the papers resize its images.
        split: A description of which images are for training and which for testing.
    """

    key: str
    title: str
    source: str
    image_size: int
    split: str


@dataclass(frozen=True)
class Location:
    """The location of a data set.

    Attributes:
        home: The data set's own folder.
        category: The category, if the folder that the user named is itself a category.
        is_published: False if only the layout is the published one, not the images.
    """

    home: Path
    category: str | None = None
    is_published: bool = True

    @classmethod
    def of_category(cls, folder: Path) -> Location:
        """Return the location of a category's folder; the data set is the folder around it."""
        # Links are not resolved: the category is the name of the link, not of its target.
        folder = Path(os.path.normpath(folder.absolute()))
        return cls(folder.parent, folder.name)


@dataclass(frozen=True)
class Layout:
    """The layout of a data set on disk, as downloaded.

    Attributes:
        info: The description of the data set.
        looked_for: The layout in a phrase, for the message if no data set was found.
        find: A function from a folder to the location of the data set, or None if the folder does
            not have this layout. It reads names only.
        categories: A function from the data set's own folder to its categories; empty if it has
            none.
        open: A function from the data set's own folder and a category (empty if it has none) to its
            images.
        is_mvtec: Whether a category is a folder in MVTec AD's layout, which users have for their
            own images too.
    """

    info: DatasetInfo
    looked_for: str
    find: Callable[[Path], Location | None]
    categories: Callable[[Path], tuple[str, ...]]
    open: Callable[[Path, str, Unpacker], ImageFolder]
    is_mvtec: bool = False


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder; a folder without permission counts as none."""
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
        masks: The mask files by the name of their image; empty if the masks were not downloaded.
        folder: The masks' folder, for the message.

    Returns:
        The mask of each image, or None for every image if there are no masks.

    Raises:
        DataError: Some images have no mask, or some masks have no image.
    """
    if not masks or not images:  # a test split without defective images is reported by require_complete
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


def require_complete(folder: ImageFolder, layout: Layout, home: Path, category: str) -> None:
    """Check, before hours of training, that a category has good images and a test split.

    Raises:
        DataError: One of them is missing; published data sets have both, so this copy is
            incomplete.
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
