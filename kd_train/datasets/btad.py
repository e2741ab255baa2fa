"""BTAD, the beanTech anomaly detection data set: three products, ``ok`` and ``ko``."""

from __future__ import annotations

from pathlib import Path

from kd_train.datasets.layout import DatasetInfo, Layout, Location, is_folder, pair_masks
from kd_train.datasets.unpack import Unpacker
from kdx.folders.data_folder import GOOD, ImageFolder, TestImage, folders, image_files


def _is_category(folder: Path) -> bool:
    if not any(is_folder(folder / part) for part in ("train/ok", "test/ok", "test/ko")):
        return False
    # Users call their own folders of good images "ok" too: with folders that BTAD does not have,
    # the data are theirs.
    present = {(part, each.name) for part in ("train", "test") for each in folders(folder / part)}
    return present <= {("train", "ok"), ("test", "ok"), ("test", "ko")}


def _find(root: Path) -> Location | None:
    if _is_category(root):
        return Location.of_category(root)
    return Location(root) if _categories(root) else None


def _categories(home: Path) -> tuple[str, ...]:
    return tuple(folder.name for folder in folders(home) if _is_category(folder))


def _open(home: Path, category: str, unpacker: Unpacker) -> ImageFolder:
    root = home / category
    defective = image_files(root / "test" / "ko")
    # Images and masks are .bmp or .png, not always of the same format.
    truth = root / "ground_truth" / "ko"
    masks = pair_masks(defective, {path.stem.removesuffix("_mask"): path for path in image_files(truth)}, truth)
    test = [TestImage(path, "ko", mask) for path, mask in zip(defective, masks, strict=True)]
    test += [TestImage(path, GOOD, None) for path in image_files(root / "test" / "ok")]
    return ImageFolder(root, "btad", image_files(root / "train" / "ok"), tuple(test))


LAYOUT = Layout(
    DatasetInfo(
        key="btad",
        title="BTAD",
        source="P. Mishra, R. Verk, D. Fornasier, C. Piciarelli, G. L. Foresti: VT-ADL, a vision transformer network "
        "for image anomaly detection and localization. ISIE 2021.",
        image_size=256,
        split="as published: train/ok for training, test/ok and test/ko for testing",
    ),
    looked_for="BTAD: 01, 02, 03, each with train/ok, test/ok, test/ko, ground_truth/ko",
    find=_find,
    categories=_categories,
    open=_open,
)
