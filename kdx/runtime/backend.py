"""What runs a bundle: one Protocol, and the list of backends that kdx knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module, metadata, util
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from kdx.bundle.checked_files import Graph
from kdx.bundle.engine_record import engines_of
from kdx.errors import BackendError, OptionError
from kdx.runtime.gpu import gpus

_MOST_THREADS = 1024


def require_threads(threads: int | None) -> None:
    """Raise ``OptionError`` for a number of threads that is not possible."""
    if threads is not None and not 1 <= threads <= _MOST_THREADS:
        raise OptionError("threads is out of range", expected=f"1 to {_MOST_THREADS}", received=str(threads))


class Outputs(NamedTuple):
    """The graph's two outputs.

    Attributes:
        maps: ``anomaly_map``, float32 ``(N, h, w)``.
        scores: ``anomaly_score``, float32 ``(N, 1)``.
    """

    maps: NDArray[np.float32]
    scores: NDArray[np.float32]


class Backend(Protocol):
    """A loaded graph on some runtime. A context manager: leaving it, or ``close``, frees what it holds.

    Attributes:
        name: The backend's name, as in ``--backend``.
    """

    name: str

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """Run a batch.

        Args:
            images: uint8 ``(N, H, W, C)``, C-contiguous, N between 1 and the bundle's largest batch.

        Raises:
            BackendError: The runtime failed. The next call may succeed.
        """
        ...

    def close(self) -> None:
        """Free the runtime's memory. Closing twice is harmless."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class Profiled(Protocol):
    """A backend that can say how long each node takes."""

    name: str

    def node_times(self, images: NDArray[np.uint8], runs: int, warm_up: int) -> dict[str, float]:
        """Return the mean milliseconds a call of each node.

        Args:
            images: uint8 ``(K, H, W, C)``, taken one at a time, in turn.
            runs: Calls counted.
            warm_up: Calls before.
        """
        ...


