"""A folder of images: the MVTec layout (``train/good``, ``test/*``, ``ground_truth/*``) or plain good images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kdx.errors import DataError
from kdx.images import SUFFIXES
from kdx.masks import masks_beside, pair_by_name

GOOD = "good"


@dataclass(frozen=True)
class TestImage:
    """An image to evaluate on.

    Attributes:
        path: The image file.
        defect_type: ``good``, or the name of its folder under ``test/``.
        mask: Its mask, or None where it has none.
    """

    __test__ = False  # not a test case, whatever pytest thinks of the name

    path: Path
    defect_type: str
    mask: Path | None

    @property
    def is_defective(self) -> bool:
        """Whether the image shows a defect."""
        return self.defect_type != GOOD


@dataclass(frozen=True)
class ImageFolder:
    """What was found in a data folder.

    Attributes:
        root: The folder.
        layout: ``mvtec``, ``plain``, or the key of the published data set in whose layout it is.
        good: Good images to train and calibrate on, sorted by name.
        test: Images to evaluate on (none in a plain folder).
        dataset: Key of the published data set (``kd_train.datasets``), or None for anything else.
        category: Which category of a data set that has several, or None.
        parts: Which part a good image shows, by file name, where the data set says so.
        unused_masks: Masks that belong to no test image.
    """

    root: Path
    layout: str
    good: tuple[Path, ...]
    test: tuple[TestImage, ...]
    dataset: str | None = None
    category: str | None = None
    parts: Mapping[str, str] = field(default_factory=dict)
    unused_masks: tuple[Path, ...] = ()


def open_folder(root: str | Path, *, looked_for: Sequence[str] = ()) -> ImageFolder:
    """Find the images in a data folder.

    Args:
        root: The folder.
        looked_for: Layouts that the caller has looked for already, for the message when there is nothing.

    Raises:
        DataError: The folder is missing, is not a folder, or holds no images in either layout.
    """
    root = Path(root)
    if not root.exists():
        raise DataError(f"the folder '{root}' does not exist")
    if not root.is_dir():
        raise DataError(f"'{root}' is not a folder")
    if (root / "train").is_dir() or (root / "test").is_dir():
        return _mvtec(root, looked_for)
    plain = image_files(root / GOOD) if (root / GOOD).is_dir() else image_files(root)
    if not plain:
        raise _nothing_found(root, looked_for)
    return ImageFolder(root, "plain", plain, ())


def require_good(folder: ImageFolder) -> tuple[Path, ...]:
    """Return the good images; raise ``DataError`` when there are none."""
    if not folder.good:
        raise DataError(
            f"'{folder.root}' holds no good images",
            expected=f"images in {folder.root / 'train' / GOOD}",
            received=listing(folder.root / "train" if (folder.root / "train").is_dir() else folder.root),
            fix="add the images, or name the folder that has them",
        )
    return folder.good


def require_defective(folder: ImageFolder) -> tuple[Path, ...]:
    """Return the defective images: those under ``test/DEFECT_TYPE``, or all of a plain folder.

    Raises:
        DataError: There are none, or the folder holds good images.
    """
    is_plain = folder.layout == "plain" and not (folder.root / GOOD).is_dir()
    found = folder.good if is_plain else tuple(image.path for image in folder.test if image.is_defective)
    if not found:
        raise DataError(
            f"'{folder.root}' holds no defective images",
            expected="test/DEFECT_TYPE with images, or a folder of nothing but defective images",
            received=listing(folder.root),
        )
    return found


def require_test(folder: ImageFolder) -> tuple[TestImage, ...]:
    """Return the test images; raise ``DataError`` unless there are both good and defective ones."""
    defective = sum(image.is_defective for image in folder.test)
    good = len(folder.test) - defective
    if not good or not defective:
        raise DataError(
            f"'{folder.root}' cannot be evaluated on",
            expected="test/good and at least one test/DEFECT_TYPE, each with images",
            received=f"{good} good and {defective} defective test images",
            fix="add the images that are missing, or name the folder that has them",
        )
    return folder.test


def image_files(folder: Path) -> tuple[Path, ...]:
    """Return the image files directly in a folder, sorted by name; other files and hidden ones are passed over."""
    if not folder.is_dir():
        return ()
    return tuple(
        path
        for path in entries(folder)
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and not path.is_dir()
    )


def folders(folder: Path) -> tuple[Path, ...]:
    """Return the folders directly in a folder, sorted by name; hidden ones are passed over."""
    if not folder.is_dir():
        return ()
    return tuple(path for path in entries(folder) if path.is_dir() and not path.name.startswith("."))


def entries(folder: Path) -> list[Path]:
    """Return everything directly in a folder, sorted by name.

    Raises:
        DataError: It may not be read.
    """
    try:
        return sorted(folder.iterdir())
    except PermissionError as error:
        raise DataError(
            f"the folder '{folder}' cannot be read: permission denied",
            expected="a folder that this user may list",
            received=type(error).__name__,
            fix="change its permissions, or copy the data to where you may read it",
        ) from error


def listing(folder: Path) -> str:
    """Say in a few words what is directly in a folder."""
    names = [path.name + ("/" if path.is_dir() else "") for path in entries(folder)]
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return shown or "an empty folder"


def _mvtec(root: Path, looked_for: Sequence[str]) -> ImageFolder:
    masks = {folder.name: image_files(folder) for folder in folders(root / "ground_truth")}
    test: list[TestImage] = []
    unused: list[Path] = []
    for folder in folders(root / "test"):
        files = image_files(folder)
        beside = masks_beside(files)
        images = [path for path in files if path not in beside]
        paired = pair_by_name(images, [*masks.pop(folder.name, ()), *beside])
        test += [TestImage(path, folder.name, mask) for path, mask in paired.masks.items()]
        unused += paired.unused
    unused += [path for paths in masks.values() for path in paths]
    if unused and any(image.is_defective for image in test) and not any(image.mask for image in test):
        raise DataError(
            f"none of the masks in '{root / 'ground_truth'}' belongs to a test image",
            expected="ground_truth/DEFECT_TYPE/NAME.png or NAME_mask.png for test/DEFECT_TYPE/NAME.png",
            received=f"{len(unused)} masks, for example '{unused[0]}'",
            fix="name masks like their images, or remove all of them to evaluate image scores only",
        )
    good = image_files(root / "train" / GOOD)
    if not good and not test:
        raise _nothing_found(root, looked_for)
    return ImageFolder(root, "mvtec", good, tuple(test), unused_masks=tuple(unused))


def _nothing_found(root: Path, looked_for: Sequence[str]) -> DataError:
    own = (
        "train/good/*.png (and test/good, test/DEFECT_TYPE), or good images directly in the folder; "
        "png, jpg, bmp or tif"
    )
    return DataError(
        f"no images were found in '{root}'",
        expected="; or ".join([own, *looked_for]),
        received=listing(root),
        fix="name the folder that holds the images, or bring them into one of these layouts",
    )
