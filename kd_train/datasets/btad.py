"""BTAD, the beanTech anomaly detection data set: three products, ``ok`` and ``ko``."""

from __future__ import annotations

from pathlib import Path

from kd_train.datasets.layout import DatasetInfo, Found, Layout, is_folder, pair_masks
from kd_train.datasets.unpack import Unpacker
from kdx.folders.data_folder import GOOD, ImageFolder, TestImage, folders, image_files


def _is_category(folder: Path) -> bool:
    if not any(is_folder(folder / part) for part in ("train/ok", "test/ok", "test/ko")):
        return False
    # "ok" is also what users call their own good images: beside folders that BTAD does not have, it is theirs.
    found = {(part, each.name) for part in ("train", "test") for each in folders(folder / part)}
    return found <= {("train", "ok"), ("test", "ok"), ("test", "ko")}


def _find(root: Path) -> Found | None:
    if _is_category(root):
        return Found.of_category(root)
    return Found(root) if _categories(root) else None


def _categories(home: Path) -> tuple[str, ...]:
    return tuple(folder.name for folder in folders(home) if _is_category(folder))


def _open(home: Path, category: str, unpacker: Unpacker) -> ImageFolder:
    root = home / category
    defective = image_files(root / "test" / "ko")
    # Images are .bmp or .png, and so are masks, not always alike.
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
        split="as published: train/ok to train on, test/ok and test/ko to test on",
    ),
    looked_for="BTAD: 01, 02, 03, each with train/ok, test/ok, test/ko, ground_truth/ko",
    find=_find,
    categories=_categories,
    open=_open,
)
