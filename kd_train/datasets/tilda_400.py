"""TILDA 400: 400 photographs of TILDA, cut into 64 × 64 patches and sorted by defect."""

from __future__ import annotations

import re
from pathlib import Path

from kd_train.datasets.layout import AGAIN, DatasetInfo, Layout, Location, is_folder, no_categories
from kd_train.datasets.unpack import Unpacker
from kdx.errors import DataError
from kdx.folders.data_folder import GOOD, ImageFolder, TestImage, image_files

_DEFECTS = ("hole", "objects", "oil spot", "thread error")
_NAME = re.compile(r"(\d+)_patch\d+-\d+")


def _find(root: Path) -> Location | None:
    if not is_folder(root / GOOD) or not any(is_folder(root / defect) for defect in _DEFECTS):
        return None
    patches = image_files(root / GOOD)
    return Location(root) if patches and _NAME.fullmatch(patches[0].stem) else None


def _open(home: Path, category: str, unpacker: Unpacker) -> ImageFolder:
    patches = {kind: [(_photo(path), path) for path in image_files(home / kind)] for kind in (GOOD, *_DEFECTS)}
    photos = sorted({photo for kind in patches.values() for photo, _ in kind})
    trained_on = set(photos[::2])
    test = [
        TestImage(path, kind.replace(" ", "_"), None)
        for kind, paths in patches.items()
        for photo, path in paths
        if photo not in trained_on
    ]
    good = {path: f"photograph {photo}" for photo, path in patches[GOOD] if photo in trained_on}
    parts = {path.name: photo for path, photo in good.items()}  # held out together
    return ImageFolder(home, "tilda_400", tuple(good), tuple(test), parts=parts)


def _photo(path: Path) -> int:
    match = _NAME.fullmatch(path.stem)
    if match is None:
        raise DataError(
            f"the name of '{path}' does not say from which photograph it was cut, so patches cannot be split by "
            "photographs",
            expected="a name like 128_patch2-3.png",
            received=path.name,
            fix=AGAIN,
        )
    return int(match[1])


LAYOUT = Layout(
    DatasetInfo(
        key="tilda",
        title="TILDA 400 (64 × 64 patches)",
        source="TILDA textile texture database, University of Freiburg; patches published on Kaggle as "
        "angelolmg/tilda-400-64x64-patches.",
        image_size=64,
        split="no published one: all patches of a photograph stay on one side; the good patches of every other "
        "photograph are for training, all patches of the photographs between are for testing, the rest is not used",
    ),
    looked_for="TILDA 400: good, hole, objects, oil spot, thread error, with images named 128_patch2-3.png",
    find=_find,
    categories=no_categories,
    open=_open,
)
