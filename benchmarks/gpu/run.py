"""Every method on this machine's GPU, by every installed backend: parity first, then latency.

    python -m benchmarks gpu [DATA] [--methods NAME] [--backends NAME] [--minutes 5] [--out FILE]
        [--engine-python COMMAND]

Needs an NVIDIA GPU, a CUDA build of PyTorch, timm, and ONNX Runtime of any kind, which checks the
graphs; ONNX Runtime for CUDA, TensorRT and TensorRT for RTX are timed where they are installed.
Weights are random; images come from DATA (any folder of good parts) or the package elpv-dataset.
Where TensorRT belongs to another Python, as on JetPack, --engine-python names that interpreter: it
needs kdx, numpy, cuda-bindings, TensorRT, and onnx for TensorRT 8.6.

Every candidate has a process of its own, and is compared with FP32 PyTorch on real images first.
Then they take turns: compute alone on images that lie on the device, and end to end from the host's
array to the verdict, 1000 calls of each kind at batch 1, as in EfficientAD's protocol, fewer at
larger ones. The baseline, ``torch-fp32``, is the fused detector in eager FP32 PyTorch on the same
GPU, TensorFloat-32 off, with a fifth of the calls. ``jobs.py`` has the order of work. A second call
with the same machine, packages, sources and settings measures what is missing.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from benchmarks.commands import RESULTS, environment
from benchmarks.gpu.candidates import EAGER, GpuCandidate, find_candidates
from benchmarks.gpu.gpu_machine import machine, sources
from benchmarks.gpu.jobs import COMPACT, Deadline, GpuBenchmark, order_methods, plan
from benchmarks.gpu.models import real_images
from benchmarks.gpu.result_store import Store
from benchmarks.timing.process import WorkerProcess
from kd_train.methods import methods
from kdx.errors import BackendError, KdxError, OptionError
from kdx.runtime.machine import usable_cores
from kdx.storage.cache import cache_folder
from kdx.storage.files import sha256_bytes
from kdx.storage.json_records import now

_MARGIN_S = 5.0  # for writing, and for leaving


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=None, help="Real images. Default: solar cells.")
    parser.add_argument("--methods", default="", help="Some of the methods, with commas.")
    parser.add_argument("--backends", default="", help="Some of the backends, with commas; the baseline always runs.")
    parser.add_argument("--batches", default="1,8,32", help="Batch sizes, 1 to 32.")
    parser.add_argument("--minutes", type=float, default=5.0, help="Stop after so long; call again for the rest.")
    parser.add_argument("--runs", type=int, default=1000, help="Warm-up and counted calls at batch 1.")
    parser.add_argument("--engine-python", default="", help="The interpreter that has TensorRT, if not this one.")
    parser.add_argument("--out", type=Path, default=None, help="Default: results/gpu-NAME.json beside this script.")
    parser.add_argument("--work", type=Path, default=None, help="Keep graphs and engines here. Default: kdx's cache.")
    parser.add_argument("--fresh", action="store_true", help="Begin again; the old file becomes FILE.old.")
    for hidden, kind, default in (("--device", str, "cuda"), ("--backbone", str, ""), ("--size", int, 0)):
        parser.add_argument(hidden, type=kind, default=default, help=argparse.SUPPRESS)  # to try this script itself
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what is missing."""
    try:
        measure(parse(argv))
    except KdxError as error:
        sys.exit(str(error))


def measure(arguments: argparse.Namespace) -> None:
    """Compare and time in the minutes that were given, and print the table."""
    started = time.monotonic()
    deadline = Deadline(started + 60 * arguments.minutes - _MARGIN_S)
    names = chosen(arguments.methods, [*methods(), COMPACT], "method")
    candidates = chosen_candidates(arguments)
    host = machine()
    if host["gpu"] is None and arguments.device != "cpu":
        raise BackendError("the driver shows no NVIDIA GPU on this machine", fix="see what nvidia-smi lists")
    identity = {"machine": host, "sources": sources(), "settings": settings(arguments)}
    gpu = re.sub(r"[^a-z0-9]+", "-", (host["gpu"] or "none").lower()).strip("-")
    path = arguments.out or RESULTS / f"gpu-{gpu}.json"
    store = Store.resume("gpu", identity, {"minutes": arguments.minutes}, path=path, fresh=arguments.fresh)
    call: dict[str, Any] = {"started": now(), "minutes": arguments.minutes}
    backends = {candidate.name: candidate.absent or "here" for candidate in candidates}
    store.put(complete=False, backends=backends, calls=[*store.found.get("calls", []), call])
    batches = [int(batch) for batch in arguments.batches.split(",")]
    with Models(order_methods(names), arguments, deadline) as models:
        benchmark = GpuBenchmark(
            {candidate.name: candidate for candidate in candidates}, store, deadline,
            lambda candidate: start_worker(candidate, models.work), models.folder, models.wait, arguments.runs,
            arguments.device,
        )  # fmt: skip
        benchmark.run(plan(names, candidates, batches))
    call["seconds"] = round(time.monotonic() - started, 1)
    store.save()
    print("\n".join(["", *store.record["table"]]))
    print(f"\nwrote {path}" + ("" if store.found["complete"] else "; not all was measured in time: call again"))


