"""Real images for tests: solar cells from the installed package."""

from __future__ import annotations

import functools
import os
import shutil
from importlib import util
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

# The published data sets, and a folder of defective images of each.
DEFECTS = {"deep_pcb": "test/defective", "magnetic_tile": "test/blowhole"}


def cell_paths() -> list[Path]:
    """Return the package's images, sorted; skip the test where it is not installed."""
    return list(_cell_paths())


@functools.cache
def _cell_paths() -> tuple[Path, ...]:
    found = util.find_spec("elpv_dataset")
    if found is None:
        pytest.skip("elpv-dataset is not installed: pip install -e '.[test]'")
    folder = Path(next(iter(found.submodule_search_locations or []))) / "data" / "images"
    return tuple(sorted(folder.glob("*.png")))


def solar_cells(count: int, size: tuple[int, int], channels: int = 3) -> NDArray[np.uint8]:
    """Return real electroluminescence images, uint8 ``(count, height, width, channels)``, half of
    them defective."""
    half = count // 2
    paths = cell_paths()[:half] + cell_paths()[1500 : 1500 + count - half]
    images = [Image.open(path).convert("L").resize((size[1], size[0]), Image.Resampling.BILINEAR) for path in paths]
    grey = np.stack([np.asarray(image) for image in images])[..., None]
    if channels == 1:
        return grey
    # Three different channels, so that a swapped order cannot pass.
    return np.concatenate([grey, (grey * 0.8).astype(np.uint8), 255 - grey], axis=-1)


def published_images(data_set: str, folder: str, count: int, size: int = 64) -> list[Image.Image]:
    """Return real images of a published data set, grey and brought to a small size.

    They are a fifth darker: the white of circuit boards would be overexposed beside solar cells.
    They lie outside the repository, in ``../shared/data`` or the folder that ``KDX_DATA_SETS``
    names; the test is skipped where they are not.

    Args:
        data_set: ``deep_pcb`` or ``magnetic_tile``.
        folder: The folder in the layout of MVTec AD, for example ``train/good``.
        count: How many, evenly spread over the folder.
        size: Height and width in pixels.
    """
    root = Path(os.environ.get("KDX_DATA_SETS", Path(__file__).parents[2] / "shared/data")) / data_set
    paths = sorted(path for path in (root / folder).rglob("*") if path.is_file())
    if len(paths) < count:
        pytest.skip(f"there is no data set '{root}'; name the folder around it in KDX_DATA_SETS")
    chosen = [paths[index * len(paths) // count] for index in range(count)]
    small = [Image.open(path).convert("L").resize((size, size), Image.Resampling.BILINEAR) for path in chosen]
    return [image.point([10 + 4 * value // 5 for value in range(256)]) for image in small]


def published_folder(root: Path, data_set: str, *, good: int, defective: int) -> tuple[Path, Path]:
    """Write images of a published data set as PNG; return the folders of good and of defective
    ones."""
    folders = root / "good", root / "defects"
    for folder, source, count in zip(folders, ("train/good", DEFECTS[data_set]), (good, defective), strict=True):
        folder.mkdir(parents=True)
        for index, image in enumerate(published_images(data_set, source, count)):
            image.save(folder / f"{index:03d}.png")
    return folders


def published_bundle(folder: Path, data_set: str, bundle: Path) -> tuple[Path, Path]:
    """Calibrate a copy of a bundle on a published data set; return it and four defective images.

    Half of the good images exceed the pixel threshold, so that defective ones have regions.
    """
    from kdx.workflows.calibrate import CalibrationRequest, calibrate_folder

    good, defects = published_folder(folder, data_set, good=20, defective=4)
    copy = Path(shutil.copytree(bundle, folder / "tile.kdx"))
    calibrate_folder(copy, good, CalibrationRequest(0.5, backend="onnxruntime-cpu"))
    return copy, defects
