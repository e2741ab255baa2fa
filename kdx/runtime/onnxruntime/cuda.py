"""Backends ``onnxruntime-cuda`` and ``onnxruntime-tensorrt``: ONNX Runtime on the GPU."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from kdx.bundle.checked_files import Graph
from kdx.bundle.graph_contract import INPUT, OUTPUTS
from kdx.errors import BackendError, InputError
from kdx.runtime.backend import ClosesOnExit, Outputs
from kdx.runtime.gpu import gpus, why_no_gpu
from kdx.runtime.onnxruntime.session import CPU, open_session

CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

# Each batch size that comes has memory of its own on the GPU; the last ones used keep theirs.
_KEPT_BATCH_SIZES = 4
_INSTALL = 'pip uninstall onnxruntime, then pip install "onnxruntime-gpu[cuda,cudnn]"'
_NO_TF32 = "NVIDIA_TF32_OVERRIDE"
_LIBRARIES = {CUDA: "libonnxruntime_providers_cuda.so", TENSORRT: "libonnxruntime_providers_tensorrt.so"}
# To redirect standard output concerns all threads: of two at once, the second would restore what
# the first redirected to, and everything printed later would be lost.
_PRELOADING = threading.Lock()


def onnxruntime_cuda_backend(graph: Graph, threads: int | None = None) -> OnnxRuntimeCuda:
    """Return the backend ``onnxruntime-cuda``."""
    return OnnxRuntimeCuda(graph, threads)


def onnxruntime_tensorrt_backend(graph: Graph, threads: int | None = None) -> OnnxRuntimeCuda:
    """Return the backend ``onnxruntime-tensorrt``.

    It builds an engine at the first call of each batch size.
    """
    return OnnxRuntimeCuda(graph, threads, provider=TENSORRT)


@dataclass(frozen=True)
class _Bound:
    """Memory on the GPU for one batch size, at fixed addresses, as CUDA graphs require."""

    binding: Any
    image: Any
    outputs: list[Any]
    options: Any


class OnnxRuntimeCuda(ClosesOnExit):
    """A graph in an ONNX Runtime session on the GPU. Calls from several threads take turns.

    The last few batch sizes keep their memory.

    Convolutions and matrix products in FP32 are computed in FP32: TensorFloat-32, ONNX Runtime's
    default, is off. The TensorRT provider has no option for that. It obeys NVIDIA's environment
    variable ``NVIDIA_TF32_OVERRIDE``, which libraries read once, so it must be set before the
    process starts.

    Args:
        graph: The graph, whose checked content is loaded.
        threads: Threads of operations that run on the CPU; None leaves it to ONNX Runtime.
        provider: The provider that must run the graph; operations that it lacks run in the CUDA or
            the CPU provider.
        cuda_graph: Whether ONNX Runtime captures a CUDA graph for each batch size; it refuses to if
            an operation runs on the CPU.

    Raises:
        BackendError: The provider does not work here, and ONNX Runtime would silently use the CPU;
            it would compute in TensorFloat-32; or the graph does not load.
    """

    def __init__(
        self, graph: Graph, threads: int | None = None, *, provider: str = CUDA, cuda_graph: bool = False
    ) -> None:
        self.name = "onnxruntime-tensorrt" if provider == TENSORRT else "onnxruntime-cuda"
        load_failures = require_provider(provider)
        if provider == TENSORRT and os.environ.get(_NO_TF32) != "0":
            raise BackendError(
                f"{provider} would compute FP32 in TensorFloat-32, which rounds operands to 10 bits",
                expected=f"the environment variable {_NO_TF32}=0 before the process starts",
                received=f"{_NO_TF32}={os.environ[_NO_TF32]}" if _NO_TF32 in os.environ else "it is not set",
                fix=f"export {_NO_TF32}=0, which holds for all of NVIDIA's libraries in the process; or use the "
                "backend tensorrt or onnxruntime-cuda",
            )
        session = open_session(
            graph.read(), f"'{graph.path}'", providers=_providers(provider, cuda_graph), threads=threads
        )
        if session.get_providers()[0] != provider:
            raise BackendError(
                f"ONNX Runtime would run '{graph.path.name}' on the CPU: {provider} does not start",
                expected=f"{provider} first",
                received=", ".join(session.get_providers()),
                fix=missing_library(provider) or load_failures or "see the log of ONNX Runtime",
            )
        session.disable_fallback()  # otherwise it would continue on the CPU after an error
        self._device = "cpu" if provider == CPU else "cuda"
        self._cuda_graph = cuda_graph
        self._input_shape = tuple(session.get_inputs()[0].shape[1:])
        self._map_shape = tuple(session.get_outputs()[0].shape[1:])
        self._bound: dict[int, _Bound] = {}
        self._graphs = 0
        self._lock = threading.Lock()
        self._session: ort.InferenceSession | None = session

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """Run a batch; see :class:`kdx.runtime.backend.Backend`.

        Raises:
            InputError: Another type or shape than the graph's.
            BackendError: ONNX Runtime failed; the next call binds memory again.
        """
        if images.dtype != np.uint8 or images.shape[1:] != self._input_shape or not len(images):
            raise InputError(
                "the batch does not fit the graph",
                expected=f"uint8 (N, {', '.join(map(str, self._input_shape))})",
                received=f"{images.dtype} {images.shape}",
            )
        with self._lock:
            session = self._session
            if session is None:
                raise BackendError("the detector is closed", fix="load the bundle again")
            try:
                bound = self._bound.pop(len(images), None) or self._bind(session, len(images))
                # ONNX Runtime up to 1.23 (at least) copies memory here whatever the strides are.
                bound.image.update_inplace(np.ascontiguousarray(images))
                session.run_with_iobinding(bound.binding, bound.options)
                maps, scores = (np.array(output.numpy()) for output in bound.outputs)
            except Exception as error:
                raise BackendError(f"ONNX Runtime failed on a batch of shape {images.shape}: {error}") from error
            self._bound[len(images)] = bound  # as the last one used; after a failure, there is none
            # ONNX Runtime never frees a CUDA graph, and would capture another for new memory.
            if len(self._bound) > _KEPT_BATCH_SIZES and not self._cuda_graph:
                del self._bound[next(iter(self._bound))]
            return Outputs(maps, scores)

    def _bind(self, session: ort.InferenceSession, count: int) -> _Bound:
        def allocate(shape: tuple[int, ...], dtype: type[np.generic]) -> Any:
            return ort.OrtValue.ortvalue_from_shape_and_type(shape, dtype, self._device, 0)

        image = allocate((count, *self._input_shape), np.uint8)
        outputs = [allocate((count, *self._map_shape), np.float32), allocate((count, 1), np.float32)]
        binding = session.io_binding()
        binding.bind_ortvalue_input(INPUT, image)
        for name, output in zip(OUTPUTS, outputs, strict=True):
            binding.bind_ortvalue_output(name, output)
        options = ort.RunOptions()
        if self._cuda_graph:
            # Each memory has its own number: a graph replays over the addresses with which it was
            # captured.
            self._graphs += 1
            options.add_run_config_entry("gpu_graph_id", str(self._graphs))
        return _Bound(binding, image, outputs, options)

    def close(self) -> None:
        """Free memory and session."""
        with self._lock:
            self._bound.clear()
            self._session = None


def require_provider(provider: str) -> str:
    """Check that a provider should work here, and load NVIDIA's CUDA libraries for it.

    Returns:
        ONNX Runtime's text about libraries that failed to load; empty if all were loaded.

    Raises:
        BackendError: This ONNX Runtime was built without the provider, or there is no GPU.
    """
    if provider not in ort.get_available_providers():
        raise BackendError(
            f"this ONNX Runtime was built without {provider}",
            expected="the package onnxruntime-gpu",
            received=f"providers {', '.join(ort.get_available_providers())}",
            fix=f"{_INSTALL}; the two packages must not be installed together",
        )
    if provider == CPU:
        return ""
    if not gpus():
        raise BackendError(
            f"{provider} needs an NVIDIA GPU, and {why_no_gpu()}",
            fix="see what nvidia-smi lists; the backend onnxruntime-cpu runs on every machine",
        )
    with _PRELOADING:
        return _preload()


@functools.cache
def _preload() -> str:
    """Load NVIDIA's libraries, once a process; return what ONNX Runtime says about it."""
    preload = getattr(ort, "preload_dlls", None)
    if preload is None:  # before 1.21
        return ""
    printed = io.StringIO()
    # It prints what it does not find on standard output, where commands write JSON.
    with contextlib.redirect_stdout(printed):
        preload()
    return printed.getvalue().strip()


def missing_library(provider: str) -> str:
    """Return what a provider's library lacks, or an empty string; ONNX Runtime only logs it."""
    folder = Path(ort.__file__).parent / "capi"
    library = folder / _LIBRARIES.get(provider, "")
    if not library.is_file():
        return ""
    try:
        ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(library))
    except OSError as error:
        return f"install what is missing: {error}"
    return ""


def _providers(provider: str, cuda_graph: bool) -> list[Any]:
    # TensorFloat-32 would round FP32 operands to 10 bits, and scores would differ from the
    # calibration's.
    cuda = (CUDA, {"device_id": "0", "use_tf32": "0", "enable_cuda_graph": str(int(cuda_graph and provider == CUDA))})
    if provider == TENSORRT:
        return [(TENSORRT, {"device_id": "0", "trt_cuda_graph_enable": str(int(cuda_graph))}), cuda, CPU]
    return [cuda, CPU] if provider == CUDA else [provider]
