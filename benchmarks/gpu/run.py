"""Every method on this machine's GPU, by every installed backend: parity first, then latency.

    python -m benchmarks gpu [DATA] [--methods NAME] [--backends NAME] [--minutes 8] [--out FILE]

Needs an NVIDIA GPU, a CUDA build of PyTorch and timm; ONNX Runtime, TensorRT and TensorRT for RTX
are timed where they are installed. Weights are random; images come from DATA (any folder of good
parts) or from the package elpv-dataset.

Each candidate is first compared with FP32 PyTorch on real images; one that fails is not timed. Then
all take turns: compute alone on images that lie on the device, and end to end from the host's array
to the verdict, 1000 calls of each kind at batch 1, as in EfficientAD's protocol, fewer at larger
ones. The baseline, ``eager``, is the fused detector in eager FP32 PyTorch on the same GPU,
TensorFloat-32 off; it runs beside candidates that are timed later, with a fifth of the calls.

The result is written after every job. A second call with the same machine, packages, sources and
settings measures what is missing, whatever ended the first. A backend that brings the process down
costs its own row and no other.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.commands import RESULTS, environment
from benchmarks.gpu.candidates import GpuCandidate, find_candidates
from benchmarks.gpu.gpu_machine import machine, sources
from benchmarks.gpu.jobs import KERNELS, RESTART, Deadline, order_methods, plan, run_jobs
from benchmarks.gpu.result_store import NOT_RUN, Store, row_of
from benchmarks.gpu.table import gpu_lines
from kd_train.methods import methods
from kdx.errors import BackendError, KdxError, OptionError
from kdx.runtime.machine import usable_cores
from kdx.storage.cache import cache_folder
from kdx.storage.files import sha256_bytes
from kdx.storage.json_records import now

MARGIN_S = 5.0  # for writing, and for leaving
_CRASHES = 12


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=None, help="Real images. Default: solar cells.")
    parser.add_argument("--methods", default="", help="Some of the methods, with commas.")
    parser.add_argument("--backends", default="", help="Some of the backends, with commas; the baseline always runs.")
    parser.add_argument("--batches", default="1,8,32", help="Batch sizes, 1 to 32.")
    parser.add_argument("--minutes", type=float, default=8.0, help="Stop after so long; call again for the rest.")
    parser.add_argument("--runs", type=int, default=1000, help="Warm-up and counted calls at batch 1.")
    parser.add_argument("--out", type=Path, default=None, help="Default: results/gpu-NAME.json beside this script.")
    parser.add_argument("--work", type=Path, default=None, help="Keep graphs and engines here. Default: kdx's cache.")
    parser.add_argument("--fresh", action="store_true", help="Begin again; the old file becomes FILE.old.")
    for hidden, kind, default in (("--device", str, "cuda"), ("--backbone", str, ""), ("--size", int, 0)):
        parser.add_argument(hidden, type=kind, default=default, help=argparse.SUPPRESS)  # to try this script itself
    parser.add_argument("--worker", type=float, default=None, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what is missing."""
    given = list(sys.argv[1:] if argv is None else argv)
    arguments = parse(given)
    try:
        if arguments.worker is not None:
            sys.exit(work(arguments, Deadline(time.monotonic() + arguments.worker)))
        supervise(arguments, given)
    except KdxError as error:
        sys.exit(str(error))


def supervise(arguments: argparse.Namespace, given: Sequence[str]) -> None:
    """Prepare, and let another process do the work, so that this one survives a crash."""
    deadline = Deadline(time.monotonic() + 60 * arguments.minutes)
    host = machine()
    if host["gpu"] is None and arguments.device != "cpu":
        raise BackendError("the driver shows no NVIDIA GPU on this machine", fix="see what nvidia-smi lists")
    identity = {"machine": host, "sources": sources(), "settings": settings(arguments)}
    gpu = re.sub(r"[^a-z0-9]+", "-", (host["gpu"] or "none").lower()).strip("-")
    path = arguments.out or RESULTS / f"gpu-{gpu}.json"
    store = Store.resume("gpu", identity, {"minutes": arguments.minutes}, path=path, fresh=arguments.fresh)
    candidates = chosen_candidates(arguments)
    call = {"started": now(), "minutes": arguments.minutes}
    store.put(
        complete=False,
        backends={candidate.name: candidate.absent or "here" for candidate in candidates},
        calls=[*store.found.get("calls", []), call],
    )
    started = time.monotonic()
    prepare_bundles(arguments, candidates)
    command = [sys.executable, "-m", "benchmarks.gpu.run", *given, "--out", str(path.resolve())]
    watch(lambda seconds: spawn(command, seconds), store, deadline)
    store = Store.load(path)
    store.found["calls"][-1]["seconds"] = round(time.monotonic() - started, 1)
    store.save()
    print("\n".join(["", *gpu_lines(store.record, every=True)]))
    print(f"\nwrote {path}" + ("" if store.found["complete"] else "; not all was measured in time: call again"))


