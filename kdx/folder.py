"""A folder of images: the MVTec layout (``train/good``, ``test/*``, ``ground_truth/*``) or plain good images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kdx.errors import DataError
from kdx.images import SUFFIXES

GOOD = "good"


@dataclass(frozen=True)
class TestImage:
    """An image to evaluate on.

    Attributes:
        path: The image file.
        defect_type: ``good``, or the name of its folder under ``test/``.
        mask: Where its mask must be, or None for good images and where the set has no masks at all.
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
        layout: ``mvtec`` or ``plain``.
        good: Good images to train and calibrate on, sorted by name.
        test: Images to evaluate on (MVTec layout only).
    """

    root: Path
    layout: str
    good: tuple[Path, ...]
    test: tuple[TestImage, ...]


def open_folder(root: str | Path) -> ImageFolder:
    """Find the images in a data folder.

    Raises:
        DataError: The folder is missing, is not a folder, or holds no images in either layout.
    """
    root = Path(root)
    if not root.exists():
        raise DataError(f"the folder '{root}' does not exist")
    if not root.is_dir():
        raise DataError(f"'{root}' is not a folder")
    if (root / "train").is_dir() or (root / "test").is_dir():
        return _mvtec(root)
    plain = image_files(root / GOOD) if (root / GOOD).is_dir() else image_files(root)
    if not plain:
        raise _nothing_found(root)
    return ImageFolder(root, "plain", plain, ())


def require_good(folder: ImageFolder) -> tuple[Path, ...]:
    """Return the good images; raise ``DataError`` when there are none."""
    if not folder.good:
        raise DataError(
            f"'{folder.root}' holds no good images",
            expected=f"images in {folder.root / 'train' / GOOD}",
            received=_listing(folder.root / "train" if (folder.root / "train").is_dir() else folder.root),
        )
    return folder.good


def require_test(folder: ImageFolder) -> tuple[TestImage, ...]:
    """Return the test images; raise ``DataError`` unless there are both good and defective ones."""
    defective = sum(image.is_defective for image in folder.test)
    good = len(folder.test) - defective
    if not good or not defective:
        raise DataError(
            f"'{folder.root}' cannot be evaluated on",
            expected="test/good and at least one test/DEFECT_TYPE, each with images",
            received=f"{good} good and {defective} defective test images",
        )
    return folder.test


def image_files(folder: Path) -> tuple[Path, ...]:
    """Return the image files directly in a folder, sorted by name; other files and hidden ones are passed over."""
    if not folder.is_dir():
        return ()
    try:
        entries = sorted(folder.iterdir())
    except PermissionError as error:
        raise DataError(f"the folder '{folder}' cannot be read: permission denied") from error
    return tuple(
        path
        for path in entries
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and not path.is_dir()
    )


def _mvtec(root: Path) -> ImageFolder:
    masks = root / "ground_truth"
    test: list[TestImage] = []
    types = sorted(path for path in (root / "test").iterdir() if path.is_dir()) if (root / "test").is_dir() else []
    for folder in types:
        for path in image_files(folder):
            has_mask = folder.name != GOOD and masks.is_dir()
            mask = masks / folder.name / f"{path.stem}_mask.png" if has_mask else None
            test.append(TestImage(path, folder.name, mask))
    good = image_files(root / "train" / GOOD)
    if not good and not test:
        raise _nothing_found(root)
    return ImageFolder(root, "mvtec", good, tuple(test))


def _nothing_found(root: Path) -> DataError:
    return DataError(
        f"no images were found in '{root}'",
        expected="train/good/*.png (and test/good, test/DEFECT_TYPE), or good images directly in the folder; "
        "png, jpg, bmp or tif",
        received=_listing(root),
    )


def _listing(folder: Path) -> str:
    names = [path.name + ("/" if path.is_dir() else "") for path in sorted(folder.iterdir())]
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return shown or "an empty folder"
