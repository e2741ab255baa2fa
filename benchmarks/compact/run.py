"""Compact pairs beside the leader: what they cost, and how accurate they are.

    python -m benchmarks compact DATA [--work DIR] [--data-sets A,B] [--pairs A,B] [--seeds 0,1]
        [--epochs N] [--only accuracy|latency] [--threads 1,2] [--bundle PAIR=BUNDLE]

Trains and evaluates what ``settings.toml`` names, as ``python -m benchmarks accuracy`` does, whose
options it has. Then the pairs of the first data set and seed are timed in every runtime, each in a
process of its own, in turns (``timing/turns.py``), from the uint8 array to the verdict; their size
and memory are measured too. For latency alone --bundle names bundles that exist. Writes
``results/compact.json`` after every training, and after the latency. Training takes hours; the
latency needs a quiet machine and some minutes.
"""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.accuracy.run import PACKAGES, AccuracyBenchmark, accuracy_parser
from benchmarks.complexity.graphs import parameters
from benchmarks.cpu.shared_teacher import SEPARATE, memory_held
from benchmarks.results import machine_of
from benchmarks.timing.turns import Candidate, time_in_turns
from kdx.bundle.bundle import Bundle
from kdx.bundle.open import open_bundle
from kdx.calibration.validity import runtimes_for

BACKENDS = ("openvino", "onnxruntime-cpu")
PRECISIONS = ("fp32", "int8")
_ROUNDS = 30
Row = dict[str, Any]


def main() -> None:
    """Measure the accuracy that is missing, and the latency."""
    parser = accuracy_parser(__doc__, Path(__file__).with_name("settings.toml"))
    parser.add_argument("--only", choices=("accuracy", "latency"), help="One of both.")
    parser.add_argument("--bundle", action="append", default=[], metavar="PAIR=BUNDLE", help="Time this bundle.")
    parser.add_argument("--threads", default="1,2", help="How many each runtime gets, with commas.")
    parser.add_argument("--runs", type=int, default=300, help="Counted calls of each.")
    arguments = parser.parse_args()
    os.environ.setdefault("KDX_CACHE_DIR", str(arguments.work.resolve() / "cache"))
    benchmark = AccuracyBenchmark("compact", arguments)
    if arguments.only != "latency":
        benchmark.run()
    if arguments.only != "accuracy":
        given = {pair: Path(path) for pair, _, path in (each.partition("=") for each in arguments.bundle)}
        threads = [int(count) for count in arguments.threads.split(",")]
        family = measure_family(given or trained_bundles(benchmark), threads, arguments.runs)
        benchmark.keep(family=family)


def trained_bundles(benchmark: AccuracyBenchmark) -> dict[str, Path]:
    """Return the bundle of each pair of the first data set and seed."""
    first, *_ = benchmark.asked
    bundles = {key[1]: benchmark.bundle(key) for key in benchmark.asked if key[::2] == first[::2]}
    if missing := [pair for pair, path in bundles.items() if not path.is_dir()]:
        sys.exit(f"not trained yet: {', '.join(missing)}; leave out --only latency, or name others with --bundle")
    return bundles


def measure_family(bundles: dict[str, Path], threads: list[int], runs: int) -> Row:
    """Return size, memory and latency of bundles that take images of one size, by pair."""
    opened = {pair: open_bundle(path) for pair, path in bundles.items()}
    images = next(iter(opened.values())).golden().images
    timed = [(pair, precision) for pair, bundle in opened.items() for precision in _precisions(bundle)]
    latency = []
    for backend, count in product(BACKENDS, threads):
        print(f"== {backend}, threads: {count}", flush=True)
        candidates = [
            Candidate(
                f"{pair} {precision}",
                "benchmarks.timing.loaders:bundle",
                {"bundle": str(opened[pair].path), "backend": backend, "precision": precision},
            )
            for pair, precision in timed
        ]
        rows = time_in_turns(candidates, images, threads=count, runs=runs, rounds=_ROUNDS)
        for (pair, precision), row in zip(timed, rows, strict=True):
            about = {"pair": pair, "precision": precision, "backend": backend, "threads": count}
            latency.append({**about, **asdict(row)})
    pairs = {pair: _facts(pair, bundle) for pair, bundle in opened.items()}
    return {"machine": machine_of(max(threads), PACKAGES), "runs": runs, "pairs": pairs, "latency": latency}


def _precisions(bundle: Bundle) -> list[str]:
    return [precision for precision in PRECISIONS if precision in bundle.manifest.precisions]


def _facts(pair: str, bundle: Bundle) -> Row:
    graphs = {precision: bundle.graph_of(precision).path for precision in _precisions(bundle)}
    decided = bundle.manifest.own_thresholds("int8") if "int8" in graphs else {}
    order = {"bundles": {pair: str(bundle.path)}, "threads": 1}
    for precision in graphs:  # fills the cache of compiled models
        memory_held({**order, "precision": precision}, SEPARATE)
    held = {precision: memory_held({**order, "precision": precision}, SEPARATE) for precision in graphs}
    return {
        "parameters": parameters(graphs["fp32"]),
        "bundle_bytes": sum(file.stat().st_size for file in bundle.path.rglob("*") if file.is_file()),
        "graph_bytes": {precision: path.stat().st_size for precision, path in graphs.items()},
        "memory_mb": {precision: each["pss_mb"] for precision, each in held.items()},
        "undecided": [] if "int8" not in graphs else sorted(set(runtimes_for("int8")) - set(decided)),
        "images": [bundle.manifest.input.height, bundle.manifest.input.width],
    }
