"""Backends ``tensorrt``, ``tensorrt-rtx`` and ``tensorrt-pycuda``: a bundle's engine, with CUDA graphs if possible."""

from __future__ import annotations

from collections import deque
from contextlib import ExitStack, suppress
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdx.bundle.checked_files import Graph
from kdx.bundle.engine_record import Engine, Fingerprint, find_engine, rebuild_command, this_system
from kdx.bundle.graph_contract import INPUT, OUTPUTS
from kdx.errors import BackendError, InputError
from kdx.runtime.backend import ClosesOnExit, Outputs
from kdx.runtime.device_arrays import DeviceArray, device_array
from kdx.runtime.gpu import Gpu
from kdx.runtime.tensorrt.cuda.api import CudaApi
from kdx.runtime.tensorrt.cuda.bindings import CudaBindings
from kdx.runtime.tensorrt.cuda.created import created
from kdx.runtime.tensorrt.cuda.pycuda import CudaPycuda
from kdx.runtime.tensorrt.cuda.runner import EngineRunner, GraphState, StageTimes

# The graph contract: every tensor, its type in TensorRT's words, and whether it is an input.
_TENSORS = {INPUT: ("UINT8", "INPUT"), **dict.fromkeys(OUTPUTS, ("FLOAT", "OUTPUT"))}


def tensorrt_backend(graph: Graph, threads: int | None = None) -> TensorRT:
    """Return the backend ``tensorrt``: the engine of a bundle's graph for this machine; threads mean nothing to it."""
    return TensorRT(graph, _import("tensorrt"), CudaBindings(), name="tensorrt", flavour="tensorrt")


def tensorrt_rtx_backend(graph: Graph, threads: int | None = None) -> TensorRT:
    """Return the backend ``tensorrt-rtx``: likewise, in TensorRT for RTX."""
    return TensorRT(graph, _import("tensorrt_rtx"), CudaBindings(), name="tensorrt-rtx", flavour="rtx")


def tensorrt_pycuda_backend(graph: Graph, threads: int | None = None) -> TensorRT:
    """Return the backend ``tensorrt-pycuda``: TensorRT in the PyCUDA context that is current; without CUDA graphs."""
    return TensorRT(graph, _import("tensorrt"), CudaPycuda(), name="tensorrt-pycuda", flavour="tensorrt")


class TensorRT(ClosesOnExit):
    """An engine out of a bundle. Calls from several threads at once are safe: they take turns.

    Images may lie on the GPU already: see :func:`kdx.runtime.device_arrays.device_array`.

    Args:
        graph: The graph in its bundle, beside which the engines lie.
        trt: The module ``tensorrt`` or ``tensorrt_rtx``; both have one API.
        api: The CUDA context. It becomes the backend's, and is closed with it, also where loading fails.
        name: The backend's name.
        flavour: Of the engine, ``tensorrt`` or ``rtx``.
        cuda_graph: Whether to capture CUDA graphs, where the API has them.

    Attributes:
        record: What the engine was built from and for.
        max_batch: The largest batch it takes.

    Raises:
        BackendError: There is no engine for this machine, it is damaged, or TensorRT or CUDA cannot load it.
    """

    accepts_device_arrays = True

    def __init__(
        self, graph: Graph, trt: Any, api: CudaApi, *, name: str, flavour: str, cuda_graph: bool = True
    ) -> None:
        self.name = name
        self._runner: EngineRunner | None = None
        self._log = make_log(trt)
        with ExitStack() as held:
            held.callback(api.close)
            with api.current():
                engine = find_engine(graph, fingerprint_of(trt, flavour, api.device()))
                self.record = engine.record
                self.max_batch = engine.record.batches[-1]
                self._runtime: Any = created("a runtime", lambda: trt.Runtime(self._log), self._log.take)
                loaded = self._deserialize(trt, engine)
            self._runner = EngineRunner(
                api,
                loaded,
                engine.record.batches,
                create_context=lambda loaded: _create_context(trt, loaded),
                cuda_graph=cuda_graph,
                explain=self._log.take,
            )
            held.callback(self._runner.close)
            self._held: ExitStack = held.pop_all()

    def _deserialize(self, trt: Any, engine: Engine) -> Any:
        loaded = self._runtime.deserialize_cuda_engine(engine.read_plan())
        if loaded is None:
            raise BackendError(
                f"TensorRT cannot load '{engine.plan}': {self._log.take()}", fix=rebuild_command(engine.record)
            )
        _require_contract(trt, loaded, engine)
        return loaded

    @property
    def graph_state(self) -> GraphState:
        """How calls are launched."""
        return self._open().graph_state

    @property
    def graph_failure(self) -> str:
        """Why CUDA graphs are off although they were asked for, or an empty string."""
        return self._open().graph_failure

    def _open(self) -> EngineRunner:
        runner = self._runner
        if runner is None:
            raise BackendError("the detector is closed", fix="load the bundle again")
        return runner

    def run(self, images: NDArray[np.uint8] | DeviceArray) -> Outputs:
        """Run a batch; see :class:`kdx.runtime.backend.Backend`.

        Args:
            images: On the host, or anything that lies on the GPU and says so.
        """
        return self._open().run(_array(images))

    def timed_run(self, images: NDArray[np.uint8] | DeviceArray) -> tuple[Outputs, StageTimes]:
        """Run a batch without CUDA graphs, and say how long each stage took on the GPU."""
        return self._open().timed_run(_array(images))

    def compute_only(self, shape: tuple[int, ...], runs: int) -> list[float]:
        """Return the milliseconds of runs on images ``(N, H, W, C)`` that lie on the GPU, results not copied back."""
        runner = self._open()
        if shape[1:] != runner.image_shape:
            raise InputError(
                "the engine does not take this shape",
                expected=f"(N, {str(runner.image_shape)[1:]}",
                received=f"{shape}",
            )
        return runner.compute_only(shape[0], runs)

    def close(self) -> None:
        """Free the engine, its memory, and the hold on the CUDA context."""
        runner, self._runner = self._runner, None
        if runner is not None:
            try:
                self._held.close()
            finally:
                self._runtime = None

    def __del__(self) -> None:
        # A program that reloads detectors and forgets to close them must not run out of GPU memory.
        with suppress(Exception):
            self.close()