def watch(start: Callable[[float], int | None], store: Store, deadline: Deadline) -> None:
    """Start the worker until it ends by itself; what it was at when it died is not tried again.

    ``start`` runs it for at most so many seconds and returns its exit status; None: it was killed.
    """
    store.mark(None)  # of a call that was killed itself
    for _ in range(_CRASHES):
        if deadline.left < 2 * MARGIN_S:
            return
        status = start(deadline.left)
        current = Store.load(store.path)
        guilty = current.marked()
        current.mark(None)
        if status in {0, None}:
            return
        if status == RESTART:
            continue
        if guilty is None:
            sys.exit(f"the worker ended with status {status} before it began")
        reason = f"it brought the process down: {f'signal {-status}' if status < 0 else f'status {status}'}"
        print(f"  {'/'.join(map(str, guilty))}: {reason}", flush=True)
        if guilty not in current.rows:  # the baseline may have one
            current.put_rows([row_of(guilty, NOT_RUN, reason)])


def spawn(command: Sequence[str], seconds: float) -> int | None:
    """Run the worker; return its exit status, or None where it had to be killed in the end."""
    with subprocess.Popen([*command, "--worker", f"{seconds - MARGIN_S:.1f}"], env=environment()) as process:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            process.kill()


def work(arguments: argparse.Namespace, deadline: Deadline) -> int:
    """Do the jobs; return the exit status."""
    from benchmarks.gpu.models import make_model, real_images

    store = Store.load(arguments.out)
    folder = work_folder(arguments)
    files = real_images(arguments.data, folder)
    candidates = chosen_candidates(arguments)
    batches = [int(batch) for batch in arguments.batches.split(",")]
    jobs = plan(chosen_methods(arguments), candidates, sorted(batches, key=lambda batch: (batch != 1, -batch)))
    run_jobs(
        jobs,
        candidates,
        lambda method: make_model(method, files, folder, arguments.backbone, arguments.size),
        store,
        deadline,
        runs=arguments.runs,
        kernels=time_fused if arguments.device != "cpu" and _wants(arguments, KERNELS) else None,
    )
    return 0


def time_fused(model: Any) -> dict[str, Any]:
    """Time this repository's kernels."""
    from kernels.measure import time_detector

    return time_detector(model.detector, 1)


def prepare_bundles(arguments: argparse.Namespace, candidates: Sequence[GpuCandidate]) -> None:
    """Write the graphs of all methods in parallel, where a backend needs them.

    Else, and where it fails here, a graph is written when it is needed.
    """
    from benchmarks.gpu.models import real_images, write_method_bundle

    folder = work_folder(arguments)
    files = real_images(arguments.data, folder)  # also says early what is wrong with them
    missing = [name for name in chosen_methods(arguments) if not (folder / f"{name}.kdx").exists()]
    workers = min(len(missing), usable_cores() // 2)
    if workers < 2 or not any(c.backend.startswith(("onnx", "tensorrt")) and not c.absent for c in candidates):
        return
    print(f"writing {len(missing)} graphs, {workers} at a time", flush=True)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        options = (files, folder, arguments.backbone, arguments.size, max(1, usable_cores() // workers))
        for name, future in [(name, pool.submit(write_method_bundle, name, *options)) for name in missing]:
            error = future.exception()
            if error is not None:
                print(f"  {name}: {error}", flush=True)


def chosen_methods(arguments: argparse.Namespace) -> list[str]:
    """Return the methods that were asked for, in the order of measuring."""
    known = methods()
    wanted = [name for name in arguments.methods.split(",") if name] or list(known)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise OptionError(f"there is no method '{unknown[0]}'", expected=", ".join(sorted(known)))
    return order_methods(wanted)


def chosen_candidates(arguments: argparse.Namespace) -> list[GpuCandidate]:
    """Return the candidates of the backends that were asked for, and the baseline."""
    found = find_candidates(arguments.device, work_folder(arguments))
    known = {candidate.backend for candidate in found} | {KERNELS}
    unknown = [name for name in arguments.backends.split(",") if name and name not in known]
    if unknown:
        raise OptionError(f"there is no backend '{unknown[0]}'", expected=", ".join(sorted(known)))
    return [c for c in found if _wants(arguments, c.backend) or c.name == "torch-fp32"]


def work_folder(arguments: argparse.Namespace) -> Path:
    """Return where graphs and engines are kept, by the sources and settings they are made of."""
    # Weights are scaled on the images, so other images make other networks.
    data = str(arguments.data.resolve()) if arguments.data else ""
    decisive = sha256_bytes(repr((sources(), data, arguments.backbone, arguments.size)).encode())
    folder: Path = (arguments.work or (cache_folder() or Path.cwd()) / "gpu-benchmark") / decisive[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options that decide what a row means."""
    data = "elpv-dataset" if arguments.data is None else arguments.data.name
    names = ("runs", "device", "backbone", "size")
    return {"images": data, **{name: getattr(arguments, name) for name in names}}


def _wants(arguments: argparse.Namespace, backend: str) -> bool:
    return not arguments.backends or backend in arguments.backends.split(",")


if __name__ == "__main__":
    main()
