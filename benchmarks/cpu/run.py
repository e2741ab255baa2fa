"""What methods cost on CPUs: operations, runtimes, scaling, steadiness, cold start, sharing.

    python -m benchmarks cpu DATA [--work DIR] [--threads N] [--runs N] [--parts methods,stages,...]

DATA is what ``kdx train`` takes. Every candidate runs in a process of its own, in turns
(``timing/turns.py``), from the uint8 array of the camera to the verdict. Weights are random:
latency does not depend on them; a precision that its gate refused is not timed all the same. What
is prepared is kept in --work. Writes ``results/cpu.json`` after every part. Needs a quiet machine
and about 45 minutes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import kdx as runtime
from benchmarks.bundles import BenchmarkModel, Prepared, candidates, method_models, prepare_bundle, stpm, stpm_lite0
from benchmarks.commands import kdx, parser_of
from benchmarks.cpu.graphs import cost_of
from benchmarks.cpu.shared_teacher import make_bundles, measure
from benchmarks.results import Result, machine_of, run_parts
from benchmarks.timing.turns import Candidate, time_in_turns
from kd_train.training.run_folder import Run
from kdx.bundle.manifest import GRAPH
from kdx.bundle.open import open_bundle
from kdx.verification.golden import GoldenCheck

SIZES = (128, 256, 512, 1024)
BATCHES = (1, 2, 4, 8, 16, 32)
TAPS = ("layer1", "layer1,layer2", "layer1,layer2,layer3")
PRODUCTS = 8
STEADY_CALLS, GROWTH_CALLS = 2000, 20000
_PACKAGES = ("kdx", "numpy", "onnxruntime", "openvino", "scipy", "timm", "torch")
_SCALED = (("onnxruntime-cpu", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "int8"))
Row = dict[str, Any]


class CpuBenchmark:
    """One run of the benchmark."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.data, self.work = arguments.data.resolve(), arguments.work.resolve()
        self.threads, self.runs = arguments.threads, arguments.runs

    def parts(self) -> dict[str, Callable[[], Any]]:
        """Return what measures each part, by its name in the result."""
        return {
            "methods": self.methods, "stages": self.stages, "sizes": self.sizes, "taps": self.taps,
            "batches": self.batches, "threads": self.thread_counts, "steady": self.steady, "cold": self.cold,
            "shared": self.shared,
        }  # fmt: skip

    def methods(self) -> list[Row]:
        """Return each method's backends beside its eager loop."""
        found = []
        for prepared in map(self.prepare, method_models()):
            manifest, model = open_bundle(prepared.bundle).manifest, prepared.model
            about = {"name": model.name, "method": model.method, "backbone": manifest.provenance.backbone}
            size = {"camera": model.camera, "image_size": Run(prepared.run).config.recipe.image_size}
            cost = {**cost_of(prepared.bundle / GRAPH), "map_size": manifest.map_size[0]}
            rows = self.time(prepared, candidates(prepared, eager=True))
            found.append({**about, **size, **cost, "refused": prepared.refused, "rows": rows})
        return sorted(found, key=lambda row: row["name"])

    def stages(self) -> Row:
        """Return where each backend spends STPM's time."""
        command = ("bench", self.prepare(stpm()).bundle, "--profile", "--threads", str(self.threads))
        return {"stages": kdx(*command)["stages"]}

    def sizes(self) -> list[Row]:
        """Return what STPM costs at each image size."""
        runs = {side: max(40, self.runs * 128 // side) for side in SIZES}
        return [{"side": s, "rows": self.scaled(stpm(f"stpm-{s}", side=s), runs=some)} for s, some in runs.items()]

    def taps(self) -> list[Row]:
        """Return what STPM costs with one to three taps; nothing after the last is computed."""
        models = [stpm(f"stpm-taps{count}", taps=taps) for count, taps in enumerate(TAPS, start=1)]
        return [{"taps": taps, "rows": self.scaled(model)} for taps, model in zip(TAPS, models, strict=True)]

    def batches(self) -> list[Row]:
        """Return what STPM costs a call at each batch size."""
        runs = {batch: max(30, self.runs // batch) for batch in BATCHES}
        return [{"batch": batch, "rows": self.scaled(stpm(), batch=batch, runs=some)} for batch, some in runs.items()]

    def thread_counts(self) -> list[Row]:
        """Return what STPM costs with one thread and with more."""
        counts = range(1, self.threads + 1)
        return [{"threads": count, "rows": self.scaled(stpm(), eager=True, threads=count)} for count in counts]

    def steady(self) -> Row:
        """Return how slow the fastest backend's slowest calls are, and whether memory grows.

        Memory is watched with the small teacher: ten times as many calls in the same time.
        """
        prepared = self.prepare(stpm())
        rows = [row for row in self.time(prepared, candidates(prepared), runs=60) if not row["error"]]
        backend, precision = min(rows, key=lambda row: row["p50_ms"])["name"].split()
        fastest = ((backend, precision),)
        (row,) = self.time(prepared, candidates(prepared, only=fastest), runs=STEADY_CALLS)
        small = self.prepare(stpm_lite0())
        calls = [GROWTH_CALLS // 10, GROWTH_CALLS]
        peaks = [self.time(small, candidates(small, only=fastest), runs=runs)[0]["peak_memory_mb"] for runs in calls]
        return {**row, "growth_calls": calls, "peak_memory_mb_after": peaks}

    def cold(self) -> list[Row]:
        """Return the time from import to first verdict, with and without compiled models."""
        prepared, found = self.prepare(stpm()), []
        for backend, precision in (*_SCALED, ("auto", None)):
            cache = self.work / "cold-cache"
            shutil.rmtree(cache, ignore_errors=True)
            arguments = {"bundle": str(prepared.bundle), "backend": backend, "precision": precision}
            name = f"{backend} {precision or ''}".strip()
            candidate = Candidate(name, "benchmarks.timing.loaders:bundle", {**arguments, "cache": str(cache)})
            first, *again = [self.time(prepared, [candidate], runs=1)[0]["load_ms"] for _ in range(6)]
            row = {"name": name, "first_ms": first, "cached_ms": float(np.median(again))}
            found.append({**row, **golden_cost(prepared.bundle, backend, precision, self.threads)})
        return found

    def shared(self) -> Row:
        """Return what eight bundles with one teacher cost, loaded one by one and together."""
        return measure(make_bundles(self.data, self.work / "shared", PRODUCTS), threads=self.threads, runs=self.runs)

    def prepare(self, model: BenchmarkModel) -> Prepared:
        """Train and export, or take what is there."""
        return prepare_bundle(model, self.data, self.work)

    def scaled(self, model: BenchmarkModel, *, eager: bool = False, **options: Any) -> list[Row]:
        """Time the few backends whose scaling is shown."""
        prepared = self.prepare(model)
        return self.time(prepared, candidates(prepared, eager=eager, only=_SCALED), **options)

    def time(self, prepared: Prepared, timed: list[Candidate], **options: Any) -> list[Row]:
        """Time candidates on the bundle's golden images."""
        images: NDArray[np.uint8] = open_bundle(prepared.bundle).golden().images
        options = {"threads": self.threads, "runs": self.runs, **options}
        return [asdict(row) for row in time_in_turns(timed, images, **options)]


def golden_cost(bundle: Path, backend: str, precision: str | None, threads: int) -> Row:
    """Return what comparing the golden images adds to every load: their number, the median time."""
    opened = open_bundle(bundle)
    with runtime.load(bundle, backend, threads, precision=precision) as detector:
        times = []
        for _ in range(6):
            started = time.perf_counter()
            GoldenCheck(opened).require(detector.backend, detector.precision)
            times.append((time.perf_counter() - started) * 1e3)
    return {"golden_images": len(opened.manifest.golden), "golden_ms": float(np.median(times))}


def main() -> None:
    """Measure the parts that are asked for."""
    parser = parser_of(__doc__, "data", threads=2, runs=200)
    parser.add_argument("--work", type=Path, default=Path("cpu-work"), help="Where bundles are kept.")
    parser.add_argument("--parts", help="Comma-separated; default: all.")
    arguments = parser.parse_args()
    os.environ.setdefault("KDX_CACHE_DIR", str(arguments.work.resolve() / "cache"))
    identity = {"machine": machine_of(arguments.threads, _PACKAGES), "settings": {}}
    result = Result.resume("cpu", identity, {"runs": arguments.runs})
    run_parts(result, CpuBenchmark(arguments).parts(), arguments.parts)