def fingerprint_of(trt: Any, flavour: str, gpu: Gpu) -> Fingerprint:
    """Return what engines of a flavour must be built for to run here."""
    return Fingerprint(
        flavour=flavour,
        tensorrt=trt.__version__,
        compute_capability=gpu.compute_capability,
        gpu=gpu.name,
        driver=gpu.driver,
        system=this_system(),
    )


def make_log(trt: Any) -> Any:
    """Return a TensorRT logger that keeps the last errors for our messages instead of printing them.

    It has ``take()``, which returns them and forgets them. TensorRT needs it for as long as what was made with it.
    """

    class Log(trt.ILogger):  # type: ignore[misc] # the base is known only now
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._errors: deque[str] = deque(maxlen=3)

        def log(self, severity: Any, msg: str) -> None:
            if severity in {trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR}:
                self._errors.append(msg)

        def take(self) -> str:
            errors = "; ".join(self._errors)
            self._errors.clear()
            return errors

    return Log()


def _import(module: str) -> Any:
    try:
        return import_module(module)
    # Its libraries are looked for while it is imported; which exception says so has changed between versions.
    except (ImportError, OSError, RuntimeError) as error:
        raise BackendError(
            f"'{module}' cannot be loaded: {error}", fix="install it again, with its libraries"
        ) from error


def _array(images: Any) -> NDArray[np.uint8] | DeviceArray:
    found = device_array(images)
    if found is None and not isinstance(images, np.ndarray):
        raise InputError("the backend takes arrays on host or GPU", received=type(images).__name__)
    return images if found is None else found


def _require_contract(trt: Any, loaded: Any, engine: Engine) -> None:
    """Check the engine's tensors against the graph contract: it is run by addresses, where a wrong type is not seen."""
    found = {}
    for index in range(loaded.num_io_tensors):
        name = loaded.get_tensor_name(index)
        found[name] = (loaded.get_tensor_dtype(name), loaded.get_tensor_mode(name))
    wanted = {
        name: (getattr(trt.DataType, kind), getattr(trt.TensorIOMode, mode)) for name, (kind, mode) in _TENSORS.items()
    }
    if found != wanted:
        raise BackendError(
            f"the tensors of '{engine.plan}' are not those of a kdx graph",
            expected=str(wanted),
            received=str(found),
            fix=rebuild_command(engine.record),
        )


def _create_context(trt: Any, loaded: Any) -> Any:
    """Create an execution context; TensorRT for RTX, which compiles kernels where they run, shall do so at once.

    Its default runs a slow kernel until the compiler is done, and a graph captured meanwhile would keep the slow one.
    """
    strategies = getattr(trt, "DynamicShapesKernelSpecializationStrategy", None)
    if strategies is None:
        return loaded.create_execution_context()
    config = created("a runtime configuration", loaded.create_runtime_config)
    config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
    return loaded.create_execution_context(config)
