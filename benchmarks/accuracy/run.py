"""Every method and its peers on real parts, with one teacher and the same images for all.

    python -m benchmarks accuracy MAGNETIC_TILE [--jobs 2] [--peers-python PYTHON] [--work FOLDER]

MAGNETIC_TILE holds the Magnetic Tile Defects in MVTec layout, or as downloaded; the second data set, ELPV's
mono-crystalline cells, comes from a package. Every method is trained by its recipe for this teacher, whose epochs
differ by method: each row has its seconds of training. Peers run through ``peer.py``. Writes
``results/accuracy.json`` after every row: a second call measures what is missing, and resumes runs that it finds in
``--work``; ``--again NAME`` measures a row again.
"""

from __future__ import annotations

import csv
import json
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.commands import kdx, parser_of, run_module
from benchmarks.results import Result, machine_of
from kd_train.datasets import open_data
from kd_train.datasets.elpv_package import write_mvtec_layout
from kd_train.datasets.magnetic_tile import tiles
from kdx.runtime.machine import usable_cores

TEACHER = "tf_efficientnet_lite0"
PEER_EPOCHS = 20  # of the one that is trained
FALSE_REJECT_RATE = 0.01
PEERS = ("stfpm", "padim", "patchcore", "knn")
PEER = "benchmarks.accuracy.peer"
Row = dict[str, Any]


@dataclass(frozen=True)
class Data:
    """A data set: its name, its folder, the share held out, and the file that says which part each image shows."""

    name: str
    root: Path
    validation_fraction: float
    parts: Path | None

    @property
    def options(self) -> list[str]:
        """The options that every system gets."""
        parts = ["--parts", str(self.parts)] if self.parts else []
        return ["--validation-fraction", str(self.validation_fraction), *parts]


def main() -> None:
    """Measure what is missing."""
    parser = parser_of(__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--jobs", type=int, default=1, help="Systems at once; they share the cores.")
    parser.add_argument("--peers-python", default=sys.executable, help="An interpreter that has the extra 'peers'.")
    parser.add_argument("--work", type=Path, default=None, help="Keep runs and bundles here.")
    parser.add_argument("--again", action="append", default=[], help="A row to measure again.")
    parser.add_argument("--only", action="append", default=[], help="A row to measure and no other; may be repeated.")
    parser.add_argument("--backbone", default=TEACHER, help="Another teacher than that of the figures.")
    arguments = parser.parse_args()
    work = arguments.work or Path(tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    threads = max(1, usable_cores() // arguments.jobs)
    settings = {"teacher": arguments.backbone, "peer_epochs": PEER_EPOCHS, "false_reject_rate": FALSE_REJECT_RATE}
    # Hours, maybe in several calls on several machines: each row has its own threads and versions.
    result = Result.resume("accuracy", {"settings": settings}, {})
    result.record.setdefault("machine", machine_of(threads, ("kdx", "torch")))
    rows = {
        (row["data"], row["name"]): row for row in result.found.get("rows", []) if row["name"] not in arguments.again
    }
    jobs: list[tuple[Data, str, Callable[[], Row]]] = []
    for data in data_sets(arguments.data, work):
        for name in (method["name"] for method in kdx("methods")):
            keep = name not in arguments.again
            jobs.append((data, name, partial(measure, name, data, work, arguments.backbone, threads, keep)))
        for peer in PEERS:
            jobs.append((data, peer, partial(measure_peer, peer, data, arguments.peers_python, threads)))
    lock = threading.Lock()

    def keep_row(job: Callable[[], Row]) -> None:
        row = job()
        with lock:
            rows[row["data"], row["name"]] = row
            result.put(rows=[rows[key] for key in sorted(rows)])

    missing = [
        job
        for data, name, job in jobs
        if (data.name, name) not in rows and (not arguments.only or name in arguments.only)
    ]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        # Each row is written when it is there, whatever becomes of the others.
        for future in [pool.submit(keep_row, job) for job in missing]:
            future.result()


def data_sets(magnetic_tile: Path, work: Path) -> list[Data]:
    """Return both data sets; a tile's exposures are held out together, whoever laid the images out."""
    parts = work / "tiles.csv"
    with parts.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(sorted(tiles(open_data(magnetic_tile).good).items()))
    cells = work / "elpv_mono"
    if not cells.exists():
        write_mvtec_layout(cells, cell_type="mono")
    # Of the cells, enough are held out for a threshold at the rate.
    return [Data("magnetic_tile", magnetic_tile, 0.15, parts), Data("elpv_mono", cells, 0.35, None)]


def measure(method: str, data: Data, work: Path, teacher: str, threads: int, keep: bool) -> Row:
    """Train, or ``keep`` what was trained, export, calibrate and evaluate one method."""
    run, bundle = work / f"{data.name}-{method}", work / f"{data.name}-{method}.kdx"
    trained = kdx(
        "train", data.root, "--method", method, "--backbone", teacher, "--out", run, *data.options,
        "--resume" if keep else "--force", threads=threads,
    )  # fmt: skip
    kdx("export", run, "-o", bundle, "--force", threads=threads)
    calibrated = kdx(
        "calibrate", bundle, data.root, "--false-reject-rate", str(FALSE_REJECT_RATE), "--threads", str(threads)
    )
    result = kdx("evaluate", bundle, data.root, "--threads", str(threads))
    config = json.loads((run / "run.json").read_text(encoding="utf-8"))
    return {
        "data": data.name,
        "name": method,
        **{key: result[key] for key in ("image_auroc", "pixel_auroc", "pro", "false_reject_rate", "detection_rate")},
        "types": result["types"],
        "seconds_training": trained["seconds"],
        "threads": threads,
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


def measure_peer(peer: str, data: Data, python: str, threads: int) -> Row:
    """Run one peer in its own interpreter."""
    order = [str(data.root), "--peer", peer, "--epochs", str(PEER_EPOCHS), *data.options]
    print(f"$ python -m {PEER}", *order, flush=True)
    found = run_module(PEER, *order, threads=threads, python=python)
    return {**found, "data": data.name, "name": peer, "title": found["name"], "threads": threads}


if __name__ == "__main__":
    main()
