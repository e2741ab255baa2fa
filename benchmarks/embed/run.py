"""What the C library adds to the runtime's own call, and how it compares with Python.

    python -m benchmarks embed BUNDLE [--threads 2] [--calls 60] [--rounds 6]

BUNDLE holds every precision that is to be timed. Builds ``embed/`` in Release. In each round one
process times the library's whole call (image to verdict and map) and OpenVINO's raw call of the
same compiled graph, call by call in turns; another times ``kdx.load(...)(image)``. Medians of the
rounds' medians. Writes ``results/embed.json``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import kdx
from benchmarks.commands import ROOT, parser_of
from benchmarks.results import Result, machine_of
from benchmarks.timing.turns import Candidate, time_in_turns


def build_timing_program(folder: Path) -> Path:
    """Build the library's timing program and return its path."""
    python = f"-DPython3_EXECUTABLE={sys.executable}"
    configure = ("cmake", "-S", ROOT / "embed", "-B", folder, "-G", "Ninja", "-DKDX_BUILD_TESTS=ON", python)
    for command in (configure, ("cmake", "--build", folder, "--target", "kdx_overhead")):
        subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
    return folder / "tests/kdx_overhead"


def measure(program: Path, arguments: argparse.Namespace, precision: str) -> dict[str, Any]:
    """Return the medians of one precision over the rounds."""
    images = kdx.open_bundle(arguments.bundle).golden().images
    options = {"bundle": str(arguments.bundle), "backend": "openvino", "precision": precision}
    python = [Candidate("python", "benchmarks.timing.loaders:bundle", options)]
    found: dict[str, list[float]] = {"library_ms": [], "raw_ms": [], "python_ms": []}
    for _ in range(arguments.rounds):
        given = [str(part) for part in (program, arguments.bundle, precision, arguments.threads, arguments.calls)]
        record = json.loads(subprocess.run(given, check=True, capture_output=True, encoding="utf-8").stdout)
        found["library_ms"].append(record["library_ms"])
        found["raw_ms"].append(record["raw_ms"])
        (row,) = time_in_turns(python, images, threads=arguments.threads, runs=arguments.calls, rounds=1)
        found["python_ms"].append(row.p50_ms or float("nan"))
    medians = {name: round(float(np.median(times)), 4) for name, times in found.items()}
    # The raw call is of the same process and the same moments; Python's of a neighbouring process.
    ratios = {
        f"library_to_{other}": round(float(np.median(np.divide(found["library_ms"], found[f"{other}_ms"]))), 4)
        for other in ("raw", "python")
    }
    return {"precision": precision, **medians, **ratios}


def main() -> None:
    """Measure every precision of a bundle."""
    arguments = parser_of(__doc__, "bundle", threads=2, calls=60, rounds=6).parse_args()
    manifest = kdx.open_bundle(arguments.bundle).manifest
    about = {"method": manifest.method, "backbone": manifest.provenance.backbone}
    settings = {**about, "map_size": list(manifest.map_size)}
    identity = {"machine": machine_of(arguments.threads, ("kdx", "numpy", "openvino")), "settings": settings}
    result = Result.resume("embed", identity, {"calls": arguments.calls, "rounds": arguments.rounds})
    precisions = [each for each in ("fp32", "bf16", "int8") if each in manifest.precisions]
    with tempfile.TemporaryDirectory() as folder:
        program = build_timing_program(Path(folder))
        result.put(rows=[measure(program, arguments, precision) for precision in precisions])
