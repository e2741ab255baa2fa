"""Backends ``tensorrt``, ``tensorrt-rtx`` and ``tensorrt-pycuda``: a bundle's engine."""

from __future__ import annotations

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
from kdx.runtime.gpu import Gpu, gpus
from kdx.runtime.tensorrt.contexts import create_context
from kdx.runtime.tensorrt.cuda.api import CudaApi
from kdx.runtime.tensorrt.cuda.bindings import CudaBindings
from kdx.runtime.tensorrt.cuda.created import created
from kdx.runtime.tensorrt.cuda.pycuda import CudaPycuda
from kdx.runtime.tensorrt.cuda.runner import EngineRunner, GraphState, StageTimes
from kdx.runtime.tensorrt.log import make_log

# The tensors of the graph, with TensorRT's names of their types and directions.
_TENSORS = {INPUT: ("UINT8", "INPUT"), **dict.fromkeys(OUTPUTS, ("FLOAT", "OUTPUT"))}


def tensorrt_backend(graph: Graph, threads: int | None = None) -> TensorRT:
    """Return the backend ``tensorrt``: a bundle's engine for this machine; it uses no threads."""
    return TensorRT(graph, _import("tensorrt"), CudaBindings(), name="tensorrt", flavour="tensorrt")


def tensorrt_rtx_backend(graph: Graph, threads: int | None = None) -> TensorRT:
    """Return the backend ``tensorrt-rtx``: the engine of a bundle's graph in TensorRT for RTX."""
    return TensorRT(graph, _import("tensorrt_rtx"), CudaBindings(), name="tensorrt-rtx", flavour="rtx")


def tensorrt_pycuda_backend(graph: Graph, threads: int | None = None) -> TensorRT:
    """Return the backend ``tensorrt-pycuda``: TensorRT in the current PyCUDA context."""
    return TensorRT(graph, _import("tensorrt"), CudaPycuda(), name="tensorrt-pycuda", flavour="tensorrt")


def tensorrt_machine() -> Fingerprint | None:
    """Return the fingerprint of engines for the backend ``tensorrt``; None without a GPU."""
    return _machine("tensorrt", "tensorrt")


def tensorrt_rtx_machine() -> Fingerprint | None:
    """Return the fingerprint of engines for the backend ``tensorrt-rtx``; None without a GPU."""
    return _machine("tensorrt_rtx", "rtx")


def tensorrt_pycuda_machine() -> Fingerprint:
    """Return the fingerprint of engines for the GPU of the current PyCUDA context."""
    api = CudaPycuda()
    with api.current():
        return engine_fingerprint(_import("tensorrt"), "tensorrt", api.device())


