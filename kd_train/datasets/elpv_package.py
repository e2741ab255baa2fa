"""ELPV (Buerhop-Lutz et al. 2018), from the package ``elpv-dataset``: images of solar cells.

The images are grey and have 300 × 300 pixels. Each has a cell type and a probability of being
defective.
"""

from __future__ import annotations

import csv
import random
import shutil
from collections.abc import Sequence
from importlib import util
from pathlib import Path
from typing import NamedTuple

from kdx.errors import DataError
from kdx.folders.data_folder import GOOD

DEFECTIVE = "defective"
CELL_TYPES = ("mono", "poly")


class SolarCell(NamedTuple):
    """A solar cell: image, probability of being defective, and ``mono`` or ``poly``."""

    path: Path
    probability: float
    kind: str


class Split(NamedTuple):
    """The images of one cell type, divided."""

    train: list[Path]
    test_good: list[Path]
    defective: list[Path]


def write_mvtec_layout(
    root: Path, *, cell_type: str = "mono", max_train: int | None = None, max_test: int | None = None, seed: int = 0
) -> dict[str, int]:
    """Copy the cells of one type into a folder in MVTec layout.

    :func:`split_cells` decides which cell goes to ``train/good``, ``test/good`` and
    ``test/defective``.

    Args:
        root: The folder to write to.
        cell_type: ``mono`` or ``poly``.
        max_train: The maximum number of training images.
        max_test: The maximum number of images of each test class.
        seed: The seed of the shuffle.

    Returns:
        The number of images in each folder.

    Raises:
        DataError: The package is not installed.
    """
    cells = split_cells(read_labels(_package_folder()), cell_type, seed=seed)
    parts = {
        f"train/{GOOD}": cells.train[:max_train],
        f"test/{GOOD}": cells.test_good[:max_test],
        f"test/{DEFECTIVE}": cells.defective[:max_test],
    }
    for name, paths in parts.items():
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        for path in paths:
            shutil.copyfile(path, folder / path.name)
    return {name: len(paths) for name, paths in parts.items()}


def _package_folder() -> Path:
    package = util.find_spec("elpv_dataset")
    if package is None or not package.submodule_search_locations:
        raise DataError("the solar-cell images are not installed", fix='pip install "kdx[demo]"')
    return Path(next(iter(package.submodule_search_locations))) / "data"


def read_labels(folder: Path) -> list[SolarCell]:
    """Read ``labels.csv``; each line has a path, a probability and a cell type.

    Raises:
        DataError: The file cannot be read, a line has another form, or an image is missing.
    """
    path = folder / "labels.csv"
    cells: list[SolarCell] = []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file, delimiter=" ", skipinitialspace=True)
            for row in rows:
                if row:
                    cells.append(_cell(folder, path, rows.line_num, row))
    except PermissionError as error:
        raise DataError(
            f"'{path}' cannot be read: permission denied",
            expected="a file that this user may read",
            received=type(error).__name__,
            fix="change its permissions",
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise _damaged(path, str(error)) from error
    if not cells:
        raise _damaged(path, "no lines")
    return cells


def split_cells(cells: Sequence[SolarCell], cell_type: str, *, seed: int = 0) -> Split:
    """Split the cells of one type, the same way for the same seed.

    Half of the cells with probability 0 are good parts for training, the other half good parts for
    testing; all cells with probability 1 are defective. Cells with probabilities between are left
    out, because the experts were unsure.
    """
    good = [cell.path for cell in cells if cell.kind == cell_type and cell.probability == 0.0]
    defective = [cell.path for cell in cells if cell.kind == cell_type and cell.probability == 1.0]
    shuffle = random.Random(seed)  # noqa: S311 (a split, not a secret)
    shuffle.shuffle(good)
    shuffle.shuffle(defective)
    half = len(good) // 2
    return Split(good[:half], good[half:], defective)


def _cell(folder: Path, labels: Path, line: int, columns: Sequence[str]) -> SolarCell:
    text = f"line {line}: {' '.join(columns)!r}"
    try:
        name, probability, kind = columns[0], float(columns[1]), columns[2]
    except (IndexError, ValueError):
        raise _damaged(labels, text) from None
    if kind not in CELL_TYPES or not 0.0 <= probability <= 1.0:
        raise _damaged(labels, text)
    path = folder / name
    if not path.is_file():
        raise DataError(
            f"'{labels}' names an image that is missing",
            expected=f"'{path}'",
            received=text,
            fix="download the data set again",
        )
    return SolarCell(path, probability, kind)


def _damaged(labels: Path, received: str) -> DataError:
    return DataError(
        f"'{labels}' is damaged",
        expected="lines of an image's path, its probability of being defective, and mono or poly",
        received=received,
        fix="download the data set again",
    )
