"""How many images a second a compact teacher and its students learn from, on each device.

    python -m benchmarks training DATA [--devices cuda cpu] [--epochs 10] [--work DIR] [--out FILE]

Calls ``kdx train --profile`` on the GPU that PyTorch finds, with and without ``--mixed-precision``,
then on the CPU. Speeds leave out checkpoints and each training's first epoch, in which kernels are
chosen and variants drawn. Writes ``results/training.json`` after each; rows of other devices stay.
"""

from __future__ import annotations

import json
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch

from benchmarks.commands import kdx, parser_of
from benchmarks.markdown import table
from benchmarks.results import Result, machine_of

OPTIONS = ("--backbone", "compact-m", "--validation-fraction", "0.15", "--teacher-epochs", "3")
_about = itemgetter("device", "mixed_precision")  # what tells rows apart
_TRAININGS = ("compact teacher", "training")


def main() -> None:
    """Train on each device, and keep what was measured."""
    parser = parser_of(__doc__, "data", epochs=10, threads=2)
    devices = ["cuda", "cpu"] if torch.cuda.is_available() else ["cpu"]
    parser.add_argument("--devices", nargs="+", choices=("cuda", "cpu"), default=devices)
    parser.add_argument("--work", type=Path, default=Path("training-work"))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.epochs < 2:
        parser.error("--epochs takes 2 or more: the first is not counted")
    settings = {"images": given.data.resolve().name, "options": list(OPTIONS), "epochs": given.epochs}
    result = Result.resume("training", {"settings": settings}, {}, path=given.out)
    machine = machine_of(given.threads, ("kdx", "torch"))
    jobs = [("cuda", False), ("cuda", True), ("cpu", False)]
    for device, mixed in [job for job in jobs if job[0] in given.devices]:
        words = ("--device", device, "--epochs", given.epochs, *(["--mixed-precision"] if mixed else []))
        run = given.work / device
        command = ("train", given.data, "-o", run, "--force", "--profile", *OPTIONS, *map(str, words))
        profile = kdx(*command, threads=given.threads)["profile"]
        row = {
            "device": torch.cuda.get_device_name() if device == "cuda" else machine["cpu"], "mixed_precision": mixed,
            "machine": machine, "profile": profile,
            "images_per_second": {each["training"]: speed_of(run, each) for each in profile["epochs"]},
        }  # fmt: skip
        others = [each for each in result.found.get("rows", []) if _about(each) != _about(row)]
        result.put(rows=sorted([*others, row], key=_about))
    print("\n".join(training_table(result.record)))


def speed_of(run: Path, training: dict[str, Any]) -> float:
    """Return the images a second of a training's epochs after the first."""
    folder = run / "teacher" if training["training"] == _TRAININGS[0] else run
    _, *counted = json.loads((folder / "last.json").read_bytes())["history"]
    return round(training["images"] * len(counted) / sum(each["seconds"] for each in counted), 1)


def training_table(record: dict[str, Any]) -> list[str]:
    """Return a line for each device and precision."""
    heads = ("device", "forward pass", "compact teacher, images/s", "students, images/s")
    rows = []
    for each in record["found"]["rows"]:
        speeds = (f"{each['images_per_second'][name]:,.0f}" for name in _TRAININGS)
        rows.append((each["device"], "BF16" if each["mixed_precision"] else "FP32", *speeds))
    return table(heads, rows, right=range(2, 4))