class ClosesOnExit:
    """Makes a class with ``close`` a context manager."""

    def close(self) -> None:
        """Free what is held."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class Computed:
    """A precision that a runtime computes in of its own accord, from the FP32 graph.

    Attributes:
        factory: ``module:function``, as :attr:`BackendInfo.factory`.
        offered: ``module:function`` that says whether this machine can.
    """

    factory: str
    offered: str


@dataclass(frozen=True)
class BackendInfo:
    """A backend that runs bundles, installed or not.

    Attributes:
        name: As in ``--backend``.
        package: The module that must be importable.
        install: The command that installs it.
        factory: ``module:function`` taking the graph and a thread count (None: the runtime's choice).
        purpose: One line for ``kdx doctor``.
        precisions: Of the graphs it takes; the one it is used for first.
        needs_gpu: Whether it runs on NVIDIA GPUs only.
        engine: The flavour of TensorRT engine that it runs, which must have been built; None for graphs.
        distribution: The package as pip knows it, where the module alone does not tell which one is installed.
        on_request: Whether it is used only when it is named.
        computed: Of the precisions, those that have no graph of their own.
        of_runtime: The runtime that computes the scores, where it is not called like the backend.
    """

    name: str
    package: str
    install: str
    factory: str
    purpose: str
    precisions: tuple[str, ...] = ("fp32", "fp16", "int8")
    needs_gpu: bool = False
    engine: str | None = None
    distribution: str | None = None
    on_request: bool = False
    computed: Mapping[str, Computed] = field(default_factory=dict)
    of_runtime: str | None = None

    @property
    def runtime(self) -> str:
        """What computes the scores: backends of one runtime share its thresholds of BF16 and INT8."""
        return self.of_runtime or self.name

    def is_installed(self) -> bool:
        """Whether the package is present, without importing it."""
        if self.distribution is not None:
            try:
                metadata.distribution(self.distribution)
            except metadata.PackageNotFoundError:
                return False
        return util.find_spec(self.package) is not None

    def is_usable(self) -> bool:
        """Whether the package is present, and the GPU that it needs."""
        return self.is_installed() and not (self.needs_gpu and not gpus())

    def offers(self, precision: str) -> bool:
        """Whether the backend, where it is usable, takes a precision on this machine."""
        if precision not in self.precisions:
            return False
        own = self.computed.get(precision)
        return own is None or (self.is_usable() and bool(self._function(own.offered)()))

    def require_precision(self, precision: str) -> None:
        """Raise ``BackendError`` when the backend takes no graphs of a precision."""
        if precision not in self.precisions:
            raise BackendError(
                f"the backend '{self.name}' runs no {precision} graphs", expected=" or ".join(self.precisions)
            )

    def choose_precision(self, present: Sequence[str]) -> str:
        """Return the precision this backend is used for, of those that a bundle holds."""
        return next((each for each in self.precisions if each in present and self.offers(each)), "fp32")

    def open(self, graph: Graph, threads: int | None, precision: str = "fp32") -> Backend:
        """Load a graph.

        Args:
            graph: Of a bundle, checked. What is compiled from it is what was checked, for every batch size.
            threads: Threads within an operation; None leaves it to the backend.
            precision: Of the graph or, where it is one of :attr:`computed`, in which to compute the FP32 graph.

        Raises:
            BackendError: The package is missing or cannot load the graph.
            BundleError: The graph's file was replaced or altered since it was checked.
            OptionError: The number of threads is not possible.
        """
        require_threads(threads)
        if not self.is_installed():
            raise BackendError(
                f"the backend '{self.name}' is not installed",
                expected=f"package {self.distribution or self.package}",
                fix=self.install,
            )
        if self.needs_gpu and not gpus():
            raise BackendError(
                f"the backend '{self.name}' needs an NVIDIA GPU, and the driver shows none on this machine",
                fix="kdx doctor says what this machine can run",
            )
        own = self.computed.get(precision)
        backend: Backend = self._function(own.factory if own else self.factory)(graph, threads)
        return backend

    def _function(self, path: str) -> Callable[..., Any]:
        module, name = path.split(":")
        try:
            function: Callable[..., Any] = getattr(import_module(module), name)
        except (ImportError, OSError) as error:  # for example a library that does not load
            raise BackendError(
                f"'{self.package}' is installed but cannot be loaded: {error}", fix=f"reinstall it: {self.install}"
            ) from error
        return function


# In order of preference: "auto" takes the first that is installed.
BACKENDS: dict[str, BackendInfo] = {
    info.name: info
    for info in (
        BackendInfo(
            name="onnxruntime-cpu",
            package="onnxruntime",
            install='pip install "kdx[cpu]"',
            factory="kdx.runtime.onnxruntime.cpu:OnnxRuntimeCpu",
            purpose="ONNX Runtime on the CPU: the FP32 graph everywhere",
            of_runtime="onnxruntime",
        ),
        BackendInfo(
            name="openvino",
            package="openvino",
            install='pip install "kdx[openvino]"',
            factory="kdx.runtime.openvino.backend:openvino_backend",
            purpose="OpenVINO on the CPU: FP32, INT8, and BF16 on CPUs that have it",
            precisions=("int8", "bf16", "fp32"),
            computed={
                "bf16": Computed(
                    "kdx.runtime.openvino.backend:openvino_bf16_backend", "kdx.runtime.openvino.load:offers_bf16"
                )
            },
        ),
        BackendInfo(
            name="openvino-throughput",
            package="openvino",
            install='pip install "kdx[openvino]"',
            factory="kdx.runtime.openvino.backend:openvino_throughput_backend",
            purpose="OpenVINO for large batches on many cores: images one by one, several at a time",
            precisions=("int8", "fp32"),
            on_request=True,
            of_runtime="openvino",
        ),
        BackendInfo(
            name="tensorrt",
            package="tensorrt",
            install="pip install tensorrt-cu13 cuda-bindings",
            factory="kdx.runtime.tensorrt.backend:tensorrt_backend",
            purpose="TensorRT engines, with CUDA graphs",
            precisions=("fp16", "fp32"),
            needs_gpu=True,
            engine="tensorrt",
        ),
        BackendInfo(
            name="tensorrt-rtx",
            package="tensorrt_rtx",
            install='pip install "kdx[rtx]"',
            factory="kdx.runtime.tensorrt.backend:tensorrt_rtx_backend",
            purpose="TensorRT for RTX engines, with CUDA graphs",
            precisions=("fp16", "fp32"),
            needs_gpu=True,
            engine="rtx",
        ),
        BackendInfo(
            name="tensorrt-pycuda",
            package="pycuda",
            install='pip install tensorrt-cu13 "kdx[pycuda]"',
            factory="kdx.runtime.tensorrt.backend:tensorrt_pycuda_backend",
            purpose="TensorRT engines in the PyCUDA context that is current; no CUDA graphs",
            precisions=("fp16", "fp32"),
            needs_gpu=True,
            engine="tensorrt",
            on_request=True,
            of_runtime="tensorrt",
        ),
        BackendInfo(
            name="onnxruntime-cuda",
            package="onnxruntime",
            install='pip install "kdx[cuda]"',
            factory="kdx.runtime.onnxruntime.cuda:onnxruntime_cuda_backend",
            purpose="ONNX Runtime on CUDA: the graphs as they are",
            precisions=("fp16", "fp32"),
            needs_gpu=True,
            distribution="onnxruntime-gpu",
        ),
        BackendInfo(
            name="onnxruntime-tensorrt",
            package="onnxruntime",
            install='pip install "kdx[cuda]", and TensorRT 10',
            factory="kdx.runtime.onnxruntime.cuda:onnxruntime_tensorrt_backend",
            purpose="ONNX Runtime with TensorRT 10, which builds at every start",
            precisions=("fp16", "fp32"),
            needs_gpu=True,
            distribution="onnxruntime-gpu",
            on_request=True,
        ),
    )
}


def require_backends(bundle: Path | None = None) -> list[BackendInfo]:
    """Return the backends that this machine can use; raise ``BackendError`` when there are none.

    Args:
        bundle: A bundle's folder: backends that run engines count where it holds one for them.
    """
    flavours = {engine.record.fingerprint.flavour for engine in engines_of(bundle)} if bundle else set()
    usable = [
        info
        for info in BACKENDS.values()
        if not info.on_request and info.is_usable() and (not info.engine or info.engine in flavours)
    ]
    if not usable:
        fixes = " or ".join(info.install for info in BACKENDS.values() if not info.needs_gpu)
        raise BackendError("no backend is installed on this machine", fix=fixes)
    return usable


def runtime_of(backend: str) -> str:
    """Return the runtime of a backend; ``torch``, which runs no bundles, is its own."""
    return BACKENDS[backend].runtime if backend in BACKENDS else backend


def find_backend(name: str) -> BackendInfo:
    """Return a backend by name.

    Raises:
        BackendError: Unknown.
    """
    if name == "torch":
        raise BackendError(
            "the backend 'torch' runs run folders, not bundles", fix="name the run that the bundle was exported from"
        )
    if name not in BACKENDS:
        raise BackendError(f"there is no backend '{name}'", expected=f"auto, {', '.join(BACKENDS)}")
    return BACKENDS[name]
