"""What every method costs at its paper's size and with its paper's teachers.

    python -m benchmarks complexity DATA

DATA is any folder that ``kdx train`` takes. The weights are random, and the students are trained
for an epoch or a few on a twentieth of the images: no figure depends on either, nor on how busy the
machine is. The benchmark ``cpu`` measures latency. Writes ``results/complexity.json``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.bundles import BenchmarkModel, prepare_bundle
from benchmarks.commands import kdx, parser_of
from benchmarks.complexity.graphs import multiply_adds, parameters
from benchmarks.results import Result, machine_of
from benchmarks.timing.turns import Candidate, time_in_turns
from kdx.bundle.open import open_bundle


def main() -> None:
    """Train, export and measure every method."""
    parser = parser_of(__doc__, "data")
    parser.add_argument("--only", default="", help="Methods, with commas between them; default: all.")
    arguments = parser.parse_args()
    identity = {"machine": machine_of(1, ("kdx", "onnx", "onnxruntime", "openvino", "torch")), "settings": {}}
    result = Result.resume("complexity", identity, {})
    chosen = [method for method in kdx("methods") if method["name"] in (arguments.only or method["name"]).split(",")]
    with tempfile.TemporaryDirectory() as folder:
        result.put(methods=[measure(method, arguments.data, Path(folder)) for method in chosen])


def measure(method: dict[str, Any], data: Path, folder: Path) -> dict[str, Any]:
    """Return one method's figures."""
    name, recipe = method["name"], method["recipe"]
    side = recipe["crop_from"] or recipe["image_size"]
    prepared = prepare_bundle(BenchmarkModel(name, name, camera=side, precisions="fp32"), data, folder)
    bundle = prepared.bundle
    graph = bundle / "model.onnx"
    # Loads the bundle as line software does, and judges images in a process of its own.
    arguments = {"bundle": str(bundle), "backend": "auto"}
    images = open_bundle(bundle).golden().images
    (row,) = time_in_turns([Candidate(name, "benchmarks.timing.loaders:bundle", arguments)], images, threads=1, runs=10)
    return {
        "method": name,
        "backbones": recipe["backbones"],
        "image_size": recipe["image_size"],
        "parameters": parameters(graph),
        "multiply_adds": multiply_adds(graph),
        "graph_bytes": graph.stat().st_size,
        "peak_memory_bytes": round((row.peak_memory_mb or 0.0) * 1e6),
    }
