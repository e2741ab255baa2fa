"""What every method costs at its paper's size and with its paper's teachers.

    python -m benchmarks complexity DATA

DATA is any folder that ``kdx train`` takes; the weights are random and the students are trained for one epoch on a
twentieth of the images: none of the figures depends on either, nor on how busy the machine is. ``kdx bench`` is called
to see that it works for every method; ``cpu.py`` is where latency is measured. Writes ``results/complexity.json``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.commands import kdx, write
from benchmarks.complexity.graphs import multiply_adds, parameters

# Loads the bundle as line software does, judges one image ten times, and says how much memory the process ever held: by
# the kernel's own high-water mark, for getrusage's begins with that of the process that started this one.
_PEAK = """
import re, sys
from pathlib import Path
import kdx
detector = kdx.load(sys.argv[1], threads=1)
image = kdx.open_bundle(sys.argv[1]).golden().images[0]
for _ in range(10):
    detector(image)
print(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


def main() -> None:
    """Train, export and measure every method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    arguments = parser.parse_args()
    rows = []
    for method in kdx("methods"):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(method, arguments.data, Path(folder)))
    write("complexity.json", {"methods": rows})


def measure(method: dict[str, Any], data: Path, folder: Path) -> dict[str, Any]:
    """Return one method's figures."""
    name, recipe = method["name"], method["recipe"]
    run, bundle = folder / "run", folder / f"{name}.kdx"
    side = recipe["crop_from"] or recipe["image_size"]
    kdx(
        "train", data, "--method", name, "--weights", "random", "--out", run, "--epochs", "1",
        "--train-fraction", "0.05", "--channels", "3", "--learning-rate", "0.001",
    )  # fmt: skip
    exported = kdx("export", run, "-o", bundle, "--input-size", f"{side}x{side}")
    timed = kdx("bench", bundle, "--baseline", run, "--runs", "20", "--warm-up", "2", "--batch", "1")
    peak = subprocess.run([sys.executable, "-c", _PEAK, str(bundle)], capture_output=True, text=True, check=True)
    graph = bundle / "model.onnx"
    counts = multiply_adds(graph)
    return {
        "method": name,
        "backbones": recipe["backbones"],
        "image_size": recipe["image_size"],
        "parameters": parameters(graph),
        "multiply_adds": counts,
        "graph_bytes": graph.stat().st_size,
        "peak_memory_bytes": int(peak.stdout) * 1024,
        "score_error": max(c["score_max"] for c in exported["certificate"]["comparisons"]),
        "benchmarked": [result["name"] for result in timed["results"]],
    }


if __name__ == "__main__":
    main()
