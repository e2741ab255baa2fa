"""MVTec 3D-AD, only its colour images; the position images (``xyz``) are skipped."""

from __future__ import annotations

from pathlib import Path

from kd_train.datasets.layout import DatasetInfo, Layout, Location, is_folder, pair_masks
from kd_train.datasets.unpack import Unpacker
from kdx.folders.data_folder import GOOD, ImageFolder, TestImage, folders, image_files


def _is_category(folder: Path) -> bool:
    return is_folder(folder / "train" / GOOD / "rgb") or is_folder(folder / "test" / GOOD / "rgb")


def _find(root: Path) -> Location | None:
    if _is_category(root):
        return Location.of_category(root)
    return Location(root) if _categories(root) else None


def _categories(home: Path) -> tuple[str, ...]:
    return tuple(folder.name for folder in folders(home) if _is_category(folder))


def _open(home: Path, category: str, unpacker: Unpacker) -> ImageFolder:
    root = home / category
    test: list[TestImage] = []
    for folder in folders(root / "test"):
        images = image_files(folder / "rgb")
        # Good images come with masks too, but all of them are black.
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
        split="as published: train/good/rgb for training, test/TYPE/rgb for testing; validation/good is not used",
    ),
    looked_for="MVTec 3D-AD: CATEGORY/train/good/rgb, CATEGORY/test/TYPE/rgb and gt",
    find=_find,
    categories=_categories,
    open=_open,
)
