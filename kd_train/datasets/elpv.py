"""ELPV: solar cells, as downloaded from GitHub or inside the package ``elpv-dataset``."""

from __future__ import annotations

from pathlib import Path

from kd_train.datasets.elpv_package import CELL_TYPES, DEFECTIVE, read_labels, split_cells
from kd_train.datasets.layout import DatasetInfo, Layout, Location, is_folder
from kd_train.datasets.unpack import Unpacker
from kdx.folders.data_folder import GOOD, ImageFolder, TestImage

# The places of the data in the repository, now and in earlier versions.
_PLACES = (".", "data", "src/elpv_dataset/data")


def _find(root: Path) -> Location | None:
    for place in _PLACES:
        home = root / place
        if is_folder(home / "images") and (home / "labels.csv").exists():
            return Location(home)
    return None


def _categories(home: Path) -> tuple[str, ...]:
    present = {cell.kind for cell in read_labels(home)}
    return tuple(kind for kind in CELL_TYPES if kind in present)


def _open(home: Path, category: str, unpacker: Unpacker) -> ImageFolder:
    cells = split_cells(read_labels(home), category)
    test = [TestImage(path, DEFECTIVE, None) for path in sorted(cells.defective)]
    test += [TestImage(path, GOOD, None) for path in sorted(cells.test_good)]
    return ImageFolder(home, "elpv", tuple(sorted(cells.train)), tuple(test))


LAYOUT = Layout(
    DatasetInfo(
        key="elpv",
        title="ELPV",
        source="C. Buerhop-Lutz, S. Deitsch, A. Maier, F. Gallwitz, S. Berger, B. Doll, J. Hauch, C. Camus, C. J. "
        "Brabec: A benchmark for visual identification of defective solar cells in electroluminescence imagery. "
        "EU PVSEC 2018.",
        image_size=256,
        split="no published one: of the cells with probability 0, a random half (with a fixed seed) is for training "
        "and the other half for testing, with all cells of probability 1; cells with probabilities between are left "
        "out, because the experts were unsure",
    ),
    looked_for="ELPV: labels.csv and images (also under src/elpv_dataset/data)",
    find=_find,
    categories=_categories,
    open=_open,
)
