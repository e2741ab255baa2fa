"""What trained pairs cost: latency from the uint8 array to the verdict, size, and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import onnx

from benchmarks.accuracy.training import STUDENTS, students_bundle
from benchmarks.cpu.graphs import parameters
from benchmarks.cpu.shared_teacher import SEPARATE, memory_held
from benchmarks.timing.turns import Candidate, time_in_turns
from kd_export.precision.quantize import quantize
from kdx.bundle.open import open_bundle

BACKENDS = ("openvino", "onnxruntime-cpu")
# A pair's graph with every operation in INT8, which no gate has judged: the most that INT8 gains.
CEILING = "ceiling"
_ROUNDS = 30
Row = dict[str, Any]


def time_pairs(bundles: Mapping[str, Path], threads: Sequence[int], runs: int) -> list[Row]:
    """Time every variant of some pairs in turns, for each runtime and number of threads.

    Args:
        bundles: The bundle of each pair; all take images of one size.
        threads: How many a runtime gets, one after the other.
        runs: Counted calls of each.
    """
    images = open_bundle(next(iter(bundles.values()))).golden().images
    timed = [each for pair, bundle in bundles.items() for each in _variants(pair, bundle)]
    found = []
    for backend, count in product(BACKENDS, threads):
        print(f"== {backend}, threads: {count}", flush=True)
        candidates = [
            Candidate(
                f"{pair} {precision}",
                f"benchmarks.timing.loaders:{'graph' if 'graph' in arguments else 'bundle'}",
                {**arguments, "backend": backend},
            )
            for pair, precision, arguments in timed
        ]
        rows = time_in_turns(candidates, images, threads=count, runs=runs, rounds=_ROUNDS)
        for (pair, precision, _), row in zip(timed, rows, strict=True):
            found.append({"pair": pair, "precision": precision, "backend": backend, "threads": count, **asdict(row)})
    return found


def _variants(pair: str, bundle: Path) -> list[tuple[str, str, dict[str, str]]]:
    """Return what is timed of a pair: its name, the precision, and what a loader needs."""
    students, graph = students_bundle(bundle), bundle.with_name(f"{CEILING}.onnx")
    opened = open_bundle(bundle)
    onnx.save_model(quantize(onnx.load(opened.graph_of("fp32").path), opened.golden().images), graph)
    found = [(each, {"bundle": str(bundle), "precision": each}) for each in _precisions(bundle)]
    if "int8" in (_precisions(students) if students.is_dir() else ()):
        found.append((STUDENTS, {"bundle": str(students), "precision": "int8"}))
    found.append((CEILING, {"bundle": str(bundle), "graph": str(graph)}))
    return [(pair, precision, arguments) for precision, arguments in found]


def _precisions(bundle: Path) -> list[str]:
    return [each for each in ("fp32", "int8") if each in open_bundle(bundle).manifest.precisions]


def size_of(pair: str, path: Path) -> Row:
    """Return the size of a bundle and of its graphs, and the memory of its detectors."""
    bundle, precisions = open_bundle(path), _precisions(path)
    graphs = {precision: bundle.graph_of(precision).path for precision in precisions}
    order = {"bundles": {pair: str(path)}, "threads": 1}
    for precision in precisions:  # fills the cache of compiled models
        memory_held({**order, "precision": precision}, SEPARATE)
    held = {precision: memory_held({**order, "precision": precision}, SEPARATE) for precision in precisions}
    return {
        "pair": pair,
        "parameters": parameters(graphs["fp32"]),
        "bundle_bytes": sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        "graph_bytes": {precision: graph.stat().st_size for precision, graph in graphs.items()},
        "memory_mb": {precision: each["pss_mb"] for precision, each in held.items()},
        "images": [bundle.manifest.input.height, bundle.manifest.input.width],
    }