def start_worker(candidate: GpuCandidate, work: Path) -> WorkerProcess:
    """Start a candidate's process."""
    variables = environment() | ({"NVIDIA_TF32_OVERRIDE": "0"} if "onnxruntime-tensorrt" in candidate.name else {})
    return WorkerProcess("benchmarks.gpu.worker", work / f"{candidate.name}.log", variables, candidate.python)


class Models:
    """The models' bundles, which processes of their own write, several at a time.

    They are kept in a folder, by the sources, images and settings that they are made of. ``names``
    are in the order in which they are needed.
    """

    def __init__(self, names: Sequence[str], arguments: argparse.Namespace, deadline: Deadline) -> None:
        parent = (arguments.work or (cache_folder() or Path.cwd()) / "gpu-benchmark").resolve()
        parent.mkdir(parents=True, exist_ok=True)
        files = real_images(arguments.data, parent)
        # Weights are scaled on the images, so other images make other networks.
        pixels = [sha256_bytes(file.read_bytes()) for file in files]
        decisive = repr((sources(), pixels, arguments.backbone, arguments.size))
        self.work = parent / sha256_bytes(decisive.encode())[:16]
        self.work.mkdir(exist_ok=True)
        paths = [str(file.resolve()) for file in files]
        self._about = {"files": paths, "backbone": arguments.backbone, "size": arguments.size}
        self._deadline = deadline
        workers = max(1, min(len(names), usable_cores() // 2))
        self._threads = max(1, usable_cores() // workers)
        self._writers: list[WorkerProcess] = []
        self._pool = ThreadPoolExecutor(workers)
        self._written: dict[str, Future[Path]] = {name: self._pool.submit(self._write, name) for name in names}

    def __enter__(self) -> Models:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in self._writers:  # after Ctrl-C, too
            process.close()

    def folder(self, name: str) -> Path:
        """Return a model's bundle when it is written."""
        return self._written[name].result()

    def wait(self) -> None:
        """Wait until all are written."""
        wait(self._written.values())

    def _write(self, name: str) -> Path:
        folder = self.work / f"{name}.kdx"
        if not folder.exists():
            # An export is checked in all backends; those of the GPU are checked as candidates here.
            variables = environment(self._threads) | {"CUDA_VISIBLE_DEVICES": ""}
            process = WorkerProcess("benchmarks.gpu.models", self.work / f"{name}.log", variables)
            self._writers.append(process)
            process.tell({"name": name, "folder": str(folder), **self._about})
            process.hear(self._deadline.left)
            process.close()
        return folder


def chosen(wanted: str, known: Iterable[str], what: str) -> list[str]:
    """Return the names in a text with commas, or all."""
    known = list(known)
    names = [name for name in wanted.split(",") if name] or known
    if unknown := [name for name in names if name not in known]:
        raise OptionError(f"there is no {what} '{unknown[0]}'", expected=", ".join(sorted(known)))
    return names


def chosen_candidates(arguments: argparse.Namespace) -> list[GpuCandidate]:
    """Return the candidates of the backends that were asked for, and the baseline."""
    found = find_candidates(arguments.device, shlex.split(arguments.engine_python))
    backends = chosen(arguments.backends, {candidate.backend for candidate in found}, "backend")
    return [candidate for candidate in found if candidate.backend in backends or candidate.name == EAGER]


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options that decide what a row means."""
    data = "elpv-dataset" if arguments.data is None else arguments.data.name
    names = ("runs", "device", "backbone", "size", "engine_python")
    return {"images": data, **{name: getattr(arguments, name) for name in names}}
