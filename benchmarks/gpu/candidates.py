"""What the GPU benchmark times: every backend and precision, and how it is loaded."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kdx.errors import BackendError
from kdx.runtime.backend_table import BACKENDS
from kdx.runtime.gpu import gpus

if TYPE_CHECKING:
    from benchmarks.gpu.models import ReferenceModel

EVENTS, HOST = "CUDA events", "host clock"
EAGER = "torch-fp32"

_NEEDS_CUDA = "it needs a CUDA device"


@dataclass(frozen=True)
class GpuCandidate:
    """One backend in one precision; the name has both.

    Attributes:
        clock: What times its stages.
        seconds: A guess of what loading it takes: building, compiling.
        open: Takes a model and a batch size, and returns a :class:`kdx.runtime.backend.Backend`
            that also has ``compute_only(images, runs)``, in milliseconds.
        absent: Why it cannot run on this machine, or an empty string.
    """

    name: str
    backend: str
    precision: str
    clock: str
    seconds: float
    open: Callable[[ReferenceModel, int], Any]
    absent: str = ""


def find_candidates(device: str, work: Path) -> list[GpuCandidate]:
    """Return every candidate, the best in expectation first; on ``cpu`` to try this script."""
    needs_cuda = _NEEDS_CUDA if device == "cpu" else ""
    return [
        _engine("tensorrt", "tensorrt", "fp16", work, 60),
        _engine("tensorrt-rtx", "rtx", "fp16", work, 15),
        _session("onnxruntime-cuda-graph", "fp16", device, 5, cuda_graph=True),
        GpuCandidate("torch-compile-fp16", "torch-compile", "fp16", EVENTS, 60, _open_compiled, needs_cuda),
        _eager("fp32", device),
        _eager("fp16", device),
        _session("onnxruntime-cuda-graph", "fp32", device, 5, cuda_graph=True),
        _session("onnxruntime-cuda", "fp16", device, 5),
        _session("onnxruntime-cuda", "fp32", device, 5),
        _engine("tensorrt", "tensorrt", "fp32", work, 60),
        _engine("tensorrt-rtx", "rtx", "fp32", work, 15),
        _session("onnxruntime-tensorrt", "fp16", device, 60, cuda_graph=True),
        _session("onnxruntime-tensorrt", "fp32", device, 60, cuda_graph=True),
    ]


def release() -> None:
    """Release what closed candidates left: compiled code, and memory that PyTorch keeps."""
    import gc

    import torch

    gc.collect()
    # PyTorch compiles a function for so many modules only, and then runs it eagerly without a word.
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_device_well() -> bool:
    """Whether the CUDA device still answers: some errors leave a process without it."""
    import torch

    try:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    except Exception:
        return False
    return True


def _eager(precision: str, device: str) -> GpuCandidate:
    def load(model: ReferenceModel, batch: int) -> Any:
        return _torch(model, precision=precision, device=device)

    return GpuCandidate(f"torch-{precision}", "torch", precision, HOST if device == "cpu" else EVENTS, 5, load)


def _open_compiled(model: ReferenceModel, batch: int) -> Any:
    return _torch(model, precision="fp16", compile_mode="reduce-overhead")


def _torch(model: ReferenceModel, **options: Any) -> Any:
    from kdx.runtime.torch.cuda import TorchCuda

    return TorchCuda(model.detector, **options)


def _session(backend: str, precision: str, device: str, seconds: float, *, cuda_graph: bool = False) -> GpuCandidate:
    info = BACKENDS["onnxruntime-tensorrt" if backend == "onnxruntime-tensorrt" else "onnxruntime-cuda"]
    absent = _why_absent(info)
    if device == "cpu":  # this class runs there too; graphs and TensorRT do not
        absent = _NEEDS_CUDA if cuda_graph else ""

    def load(model: ReferenceModel, batch: int) -> Any:
        from kdx.runtime.onnxruntime.cuda import CUDA, TENSORRT
        from kdx.runtime.onnxruntime.session import CPU

        provider = TENSORRT if backend == "onnxruntime-tensorrt" else CUDA
        return _session_class()(
            model.bundle().graph_of(precision),
            provider=CPU if device == "cpu" else provider,
            cuda_graph=cuda_graph,
        )

    return GpuCandidate(f"{backend}-{precision}", backend, precision, HOST, seconds, load, absent)


def _session_class() -> Any:
    from kdx.runtime.onnxruntime.cuda import OnnxRuntimeCuda

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

    return TimedSession


def _engine(backend: str, flavour: str, precision: str, work: Path, seconds: float) -> GpuCandidate:
    info = BACKENDS[backend]

    def load(model: ReferenceModel, batch: int) -> Any:
        from kd_export.engine.build import EngineRequest, build_engine

        bundle = model.bundle_for_engine(batch)
        graph = bundle.graph_of(precision)
        with suppress(BackendError):  # of an earlier call
            return info.open(graph, None)
        cache = work / "timing.cache" if flavour == "tensorrt" else None
        request = EngineRequest(flavour, precision, (batch,), timing_cache=cache)
        build_engine(bundle, request, force=True)
        return info.open(graph, None)

    return GpuCandidate(f"{backend}-{precision}", backend, precision, EVENTS, seconds, load, _why_absent(info))


def _why_absent(info: Any) -> str:
    if not info.is_installed():
        return f"not installed: {info.install}"
    if not gpus():
        return "the driver shows no NVIDIA GPU"
    if info.engine == "rtx":
        from kd_export.engine.flavours import RTX_CAPABILITIES

        here = gpus()[0].compute_capability
        if here not in RTX_CAPABILITIES:
            return f"TensorRT for RTX does not serve compute capability {here}, only {', '.join(RTX_CAPABILITIES)}"
    return ""
