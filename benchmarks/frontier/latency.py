"""What trained pairs cost: latency from the uint8 array to the verdict, size, and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cpu.graphs import parameters
from benchmarks.cpu.shared_teacher import SEPARATE, memory_held
from benchmarks.frontier.settings import STUDENTS
from benchmarks.timing.turns import Argument, Candidate, time_in_turns
from kdx.bundle.open import open_bundle

BACKENDS = ("openvino", "onnxruntime-cpu")
_ROUNDS = 30
Row = dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """What is timed of a pair: a precision, its loader with arguments, and its images' file.

    ``python`` is the command of an interpreter; empty for this one.
    """

    precision: str
    loader: str
    arguments: dict[str, Argument]
    images: Path
    backends: tuple[str, ...] = BACKENDS
    python: tuple[str, ...] = ()

    def candidate(self, name: str, backend: str) -> Candidate:
        """Return what is timed in a runtime."""
        return Candidate(name, self.loader, {"backend": backend, **self.arguments}, self.images, self.python)


def time_variants(variants: Mapping[str, Sequence[Variant]], threads: Sequence[int], runs: int) -> list[Row]:
    """Time every variant of some pairs in turns, for each runtime and number of threads."""
    found = []
    for backend, count in product(BACKENDS, threads):
        print(f"== {backend}, threads: {count}", flush=True)
        timed = [(pair, each) for pair, some in variants.items() for each in some if backend in each.backends]
        candidates = [each.candidate(f"{pair} {each.precision}", backend) for pair, each in timed]
        rows = time_in_turns(candidates, None, threads=count, runs=runs, rounds=_ROUNDS)
        for (pair, each), row in zip(timed, rows, strict=True):
            about = {"pair": pair, "precision": each.precision, "backend": backend, "threads": count}
            found.append({**about, **asdict(row)})
    return found


def bundle_variants(bundle: Path, students: Path) -> list[Variant]:
    """Return what is timed of a bundle, and of the bundle of its INT8 students if there is one."""
    images = bundle.with_name("images.npy")
    np.save(images, open_bundle(bundle).golden().images)
    kinds = [(each, bundle, each) for each in _precisions(bundle)]
    if students.is_dir() and "int8" in _precisions(students):
        kinds.append((STUDENTS, students, "int8"))
    loader = "benchmarks.timing.loaders:bundle"
    return [Variant(name, loader, {"bundle": str(of), "precision": each}, images) for name, of, each in kinds]


def _precisions(bundle: Path) -> list[str]:
    return [each for each in ("fp32", "bf16", "int8") if each in open_bundle(bundle).manifest.precisions]


def size_of(path: Path) -> Row:
    """Return the size of a bundle and of its graphs, and the memory of its detectors."""
    bundle, precisions = open_bundle(path), _precisions(path)
    graphs = {precision: bundle.graph_of(precision).path for precision in precisions}
    order = {"bundles": {path.stem: str(path)}, "threads": 1}
    for precision in precisions:  # fills the cache of compiled models
        memory_held({**order, "precision": precision}, SEPARATE)
    held = {precision: memory_held({**order, "precision": precision}, SEPARATE) for precision in precisions}
    return {
        "parameters": parameters(graphs["fp32"]),
        "bundle_bytes": sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        "graph_bytes": {precision: graph.stat().st_size for precision, graph in graphs.items()},
        "memory_mb": {precision: each["pss_mb"] for precision, each in held.items()},
        "images": [bundle.manifest.input.height, bundle.manifest.input.width],
    }
