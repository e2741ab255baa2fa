"""TILDA: eight textiles, photographed without errors and with seven kinds of them.

Images are recognised by their names: ``c1r1e0n1.tif`` is kind 1, representative 1, error class 0
(none; ``e1`` to ``e7`` are errors), number 1. Copies of the data set differ in their folders and in
upper or lower case.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kd_train.datasets.layout import DatasetInfo, Layout, Location, is_folder
from kd_train.datasets.unpack import Unpacker
from kdx.folders.data_folder import GOOD, ImageFolder, TestImage, folders, image_files

_NAME = re.compile(r"(c\d)(r\d)(e\d)n(\d+)")
# c1, c1r1, c1r1e0, r1, r1e0, e0: the folders that may contain images. No others are searched.
_FOLDER = re.compile(r"(c\d)?(r\d)?(e\d)?")
_FREE = "e0"


@dataclass(frozen=True, order=True)
class _TextilePhoto:
    textile: str
    error: str
    number: int
    path: Path


def _shots(folder: Path) -> Iterator[_TextilePhoto]:
    for path in image_files(folder):
        match = _NAME.fullmatch(path.stem.lower())
        if match:
            yield _TextilePhoto(match[1] + match[2], match[3], int(match[4]), path)
    for inner in folders(folder):
        if _FOLDER.fullmatch(inner.name.lower()) and is_folder(inner):
            yield from _shots(inner)


def _find(root: Path) -> Location | None:
    shots = list(_shots(root))
    # A folder that contains images of e0 alone is a folder of good images like any other.
    if all(shot.error == _FREE for shot in shots):
        return None
    textiles = {shot.textile for shot in shots}
    return Location(root, textiles.pop() if len(textiles) == 1 else None)


def _categories(home: Path) -> tuple[str, ...]:
    return tuple(sorted({shot.textile for shot in _shots(home)}))


def _open(home: Path, category: str, unpacker: Unpacker) -> ImageFolder:
    shots = sorted(shot for shot in _shots(home) if shot.textile == category)
    free = [shot.path for shot in shots if shot.error == _FREE]
    half = (len(free) + 1) // 2
    test = [TestImage(path, GOOD, None) for path in free[half:]]
    test += [TestImage(shot.path, shot.error, None) for shot in shots if shot.error != _FREE]
    return ImageFolder(home, "tilda", tuple(free[:half]), tuple(test))


LAYOUT = Layout(
    DatasetInfo(
        key="tilda",
        title="TILDA",
        source="Deutsche Forschungsgemeinschaft, texture analysis group: TILDA textile texture database. 1996; "
        "Computer Vision Group, University of Freiburg.",
        image_size=256,
        split="no published one: of each textile's error-free images (e0), in order of their numbers, the first half "
        "is for training, so that neighbouring shots stay together; the second half and all of e1 to e7 are for "
        "testing",
    ),
    looked_for="TILDA: images named c1r1e0n1.tif, in folders like c1/r1/e0, c1r1/e0 or none",
    find=_find,
    categories=_categories,
    open=_open,
)
