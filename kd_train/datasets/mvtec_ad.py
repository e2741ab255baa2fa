"""MVTec AD, and any other data set of several categories in its layout."""

from __future__ import annotations

from pathlib import Path

from kd_train.datasets.layout import DatasetInfo, Layout, Location, is_folder
from kd_train.datasets.unpack import Unpacker
from kdx.folders.data_folder import GOOD, ImageFolder, folders, image_files, open_folder
from kdx.folders.good_names import is_good

CATEGORIES = (
    *("bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut", "pill", "screw"),
    *("tile", "toothbrush", "transistor", "wood", "zipper"),
)


def _is_category(folder: Path) -> bool:
    # MVTec 3D-AD has a further folder below train/good.
    train = folder / "train"
    good = [each for each in folders(train) if is_good(each.name)] if is_folder(train) else []
    return bool(good) and not is_folder(good[0] / "rgb")


def _find(root: Path) -> Location | None:
    if _is_category(root):
        location = Location.of_category(root)
        return location if _is_published(location.home / str(location.category)) else None
    if any(is_folder(root / name) for name in ("train", "test", GOOD)) or image_files(root):
        return None
    known = _categories(root)
    return Location(root, is_published=set(known) <= set(CATEGORIES)) if known else None


def _is_published(folder: Path) -> bool:
    """Return whether a folder is a category of MVTec AD, not a user's own of that name."""
    siblings = (folder.parent / name for name in CATEGORIES if name != folder.name)
    return folder.name in CATEGORIES and ((folder / "license.txt").exists() or any(map(_is_category, siblings)))


def _categories(home: Path) -> tuple[str, ...]:
    return tuple(folder.name for folder in folders(home) if _is_category(folder))


def _open(home: Path, category: str, unpacker: Unpacker) -> ImageFolder:
    return open_folder(home / category)


LAYOUT = Layout(
    DatasetInfo(
        key="mvtec_ad",
        title="MVTec AD",
        source="P. Bergmann, M. Fauser, D. Sattlegger, C. Steger: MVTec AD, a comprehensive real-world dataset for "
        "unsupervised anomaly detection. CVPR 2019.",
        image_size=256,
        split="as published: train/good for training, test/good and test/DEFECT_TYPE for testing",
    ),
    looked_for="MVTec AD: CATEGORY/train/good, CATEGORY/test/DEFECT_TYPE",
    find=_find,
    categories=_categories,
    open=_open,
    is_mvtec=True,
)
