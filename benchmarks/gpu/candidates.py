"""What the GPU benchmark times: every backend and precision, and how a process loads it.

Nothing here needs PyTorch: an engine is built and loaded where TensorRT is.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.commands import ROOT, environment
from kd_export.engine.build import EngineRequest, build_engine
from kd_export.engine.flavours import RTX_CAPABILITIES
from kdx.bundle.bundle import Bundle
from kdx.bundle.open import open_bundle
from kdx.errors import BackendError
from kdx.runtime.backend_table import BACKENDS
from kdx.runtime.gpu import gpus
from kdx.runtime.tensorrt.backend import tensorrt_machine
from kdx.storage.files import sha256_bytes

KERNELS = "kernels-fp16"
EAGER = "torch-fp32"
# The best in expectation of each runtime, beside the baseline.
LEAD = (EAGER, "torch-compile-fp16", "onnxruntime-cuda-graph-fp16", "tensorrt-fp16", "tensorrt-rtx-fp16")
# These load in seconds. The second computes what it computes with graphs.
COMPARED_FIRST = (EAGER, "onnxruntime-cuda-fp16")
# Guesses of the seconds that building or compiling takes.
_SECONDS = {
    "torch": 5, "torch-compile": 60, "onnxruntime-cuda-graph": 5, "onnxruntime-cuda": 5, "tensorrt": 60,
    "tensorrt-rtx": 15, "onnxruntime-tensorrt": 60, "kernels": 60,
}  # fmt: skip
_ENGINES = {"tensorrt": "tensorrt", "tensorrt-rtx": "rtx"}
# These time their kernels while they load, so nothing else may run on the GPU meanwhile.
TIME_KERNELS = ("tensorrt", "onnxruntime-tensorrt")


@dataclass(frozen=True)
class GpuCandidate:
    """One backend in one precision.

    ``seconds`` is a guess of what loading it takes, ``absent`` says why it cannot run here, and
    ``python`` is the command of another interpreter.
    """

    backend: str
    precision: str
    seconds: float = 5.0
    absent: str = ""
    python: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The backend and the precision."""
        return f"{self.backend}-{self.precision}"


def find_candidates(device: str, engine_python: Sequence[str] = ()) -> list[GpuCandidate]:
    """Return every candidate; ``engine_python`` starts the interpreter of TensorRT, if another."""
    found = []
    for backend, seconds in _SECONDS.items():
        python = tuple(engine_python) if backend == "tensorrt" else ()
        absent = _why_absent(backend, device, python)
        precisions = ("fp16",) if backend in {"torch-compile", "kernels"} else ("fp32", "fp16")
        found += [GpuCandidate(backend, precision, seconds, absent, python) for precision in precisions]
    return found


def clock_of(backend: str, device: str) -> str:
    """Return what times a backend's stages."""
    return "host clock" if device == "cpu" or backend.startswith("onnxruntime") else "CUDA events"


def load(backend: str, precision: str, folder: Path, batch: int, device: str) -> Any:
    """Load a method's bundle as a backend that also has ``compute_only(images, runs)``."""
    if backend.startswith("torch"):
        from kdx.runtime.torch.cuda import TorchCuda

        mode = "reduce-overhead" if backend == "torch-compile" else None
        return TorchCuda(load_detector(folder), precision=precision, compile_mode=mode, device=device)  # type: ignore[arg-type]
    bundle = open_bundle(folder)
    if backend in _ENGINES:
        return _load_engine(backend, precision, bundle, batch)
    return _load_session(backend, precision, bundle, device)


def load_detector(folder: Path) -> Any:
    """Return the fused detector from which a bundle was exported."""
    import torch

    from kd_train.models.torch_vision import import_timm

    import_timm()
    return torch.load(folder.with_suffix(".pt"), weights_only=False)  # written by this benchmark


