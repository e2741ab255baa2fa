"""What the CPU runtimes cost, all of it by one command: methods, stages, scaling, steadiness, cold start, sharing.

    python -m benchmarks cpu DATA [--work DIR] [--threads 2] [--runs 200] [--parts methods,stages,...]

DATA is what ``kdx train`` takes. Every candidate runs in a process of its own, in turns (``turns.py``), from the uint8
array of the camera to the verdict. Weights are random: latency does not depend on them; variants are those that passed
their gate all the same. What is prepared is kept in --work. Writes ``results/cpu.json``, a part at a time, and the
plots; ``python -m benchmarks tables`` writes the README's tables from it. Wants a quiet machine and about half an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

import kdx as runtime
from benchmarks.commands import RESULTS, kdx, write
from benchmarks.cpu.models import (
    Prepared,
    candidates,
    fastest_way,
    methods,
    prepare,
    stpm,
    stpm_lite0,
    with_cache,
)
from benchmarks.cpu.plot import plot_methods, plot_scaling
from benchmarks.cpu.shared_teacher import make_bundles
from benchmarks.cpu.shared_teacher import measure as measure_shared
from benchmarks.timing.turns import Candidate, time_in_turns
from kdx.bundle.open import open_bundle
from kdx.runtime.latency import describe_machine
from kdx.verification.golden import check_golden, require_passed

SIZES = (128, 256, 512, 1024)
BATCHES = (1, 2, 4, 8, 16, 32)
TAPS = ("layer1", "layer1,layer2", "layer1,layer2,layer3")
PRODUCTS = 8
STEADY_CALLS, GROWTH_CALLS = 2000, 20000
_PACKAGES = ("kdx", "numpy", "onnxruntime", "openvino", "scipy", "timm", "torch")
_SCALED = (("onnxruntime-cpu", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "int8"))
Row = dict[str, Any]


class Suite:
    """One run of the benchmark.

    Args:
        data: What ``kdx train`` takes.
        work: Where bundles are kept.
        threads: Of every candidate.
        runs: Counted calls of each.
        again: Models of the part ``methods`` to measure again, and no others; empty for all.
    """

    def __init__(self, data: Path, work: Path, threads: int, runs: int, again: tuple[str, ...] = ()) -> None:
        self.data, self.work, self.threads, self.runs = data.resolve(), work.resolve(), threads, runs
        self.again = again

    def parts(self) -> dict[str, Callable[[], Any]]:
        """Return what is measured, by its name in the record."""
        return {
            "methods": self.methods,
            "stages": self.stages,
            "sizes": self.sizes,
            "taps": self.taps,
            "batches": self.batches,
            "threads": self.thread_counts,
            "steady": self.steady,
            "cold": self.cold,
            "shared": self.shared,
        }

    def methods(self) -> list[Row]:
        """Return each method's backends against its own eager loop."""
        found = [model for model in read().get("methods", []) if self.again and model["name"] not in self.again]
        chosen = [model for model in methods() if not self.again or model.name in self.again]
        for prepared in [prepare(model, self.data, self.work) for model in chosen]:
            rows = self.time(prepared, candidates(prepared, eager=True))
            manifest = open_bundle(prepared.bundle).manifest
            found.append(
                {
                    "name": prepared.model.name,
                    "method": prepared.model.method,
                    "backbone": manifest.provenance.backbone,
                    "camera": prepared.model.camera,
                    "map_size": manifest.map_size[0],
                    "refused": prepared.refused,
                    "rows": rows,
                }
            )
        return sorted(found, key=lambda model: model["name"])

    def stages(self) -> Row:
        """Return where each backend spends STPM's time."""
        record: Row = kdx("bench", self.stpm().bundle, "--profile", "--threads", str(self.threads))
        return {"stages": record["stages"]}

    def sizes(self) -> list[Row]:
        """Return what STPM costs against its image size."""
        found = []
        for side in SIZES:
            prepared = prepare(stpm(f"stpm-{side}", side=side), self.data, self.work)
            rows = self.time(prepared, candidates(prepared, only=_SCALED), runs=max(40, self.runs * 256 // side // 2))
            found.append({"side": side, "rows": rows})
        return found

    def taps(self) -> list[Row]:
        """Return what STPM costs with one, two and three taps: what lies behind the last is not computed."""
        found = []
        for taps in TAPS:
            prepared = prepare(stpm(f"stpm-taps{taps.count(',') + 1}", taps=taps), self.data, self.work)
            found.append({"taps": taps, "rows": self.time(prepared, candidates(prepared, only=_SCALED))})
        return found

    def batches(self) -> list[Row]:
        """Return what STPM costs a call at each batch size."""
        ways = candidates(self.stpm(), only=_SCALED)
        return [
            {"batch": batch, "rows": self.time(self.stpm(), ways, batch=batch, runs=max(30, self.runs // batch))}
            for batch in BATCHES
        ]

    def thread_counts(self) -> list[Row]:
        """Return what STPM costs with one thread and with all."""
        return [
            {
                "threads": threads,
                "rows": self.time(self.stpm(), candidates(self.stpm(), eager=True, only=_SCALED), threads=threads),
            }
            for threads in range(1, self.threads + 1)
        ]

    def steady(self) -> Row:
        """Return how the fastest way's slowest calls compare with its median, and whether memory grows.

        Memory is watched on the small teacher: ten times as many calls in the same time.
        """
        fastest = (self.fastest(),)
        (row,) = self.time(self.stpm(), candidates(self.stpm(), only=fastest), runs=STEADY_CALLS)
        small = prepare(stpm_lite0(), self.data, self.work)
        (way,) = candidates(small, only=fastest)
        return {**row, **memory_growth(way, self.images(small), self.threads)}

    def cold(self) -> list[Row]:
        """Return the time from the beginning of the import to the first verdict, with and without compiled models."""
        found = []
        for backend, precision in (*_SCALED, ("auto", "")):
            cache = self.work / "cold-cache"
            shutil.rmtree(cache, ignore_errors=True)
            arguments = {"bundle": str(self.stpm().bundle), "backend": backend, "precision": precision or None}
            candidate = with_cache(
                Candidate(f"{backend} {precision}".strip(), "benchmarks.cpu.loaders:bundle", arguments), cache
            )
            first, *again = [self.time(self.stpm(), [candidate], runs=1)[0]["load_ms"] for _ in range(6)]
            row = {"name": candidate.name, "first_ms": first, "cached_ms": float(np.median(again))}
            found.append({**row, **golden_cost(self.stpm().bundle, backend, precision or None, self.threads)})
        return found

    def shared(self) -> Row:
        """Return what eight bundles with one teacher cost, loaded one by one and together."""
        folder = self.work / "shared"
        bundles = {f"product{number}": folder / f"product{number}.kdx" for number in range(1, PRODUCTS + 1)}
        if not all(bundle.is_dir() for bundle in bundles.values()):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            bundles = make_bundles(self.data, folder, PRODUCTS)
        return measure_shared(bundles, threads=self.threads, runs=self.runs)

    def stpm(self) -> Prepared:
        """Return the bundle that most parts are about."""
        return prepare(stpm(), self.data, self.work)

    def fastest(self) -> tuple[str, str]:
        """Return STPM's fastest backend and precision."""
        return fastest_way(self.time(self.stpm(), candidates(self.stpm()), runs=60))

    def images(self, prepared: Prepared) -> NDArray[np.uint8]:
        """Return the golden images."""
        return open_bundle(prepared.bundle).golden().images

    def time(
        self,
        prepared: Prepared,
        ways: list[Candidate],
        *,
        batch: int = 1,
        runs: int | None = None,
        threads: int | None = None,
    ) -> list[Row]:
        """Time candidates on the bundle's golden images."""
        timed = time_in_turns(
            ways, self.images(prepared), threads=threads or self.threads, runs=runs or self.runs, batch=batch
        )
        return [asdict(row) for row in timed]


def keep_parts(record: Row, machine: Row) -> Row:
    """Return what was measured before on the same machine, with the same packages: one record is of one machine."""
    if record.get("machine") in (None, machine):
        return {**record, "machine": machine}
    print("what was measured before was on another machine or with other packages and is not kept", flush=True)
    return {"machine": machine}


def golden_cost(bundle: Path, backend: str, precision: str | None, threads: int) -> Row:
    """Return what comparing the golden images adds to every load: how many there are, and the median time."""
    opened = open_bundle(bundle)
    with runtime.load(bundle, backend, threads, precision=precision) as detector:
        times = []
        for _ in range(6):
            started = time.perf_counter()
            require_passed(opened, check_golden(opened, detector.backend, detector.precision))
            times.append((time.perf_counter() - started) * 1e3)
    return {"golden_images": len(opened.manifest.golden), "golden_ms": float(np.median(times))}


def memory_growth(candidate: Candidate, images: NDArray[np.uint8], threads: int) -> Row:
    """Return the peak memory of a worker after a tenth of many calls, and after all of them."""
    peaks = [
        time_in_turns([candidate], images, threads=threads, runs=calls)[0].peak_memory_mb
        for calls in (GROWTH_CALLS // 10, GROWTH_CALLS)
    ]
    return {"growth_calls": [GROWTH_CALLS // 10, GROWTH_CALLS], "peak_memory_mb_after": peaks}


def matrix_product_gflops(size: int = 2048, repeats: int = 15) -> float:
    """Return what this machine's cores reach in a large FP32 matrix product: the ceiling of any FP32 convolution."""
    a, b = (np.random.default_rng(seed).random((size, size), dtype=np.float32) for seed in (0, 1))
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        _ = a @ b
        times.append(time.perf_counter() - started)
    return round(2 * size**3 / float(np.median(times)) / 1e9, 1)


def main() -> None:
    """Measure the parts that are asked for, and write after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("cpu-work"), help="Where bundles are kept.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--parts", help="Comma-separated; default: all.")
    parser.add_argument("--again", default="", help="Models of the part methods to measure again; others are kept.")
    parser.add_argument("--plot", action="store_true", help="Measure nothing; draw what was measured.")
    arguments = parser.parse_args()
    os.environ.setdefault("KDX_CACHE_DIR", str(arguments.work.resolve() / "cache"))
    again = tuple(name for name in arguments.again.split(",") if name)
    suite = Suite(arguments.data, arguments.work, arguments.threads, arguments.runs, again)
    parts = suite.parts()
    chosen = arguments.parts.split(",") if arguments.parts else list(parts)
    if unknown := set(chosen) - set(parts):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    machine = describe_machine(arguments.threads, {package: version(package) for package in _PACKAGES})
    for name in [] if arguments.plot else chosen:
        print(f"== {name}", flush=True)
        found = parts[name]()
        record = keep_parts(read(), msgspec.to_builtins(machine))
        if name == "methods":
            record["matrix_product_gflops"] = matrix_product_gflops()
        record[name] = found
        write("cpu.json", record)
    record = read()
    if "methods" in record:
        plot_methods(record, RESULTS / "cpu_methods")
    if len({"sizes", "batches", "threads", "taps"}.intersection(record)) > 1:
        plot_scaling(record, RESULTS / "cpu_scaling")


def read() -> dict[str, Any]:
    """Return what was measured before."""
    file = RESULTS / "cpu.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


if __name__ == "__main__":
    main()
