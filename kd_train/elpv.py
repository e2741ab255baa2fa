"""ELPV (Buerhop-Lutz et al. 2018): electroluminescence images of solar cells, from the package ``elpv-dataset``.

300 × 300 pixels, grey, each with a cell type and a probability of being defective.
"""

from __future__ import annotations

import csv
import random
import shutil
from importlib import util
from pathlib import Path

from kdx.errors import DataError
from kdx.folder import GOOD

DEFECTIVE = "defective"


def write_mvtec_layout(
    root: Path, *, cell_type: str = "mono", max_train: int | None = None, max_test: int | None = None, seed: int = 0
) -> dict[str, int]:
    """Lay the cells of one type out as a folder of good parts.

    Half of the cells with probability 0 go to ``train/good``; the other half to ``test/good`` and all cells with
    probability 1 to ``test/defective``. The probabilities between are left out: the experts were unsure.

    Args:
        root: The folder to fill.
        cell_type: ``mono`` or ``poly``.
        max_train: Training images at most.
        max_test: Images of each test class at most.
        seed: Of the shuffle.

    Returns:
        Number of images by folder.

    Raises:
        DataError: The package is not installed.
    """
    source = _package_folder()
    good: list[Path] = []
    defective: list[Path] = []
    for path, probability, kind in _labels(source):
        if kind == cell_type and probability in {0.0, 1.0}:
            (good if probability == 0.0 else defective).append(path)
    shuffle = random.Random(seed)  # noqa: S311 (a split, not a secret)
    shuffle.shuffle(good)
    shuffle.shuffle(defective)
    half = len(good) // 2
    parts = {
        f"train/{GOOD}": good[:half][:max_train],
        f"test/{GOOD}": good[half:][:max_test],
        f"test/{DEFECTIVE}": defective[:max_test],
    }
    for name, paths in parts.items():
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        for path in paths:
            shutil.copyfile(path, folder / path.name)
    return {name: len(paths) for name, paths in parts.items()}


def _package_folder() -> Path:
    found = util.find_spec("elpv_dataset")
    if found is None or not found.submodule_search_locations:
        raise DataError("the solar-cell images are not installed", fix='pip install "kdx[demo]"')
    return Path(next(iter(found.submodule_search_locations))) / "data"


def _labels(folder: Path) -> list[tuple[Path, float, str]]:
    """Read ``labels.csv``: path, probability and cell type, separated by blanks."""
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file, delimiter=" ", skipinitialspace=True)
        return [(folder / row[0], float(row[1]), row[2]) for row in rows if row]