def _load_session(backend: str, precision: str, bundle: Bundle, device: str) -> Any:
    from kdx.runtime.onnxruntime.cuda import CUDA, TENSORRT, OnnxRuntimeCuda
    from kdx.runtime.onnxruntime.session import CPU

    class TimedSession(OnnxRuntimeCuda):
        """A session timed by the host's clock: each call ends when the device is done."""

        def compute_only(self, images: NDArray[np.uint8], runs: int) -> list[float]:
            """Return the milliseconds of runs on images ``(N, H, W, C)`` that lie on the device."""
            with self._lock:
                session = self._session
                if session is None:
                    raise BackendError("the detector is closed")
                bound = self._bound.get(len(images)) or self._bind(session, len(images))
                bound.image.update_inplace(images)
                times = []
                for _ in range(runs):
                    started = time.perf_counter()
                    session.run_with_iobinding(bound.binding, bound.options)
                    times.append((time.perf_counter() - started) * 1e3)
                return times

    if device != "cpu":
        with suppress(ImportError):
            import torch  # noqa: F401 - CUDA's libraries may lie where ONNX Runtime does not look
    has_graph = backend in {"onnxruntime-cuda-graph", "onnxruntime-tensorrt"}
    provider = CPU if device == "cpu" else TENSORRT if backend == "onnxruntime-tensorrt" else CUDA
    return TimedSession(bundle.graph_of(precision), provider=provider, cuda_graph=has_graph)


def _load_engine(backend: str, precision: str, bundle: Bundle, batch: int) -> Any:
    # A bundle of its own for the engines of one batch size.
    folder = bundle.path.with_name(f"{bundle.path.stem}-{backend}-batch{batch}.kdx")
    shutil.copytree(bundle.path, folder, dirs_exist_ok=True)  # also over one that was cut off
    bundle = Bundle(folder, bundle.manifest)
    graph = bundle.graph_of(precision)
    with suppress(BackendError):  # of an earlier call
        return BACKENDS[backend].open(graph, None)
    cache = None
    if backend == "tensorrt":  # which takes timings of its own version and card alone
        cache = folder.parent / f"timing-{sha256_bytes(repr(tensorrt_machine()).encode())[:16]}.cache"
    build_engine(bundle, EngineRequest(_ENGINES[backend], precision, (batch,), timing_cache=cache), force=True)
    return BACKENDS[backend].open(graph, None)


def _why_absent(backend: str, device: str, python: Sequence[str]) -> str:
    if device == "cpu":  # to try the benchmark; graphs and TensorRT need CUDA
        return "" if backend in {"torch", "onnxruntime-cuda"} else "it needs a CUDA device"
    if backend.startswith(("torch", "kernels")):
        return ""
    if not gpus():
        return "the driver shows no NVIDIA GPU"
    if python:
        return why_unusable(python)
    info = BACKENDS[backend.removesuffix("-graph")]
    if not info.is_installed():
        return f"not installed: {info.install}"
    if backend == "onnxruntime-tensorrt":
        # PyTorch is loaded here, and with it the libraries of CUDA.
        from kdx.runtime.onnxruntime.cuda import TENSORRT, missing_library

        return missing_library(TENSORRT)
    here = gpus()[0].compute_capability
    if info.engine == "rtx" and here not in RTX_CAPABILITIES:
        return f"TensorRT for RTX does not serve compute capability {here}, only {', '.join(RTX_CAPABILITIES)}"
    return ""


def why_unusable(python: Sequence[str]) -> str:
    """Say what an interpreter lacks to build and run engines, or return an empty string."""
    command = [*python, "-c", "import tensorrt, cuda.bindings.driver, benchmarks.gpu.worker"]
    try:
        paths = {**environment(), "PYTHONPATH": str(ROOT)}  # as a WorkerProcess has
        done = subprocess.run(command, env=paths, capture_output=True, encoding="utf-8", check=False)
    except OSError as error:
        return f"{command[0]} does not start: {error}"
    return f"in {command[0]}: {done.stderr.strip().split(chr(10))[-1]}" if done.returncode else ""
