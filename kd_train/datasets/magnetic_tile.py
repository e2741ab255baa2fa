"""Magnetic Tile Defects: up to six exposures of a tile, a mask for each image, no split."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kd_train.datasets.layout import AGAIN, DatasetInfo, Layout, Location, is_folder, no_categories, pair_masks
from kd_train.datasets.unpack import Unpacker
from kdx.errors import DataError
from kdx.folders.data_folder import GOOD, ImageFolder, TestImage, folders, image_files

_NAME = re.compile(r"exp(\d+)_num_(\d+)")
_FREE = "free"
# Exposures of one tile follow each other: exp increases, num increases by a few dozen. In the
# published set this gives 206 tiles, 181 of them with exactly six images. If two tiles are taken
# for one, they stay on one side of the split.
_SAME_TILE = 100
_TEST_EVERY = 5


@dataclass(frozen=True, order=True)
class _TilePhoto:
    number: int
    exposure: int
    kind: str
    path: Path


def _find(root: Path) -> Location | None:
    return Location(root) if any(True for _ in _kinds(root)) else None


def _kinds(home: Path) -> list[tuple[str, Path]]:
    """Return free, blowhole, break, crack, fray and uneven, each with its folder."""
    return [
        (folder.name.removeprefix("MT_").lower(), folder / "Imgs")
        for folder in folders(home)
        if folder.name.startswith("MT_") and is_folder(folder / "Imgs")
    ]


def _open(home: Path, category: str, unpacker: Unpacker) -> ImageFolder:
    shots = sorted(_shot(kind, path) for kind, folder in _kinds(home) for path in _images(folder))
    train, test_good = _divide(shots)
    test: list[TestImage] = []
    for kind, folder in _kinds(home):
        if kind != _FREE:
            images = _images(folder)
            masks = pair_masks(images, {path.stem: path for path in image_files(folder) if _is_mask(path)}, folder)
            test += [TestImage(path, kind, mask) for path, mask in zip(images, masks, strict=True)]
    test += [TestImage(path, GOOD, None) for path in sorted(test_good)]
    good = tuple(sorted(train))
    return ImageFolder(home, "magnetic_tile", good, tuple(test), parts=tiles(good))


def tiles(paths: Iterable[Path]) -> dict[str, str]:
    """Return the tile that each image shows, by file name; the images may lie in any folder."""
    by_tile = _group_by_tile(sorted(_shot(GOOD, path) for path in paths))
    return {shot.path.name: f"tile {tile[0].number}" for tile in by_tile for shot in tile}


def _divide(shots: list[_TilePhoto]) -> tuple[list[Path], list[Path]]:
    """Split the good images, with all exposures of a tile on one side."""
    train: list[Path] = []
    test: list[Path] = []
    free_tiles = 0
    for tile in _group_by_tile(shots):
        is_free = all(shot.kind == _FREE for shot in tile)
        free_tiles += is_free
        is_test = not is_free or free_tiles % _TEST_EVERY == 0
        (test if is_test else train).extend(shot.path for shot in tile if shot.kind == _FREE)
    return train, test


def _group_by_tile(shots: Iterable[_TilePhoto]) -> list[list[_TilePhoto]]:
    """Group images, sorted by number, into tiles."""
    by_tile: list[list[_TilePhoto]] = []
    for shot in shots:
        last = by_tile[-1][-1] if by_tile else None
        if last is None or (shot.number - last.number > _SAME_TILE and shot.exposure <= last.exposure):
            by_tile.append([])
        by_tile[-1].append(shot)
    return by_tile


def _is_mask(path: Path) -> bool:
    return path.suffix.lower() == ".png"


def _images(folder: Path) -> list[Path]:
    return [path for path in image_files(folder) if not _is_mask(path)]


def _shot(kind: str, path: Path) -> _TilePhoto:
    match = _NAME.fullmatch(path.stem)
    if match is None:
        raise DataError(
            f"the name of '{path}' does not say which tile it shows, so good images cannot be split by tiles",
            expected="a name like exp1_num_12345.jpg: the exposure, and a number close to those of the same tile",
            received=path.name,
            fix=f"{AGAIN}; put images of your own into the MVTec layout",
        )
    return _TilePhoto(int(match[2]), int(match[1]), kind, path)


LAYOUT = Layout(
    DatasetInfo(
        key="magnetic_tile",
        title="Magnetic Tile Defects",
        source="Y. Huang, C. Qiu, K. Yuan: Surface defect saliency of magnetic tile. The Visual Computer 36, 2020.",
        image_size=128,
        split="no published one: all exposures of a tile stay on one side; tiles with a defect in any exposure and "
        "every fifth of the others, in order of their numbers, are for testing; the rest is for training",
    ),
    looked_for="Magnetic Tile Defects: MT_Free/Imgs, MT_Blowhole/Imgs and so on, .jpg with a .png mask beside each",
    find=_find,
    categories=no_categories,
    open=_open,
)
