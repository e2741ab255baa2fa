"""The whole road on the Magnetic Tile Defect images, as a user walks it.

    python -m benchmarks.accuracy.magnetic_tile DATA [--epochs N] [--image-size N] [--work FOLDER]

DATA is in MVTec layout, or as downloaded. All exposures of a tile are trained on, or all are held out. Writes
``results/magnetic_tile.json``.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path

from benchmarks.commands import kdx, write
from kd_train.datasets import open_data
from kd_train.datasets.magnetic_tile import tiles
from kdx.runtime.latency import usable_cores

BACKBONE = "tf_efficientnet_lite0"
# Of the teacher's deep taps, the pair that told synthetic defects on held-out good tiles best.
TAPS = "blocks.4,blocks.5"
FALSE_REJECT_RATE = "0.01"
PREDICTED = 8


def main() -> None:
    """Run every step and collect what it printed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--epochs", default="30")
    parser.add_argument("--image-size", default="160")
    parser.add_argument("--work", type=Path, default=None, help="Keep run, bundle and heat maps here.")
    arguments = parser.parse_args()
    work = arguments.work or Path(tempfile.mkdtemp())
    run, bundle, data = work / "run", work / "tile.kdx", arguments.data
    work.mkdir(parents=True, exist_ok=True)
    parts = work / "tiles.csv"
    with parts.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(sorted(tiles(open_data(data).good).items()))
    record = {
        "train": kdx(
            "train", data, "--method", "stpm", "--backbone", BACKBONE, "--weights", "imagenet",
            "--taps", TAPS, "--out", run,
            "--epochs", arguments.epochs, "--image-size", arguments.image_size,
            "--validation-fraction", "0.2", "--parts", parts, "--force",
        ),
        "evaluate_run": kdx("evaluate", run, data),
        "export": kdx("export", run, "-o", bundle, "--force"),
        "calibrate": kdx("calibrate", bundle, data, "--false-reject-rate", FALSE_REJECT_RATE),
        "verify": kdx("verify", bundle),
        "evaluate_bundle": kdx("evaluate", bundle, data),
    }  # fmt: skip
    defective = sorted(p for p in (data / "test").glob("*/*") if p.parent.name != "good")
    chosen = defective[:: max(1, len(defective) // PREDICTED)][:PREDICTED]
    record["predict"] = kdx("predict", bundle, *chosen, "--overlay", work / "overlays")
    record["bench"] = kdx("bench", bundle, "--baseline", run)
    record["settings"] = {
        "backbone": BACKBONE,
        "taps": TAPS,
        "epochs": int(arguments.epochs),
        "image_size": int(arguments.image_size),
        "threads": usable_cores(),
        "false_reject_rate": float(FALSE_REJECT_RATE),
    }
    for name in ("evaluate_run", "evaluate_bundle"):
        record[name].pop("scores")
    for name in ("train", "export", "calibrate"):
        for key in ("run", "bundle"):
            record[name].pop(key, None)
    for verdict in record["predict"]:
        verdict["image"] = "/".join(Path(verdict["image"]).parts[-3:])
        verdict.pop("overlay")
    write("magnetic_tile.json", record)


if __name__ == "__main__":
    main()
