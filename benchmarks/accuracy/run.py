"""Every method on real parts, with one teacher and the same images for all.

    python -m benchmarks accuracy MAGNETIC_TILE [--work FOLDER] [--only METHOD] [--again METHOD]

MAGNETIC_TILE holds the Magnetic Tile Defects in MVTec layout, or as downloaded; the second data
set, ELPV's mono-crystalline cells, comes from a package. Every method is trained by its recipe for
this teacher, whose epochs differ by method: each row has its seconds of training. Writes
``results/accuracy.json`` after every row: a second call measures what is missing, and resumes runs
that it finds in ``--work``.
"""

from __future__ import annotations

import csv
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.commands import kdx, parser_of
from benchmarks.results import Result, machine_of
from kd_train.datasets import open_data
from kd_train.datasets.elpv_package import write_mvtec_layout
from kd_train.datasets.magnetic_tile import tiles
from kdx.runtime.machine import usable_cores

BACKBONE = "tf_efficientnet_lite0"
FALSE_REJECT_RATE = 0.01
Row = dict[str, Any]


@dataclass(frozen=True)
class Data:
    """A data set: name, folder, the share held out, and the file that names each image's part."""

    name: str
    root: Path
    validation_fraction: float
    parts: Path | None

    @property
    def options(self) -> list[str]:
        """The options of ``kdx train`` that every method gets."""
        parts = ["--parts", str(self.parts)] if self.parts else []
        return ["--validation-fraction", str(self.validation_fraction), *parts]


def main() -> None:
    """Measure what is missing."""
    parser = parser_of(__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, default=None, help="Keep runs and bundles here.")
    parser.add_argument("--again", action="append", default=[], help="A method to measure again.")
    parser.add_argument("--only", action="append", default=[], help="A method to measure and no other; repeatable.")
    arguments = parser.parse_args()
    work = arguments.work or Path(tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    # Hours, maybe in several calls on several machines: each row has its own threads and versions.
    settings = {"teacher": BACKBONE, "false_reject_rate": FALSE_REJECT_RATE}
    result = Result.resume("accuracy", {"settings": settings}, {})
    result.record.setdefault("machine", machine_of(usable_cores(), ("kdx", "torch")))
    before = [row for row in result.found.get("rows", []) if row["name"] not in arguments.again]
    rows = {(row["data"], row["name"]): row for row in before}
    names = [method["name"] for method in kdx("methods")]
    for data in prepare_data_sets(arguments.data, work):
        for name in arguments.only or names:
            if (data.name, name) not in rows:
                rows[data.name, name] = measure(name, data, work, keep=name not in arguments.again)
                result.put(rows=[rows[key] for key in sorted(rows)])


def prepare_data_sets(magnetic_tile: Path, work: Path) -> list[Data]:
    """Return both data sets; all exposures of a tile are held out together."""
    parts = work / "tiles.csv"
    with parts.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(sorted(tiles(open_data(magnetic_tile).good).items()))
    cells = work / "elpv_mono"
    if not cells.exists():
        write_mvtec_layout(cells, cell_type="mono")
    # Of the cells, enough are held out for a threshold at the rate.
    return [Data("magnetic_tile", magnetic_tile, 0.15, parts), Data("elpv_mono", cells, 0.35, None)]


def measure(method: str, data: Data, work: Path, *, keep: bool) -> Row:
    """Train, or ``keep`` what was trained, export, calibrate and evaluate one method."""
    run, bundle = work / f"{data.name}-{method}", work / f"{data.name}-{method}.kdx"
    trained = kdx(
        "train", data.root, "--method", method, "--backbone", BACKBONE, "--out", run, *data.options,
        "--resume" if keep else "--force",
    )  # fmt: skip
    kdx("export", run, "-o", bundle, "--force")
    calibrated = kdx("calibrate", bundle, data.root, "--false-reject-rate", str(FALSE_REJECT_RATE))
    result = kdx("evaluate", bundle, data.root)
    config = json.loads((run / "run.json").read_text(encoding="utf-8"))
    return {
        "data": data.name,
        "name": method,
        **{key: result[key] for key in ("image_auroc", "pixel_auroc", "pro", "false_reject_rate", "detection_rate")},
        "types": result["types"],
        "seconds_training": trained["seconds"],
        "threads": usable_cores(),
        "images": {
            "train": trained["train_images"],
            "held_out": trained["held_out_images"],
            "test_good": result["good"],
            "test_defective": result["defective"],
        },
        "threshold_images": calibrated["threshold"]["images"],
        "settings": {"recipe": config["recipe"], "weights": config["weights"]},
        "versions": config["versions"],
    }


if __name__ == "__main__":
    main()
