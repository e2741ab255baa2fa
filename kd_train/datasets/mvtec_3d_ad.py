"""MVTec 3D-AD, its colour images only; the position images (``xyz``) are passed over."""

from __future__ import annotations

from pathlib import Path

from kd_train.datasets.layout import DatasetInfo, Found, Layout, is_folder, pair_masks
from kd_train.datasets.unpack import Unpacker
from kdx.folders.data_folder import GOOD, ImageFolder, TestImage, folders, image_files


def _is_category(folder: Path) -> bool:
    return is_folder(folder / "train" / GOOD / "rgb") or is_folder(folder / "test" / GOOD / "rgb")


def _find(root: Path) -> Found | None:
    if _is_category(root):
        return Found.of_category(root)
    return Found(root) if _categories(root) else None


def _categories(home: Path) -> tuple[str, ...]:
    return tuple(folder.name for folder in folders(home) if _is_category(folder))


def _open(home: Path, category: str, unpacker: Unpacker) -> ImageFolder:
    root = home / category
    test: list[TestImage] = []
    for folder in folders(root / "test"):
        images = image_files(folder / "rgb")
        # Good images come with masks too, all black; without a defect there is nothing to find in them.
        truth = {path.stem: path for path in image_files(folder / "gt")} if folder.name != GOOD else {}
        masks = pair_masks(images, truth, folder / "gt")
        test += [TestImage(path, folder.name, mask) for path, mask in zip(images, masks, strict=True)]
    return ImageFolder(root, "mvtec_3d_ad", image_files(root / "train" / GOOD / "rgb"), tuple(test))


LAYOUT = Layout(
    DatasetInfo(
        key="mvtec_3d_ad",
        title="MVTec 3D-AD",
        source="P. Bergmann, X. Jin, D. Sattlegger, C. Steger: The MVTec 3D-AD dataset for unsupervised 3D anomaly "
        "detection and localization. VISAPP 2022.",
        image_size=256,
        split="as published: train/good/rgb to train on, test/TYPE/rgb to test on; validation/good is left aside",
    ),
    looked_for="MVTec 3D-AD: CATEGORY/train/good/rgb, CATEGORY/test/TYPE/rgb and gt",
    find=_find,
    categories=_categories,
    open=_open,
)