class TensorRT(ClosesOnExit):
    """An engine of a bundle. Calls from several threads at once are safe: they take turns.

    Images may already lie on the GPU, see :func:`kdx.runtime.device_arrays.device_array`.

    Args:
        graph: The graph in its bundle, which also contains the engines.
        trt: The module ``tensorrt`` or ``tensorrt_rtx``, which have the same API.
        api: The CUDA context. The backend owns it and closes it, also if loading fails.
        name: The backend's name.
        flavour: The engine's flavour, ``tensorrt`` or ``rtx``.
        cuda_graph: Whether to capture CUDA graphs, if the API supports them.

    Attributes:
        record: The record of what the engine was built from and for.
        max_batch: The largest batch that it takes.

    Raises:
        BackendError: There is no engine for this machine, it is damaged, or TensorRT or CUDA cannot
            load it.
    """

    accepts_device_arrays = True

    def __init__(
        self, graph: Graph, trt: Any, api: CudaApi, *, name: str, flavour: str, cuda_graph: bool = True
    ) -> None:
        self.name = name
        self._runner: EngineRunner | None = None
        self._log = make_log(trt)
        with ExitStack() as resources:
            resources.callback(api.close)
            with api.current():
                engine = find_engine(graph, engine_fingerprint(trt, flavour, api.device()))
                self.record = engine.record
                self.max_batch = engine.record.batches[-1]
                self._runtime: Any = created("a runtime", lambda: trt.Runtime(self._log), self._log.take)
                loaded = self._deserialize(trt, engine)
            self._runner = EngineRunner(
                api,
                loaded,
                engine.record.batches,
                create_context=lambda loaded: create_context(trt, loaded),
                cuda_graph=cuda_graph,
                explain=self._log.take,
            )
            resources.callback(self._runner.close)
            self._resources: ExitStack = resources.pop_all()

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
        """How calls are launched on the GPU."""
        return self._open().graph_state

    @property
    def graph_failure(self) -> str:
        """Why CUDA graphs are off although they were requested, or an empty string."""
        return self._open().graph_failure

    def _open(self) -> EngineRunner:
        runner = self._runner
        if runner is None:
            raise BackendError("the detector is closed", fix="load the bundle again")
        return runner

    def run(self, images: NDArray[np.uint8] | DeviceArray) -> Outputs:
        """Run a batch; see :class:`kdx.runtime.backend.Backend`.

        Args:
            images: An array on the host, or an array on the GPU that supports one of its protocols.
        """
        return self._open().run(_array(images))

    def timed_run(self, images: NDArray[np.uint8] | DeviceArray) -> tuple[Outputs, StageTimes]:
        """Run a batch without CUDA graphs, and return the time of each stage on the GPU."""
        return self._open().timed_run(_array(images))

    def compute_only(self, images: NDArray[np.uint8], runs: int) -> list[float]:
        """Return the milliseconds of runs on images ``(N, H, W, C)`` on the GPU, without copies."""
        return self._open().compute_only(images, runs)

    def close(self) -> None:
        """Free the engine and its memory, and release the CUDA context."""
        runner, self._runner = self._runner, None
        if runner is not None:
            try:
                self._resources.close()
            finally:
                self._runtime = None

    def __del__(self) -> None:
        # A program that reloads detectors without closing them must not run out of GPU memory.
        with suppress(Exception):
            self.close()


def engine_fingerprint(trt: Any, flavour: str, gpu: Gpu) -> Fingerprint:
    """Return the fingerprint that engines of a flavour must have to run here."""
    return Fingerprint(
        flavour=flavour,
        tensorrt=trt.__version__,
        compute_capability=gpu.compute_capability,
        gpu=gpu.name,
        driver=gpu.driver,
        system=this_system(),
    )


def _machine(module: str, flavour: str) -> Fingerprint | None:
    """Return the fingerprint of the first GPU, which is the one of ``CudaBindings``."""
    found = gpus()
    return engine_fingerprint(_import(module), flavour, found[0]) if found else None


def _import(module: str) -> Any:
    try:
        return import_module(module)
    # Importing it loads its libraries; the exception that this raises differs between versions.
    except (ImportError, OSError, RuntimeError) as error:
        raise BackendError(
            f"'{module}' cannot be loaded: {error}", fix="install it again, with its libraries"
        ) from error


def _array(images: Any) -> NDArray[np.uint8] | DeviceArray:
    on_device = device_array(images)
    if on_device is None and not isinstance(images, np.ndarray):
        raise InputError("the backend takes arrays on host or GPU", received=type(images).__name__)
    return images if on_device is None else on_device


def _require_contract(trt: Any, loaded: Any, engine: Engine) -> None:
    """Compare the engine's tensors with the graph's: it runs on addresses, which have no types."""
    tensors = {}
    for index in range(loaded.num_io_tensors):
        name = loaded.get_tensor_name(index)
        tensors[name] = (loaded.get_tensor_dtype(name), loaded.get_tensor_mode(name))
    expected = {
        name: (getattr(trt.DataType, kind), getattr(trt.TensorIOMode, mode)) for name, (kind, mode) in _TENSORS.items()
    }
    if tensors != expected:
        raise BackendError(
            f"the tensors of '{engine.plan}' are not those of a kdx graph",
            expected=str(expected),
            received=str(tensors),
            fix=rebuild_command(engine.record),
        )
