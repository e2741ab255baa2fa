"""How many images a second a compact teacher and its students learn from, on each device.

    python -m benchmarks training DATA [--epochs 10] [--threads 2] [--work DIR] [--out FILE]

Calls ``kdx train --profile`` on the CPU, then on the GPU that PyTorch finds, there with and without
``--mixed-precision``. Writes ``results/training.json`` after each; rows of other devices stay.
"""

from __future__ import annotations

from operator import itemgetter
from pathlib import Path
from typing import Any

import torch

from benchmarks.commands import kdx, parser_of
from benchmarks.markdown import table
from benchmarks.results import Result, machine_of

OPTIONS = ("--backbone", "compact-m", "--validation-fraction", "0.15", "--teacher-epochs", "1")
# What tells rows apart.
_about = itemgetter("device", "mixed_precision")
_TRAININGS = ("compact teacher", "training")


def main() -> None:
    """Train on each device, and keep what was measured."""
    parser = parser_of(__doc__, "data", epochs=10, threads=2)
    parser.add_argument("--work", type=Path, default=Path("training-work"))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    settings = {"images": given.data.resolve().name, "options": list(OPTIONS), "epochs": given.epochs}
    result = Result.resume("training", {"settings": settings}, {}, path=given.out)
    machine = machine_of(given.threads, ("kdx", "torch"))
    gpus = [("cuda", False), ("cuda", True)] if torch.cuda.is_available() else []
    for device, mixed in [("cpu", False), *gpus]:
        words = ("--device", device, "--epochs", given.epochs, *(["--mixed-precision"] if mixed else []))
        command = ("train", given.data, "-o", given.work / device, "--force", "--profile", *OPTIONS, *map(str, words))
        profile = kdx(*command, threads=given.threads)["profile"]
        speeds = {each["training"]: each["images"] * each["epochs"] / each["seconds"] for each in profile["epochs"]}
        row = {
            "device": torch.cuda.get_device_name() if device == "cuda" else machine["cpu"], "mixed_precision": mixed,
            "machine": machine, "images_per_second": {name: round(speeds[name], 1) for name in _TRAININGS},
            "profile": profile,
        }  # fmt: skip
        others = [each for each in result.found.get("rows", []) if _about(each) != _about(row)]
        result.put(rows=sorted([*others, row], key=_about))
    print("\n".join(training_table(result.record)))


def training_table(record: dict[str, Any]) -> list[str]:
    """Return a line for each device and precision."""
    heads = ("device", "forward pass", "compact teacher, images/s", "students, images/s")
    rows = [
        (
            each["device"], "BF16" if each["mixed_precision"] else "FP32",
            *(f"{each['images_per_second'][name]:,.0f}" for name in _TRAININGS),
        )
        for each in record["found"]["rows"]
    ]  # fmt: skip
    return table(heads, rows, right=range(2, 4))
