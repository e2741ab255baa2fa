"""Real images for tests: solar cells from the installed package."""

from __future__ import annotations

from importlib import util
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image


def cell_paths() -> list[Path]:
    """Return the package's images, sorted; skip the test where it is not installed."""
    found = util.find_spec("elpv_dataset")
    if found is None:
        pytest.skip("elpv-dataset is not installed: pip install -e '.[test]'")
    return sorted((Path(next(iter(found.submodule_search_locations or []))) / "data" / "images").glob("*.png"))


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
