"""Opening a folder of images: the layout of MVTec AD, or plain good images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kdx.errors import DataError
from kdx.folders.chosen_by_score import CHOSEN_BY_SCORE, chosen_remarks, where_chosen
from kdx.folders.folder_layout import FolderReader
from kdx.folders.image_folder import GOOD, FolderOptions, ImageFolder, TestImage
from kdx.folders.image_search import checked_is_dir, folders, image_files, listing
from kdx.folders.layout_errors import nothing_found
from kdx.imaging.other_formats import other_format

__all__ = [
    "GOOD",
    "FolderOptions",
    "ImageFolder",
    "TestImage",
    "folders",
    "image_files",
    "images_to_evaluate",
    "listing",
    "open_defects",
    "open_folder",
    "require_defective",
    "require_good",
    "require_test",
]


def open_folder(
    root: str | Path, options: FolderOptions | None = None, *, looked_for: Sequence[str] = ()
) -> ImageFolder:
    """Find the images in a data folder.

    Args:
        root: The folder.
        options: What the user specified about its folders.
        looked_for: The layouts that the caller has looked for already, for the message.

    Raises:
        DataError: The folder is missing, is not a folder, or holds no images in either layout; or
            it is unclear which of its images are good.
    """
    reader = _reader(Path(root), options)
    found = reader.mvtec() if reader.is_mvtec else reader.plain()
    if not found.good and not found.test:
        raise nothing_found(reader.root, looked_for)
    images = (*found.good, *(image.path for image in found.test))
    return replace(found, remarks=(*found.remarks, *chosen_remarks(reader.root, images)))


def open_defects(root: str | Path, options: FolderOptions | None = None) -> tuple[Path, ...]:
    """Return the defective images of a folder: those under ``test/DEFECT_TYPE``, or all.

    Raises:
        DataError: The folder holds no defective images, or also good ones.
    """
    reader = _reader(Path(root), options)
    return require_defective(reader.mvtec()) if reader.is_mvtec else reader.defects()


def _reader(root: Path, options: FolderOptions | None) -> FolderReader:
    if not checked_is_dir(root):
        if not root.exists():
            raise DataError(f"the folder '{root}' does not exist")
        other = other_format(root, b"")
        raise DataError(
            f"'{root}' is not a folder" + (f", but {other.title}" if other else ""),
            expected="a folder of images",
            fix=other.fix if other else "name the folder that holds the file",
        )
    return FolderReader(root, options or FolderOptions())


def require_good(folder: ImageFolder) -> tuple[Path, ...]:
    """Return the good images, to train on or to calibrate on.

    Raises:
        DataError: There are none; or they were chosen by their score.
    """
    chosen = where_chosen(folder.root)
    if chosen is not None:
        raise DataError(
            f"the images in '{chosen}' were chosen by their score, see '{chosen / CHOSEN_BY_SCORE}'",
            expected="good parts that were taken whatever their scores are",
            fix="measure on these images (kdx report, kdx evaluate), and name a folder of other good images here",
        )
    if not folder.good:
        raise DataError(
            f"'{folder.root}' holds no good images",
            expected=f"images in {folder.root / 'train' / GOOD}",
            received=listing(folder.root / "train" if (folder.root / "train").is_dir() else folder.root),
            fix="add the images, or name the folder that has them",
        )
    return folder.good


def require_defective(folder: ImageFolder) -> tuple[Path, ...]:
    """Return the defective test images; raise ``DataError`` if there are none."""
    found = tuple(image.path for image in folder.test if image.is_defective)
    if not found:
        raise DataError(
            f"'{folder.root}' holds no defective images",
            expected="test/DEFECT_TYPE with images, or a folder of only defective images",
            received=listing(folder.root),
        )
    return found


def require_test(folder: ImageFolder) -> tuple[TestImage, ...]:
    """Return the test images; raise ``DataError`` unless there are both good and defective ones."""
    defective = sum(image.is_defective for image in folder.test)
    good = len(folder.test) - defective
    if not good or not defective:
        raise DataError(
            f"'{folder.root}' does not hold both good and defective test images",
            expected="test/good and at least one test/DEFECT_TYPE, each with images",
            received=f"{good} good and {defective} defective test images",
            fix="add the images that are missing, or name the folder that has them",
        )
    return folder.test


def images_to_evaluate(folder: ImageFolder) -> tuple[TestImage, ...]:
    """Return the test images, or in a plain folder its good images.

    Raises:
        DataError: There are no good images among them.
    """
    if folder.layout == "plain":
        return tuple(TestImage(path, GOOD, None) for path in folder.good)
    if folder.test and not any(image.is_defective for image in folder.test):
        return folder.test
    return require_test(folder)
