"""The table of backends that run bundles, installed or not: what each needs, takes, and is for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import import_module, metadata, util
from pathlib import Path
from typing import Any

from kdx.bundle.checked_files import Graph
from kdx.bundle.engine_record import Fingerprint, engines_of, mismatch, records_of
from kdx.errors import BackendError
from kdx.runtime.backend import Backend, require_threads
from kdx.runtime.gpu import gpus, require_driver, why_no_gpu


@dataclass(frozen=True)
class ComputedPrecision:
    """A precision without a graph of its own, in which a runtime computes the FP32 graph.

    Attributes:
        factory: ``module:function`` that opens the FP32 graph, like :attr:`BackendInfo.factory`.
        is_offered: ``module:function`` that returns whether this machine has the precision.
    """

    factory: str
    is_offered: str


@dataclass(frozen=True)
class BackendInfo:
    """A backend that runs bundles, installed or not.

    Attributes:
        name: The name by which users choose it.
        package: The module that must be importable.
        install: The command that installs it.
        factory: ``module:function`` that takes a graph and a number of threads (None for the
            runtime's choice).
        purpose: One line for ``kdx doctor``.
        precisions: The precisions of the graphs that it takes; the preferred one first.
        needs_gpu: Whether it runs on NVIDIA GPUs only.
        engine: The flavour of TensorRT engine that it runs, which must have been built; None for
            graphs.
        machine: ``module:function`` that returns the fingerprint that an engine must have to run
            here, or None where there is no GPU; None for a backend whose machine does not matter.
        distribution: The package's name for pip, where the module does not tell which of several
            packages is installed.
        on_request: Whether it is used only by name, and never chosen automatically.
        computed: The precisions, among :attr:`precisions`, that have no graph of their own.
        of_runtime: The runtime that computes the scores, if its name differs from the backend's.
    """

    name: str
    package: str
    install: str
    factory: str
    purpose: str
    precisions: tuple[str, ...] = ("fp32", "fp16", "int8")
    needs_gpu: bool = False
    engine: str | None = None
    machine: str | None = None
    distribution: str | None = None
    on_request: bool = False
    computed: Mapping[str, ComputedPrecision] = field(default_factory=dict)
    of_runtime: str | None = None

    @property
    def runtime(self) -> str:
        """The runtime that computes the scores.

        Its backends share one threshold of BF16 and one of INT8.
        """
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

    def offers(self, precision: str, graph: Graph | None = None) -> bool:
        """Whether the backend, if it is usable, takes a precision on this machine.

        Args:
            precision: The precision.
            graph: The graph of that precision in its bundle: a backend that runs engines takes it
                only if the bundle holds an engine of it that runs on this machine.
        """
        if precision not in self.precisions or (graph and self.engine and not self._holds_engine(graph)):
            return False
        computed = self.computed.get(precision)
        return computed is None or (self.is_usable() and bool(self._function(computed.is_offered)()))

    def require_precision(self, precision: str) -> None:
        """Raise ``BackendError`` if the backend takes no graphs of a precision."""
        if precision not in self.precisions:
            raise BackendError(
                f"the backend '{self.name}' runs no {precision} graphs", expected=" or ".join(self.precisions)
            )

    def choose_precision(self, graphs: Mapping[str, Graph]) -> str:
        """Return the preferred precision; if the backend runs engines, one with an engine for here.

        Args:
            graphs: The graphs of a bundle that may be chosen, by precision.
        """
        offered = [each for each in self.precisions if each in graphs and self.offers(each)]
        built = [each for each in offered if self.offers(each, graphs[each])]
        return next(iter(built or offered), "fp32")

    def open(self, graph: Graph, threads: int | None, precision: str = "fp32") -> Backend:
        """Load a graph.

        Args:
            graph: A bundle's graph, checked. Its checked content is what is compiled, for every
                batch size.
            threads: Threads within an operation; None leaves it to the backend.
            precision: The graph's precision or, for one of :attr:`computed`, that in which to
                compute the FP32 graph.

        Raises:
            BackendError: The package is missing or cannot load the graph.
            BundleError: The graph's file was replaced or altered since it was checked.
            ForkError: The backend needs a GPU, whose driver was started before this process was
                forked.
            OptionError: An invalid number of threads.
        """
        threads = require_threads(threads)
        if not self.is_installed():
            raise BackendError(
                f"the backend '{self.name}' is not installed",
                expected=f"package {self.distribution or self.package}",
                fix=self.install,
            )
        if self.needs_gpu and not gpus():
            raise BackendError(
                f"the backend '{self.name}' needs an NVIDIA GPU, and {why_no_gpu()}",
                fix="kdx doctor says what this machine can run",
            )
        if self.needs_gpu:
            require_driver()
        computed = self.computed.get(precision)
        backend: Backend = self._function(computed.factory if computed else self.factory)(graph, threads)
        return backend

    def _holds_engine(self, graph: Graph) -> bool:
        """Return whether a graph's bundle holds an engine of it that :meth:`open` would take.

        Where this machine's fingerprint is not known, an engine for any machine counts.
        """
        built = [record for record in records_of(graph) if record.fingerprint.flavour == self.engine]
        machine = self._fingerprint() if built else None
        return any(machine is None or not mismatch(record, machine, graph.sha256) for record in built)

    def _fingerprint(self) -> Fingerprint | None:
        """Return the fingerprint of this machine; None without a GPU or the package."""
        found: Fingerprint | None = None
        if self.machine is not None:
            with suppress(BackendError):  # opening an engine says what is missing
                found = self._function(self.machine)()
        return found

    def _function(self, path: str) -> Callable[..., Any]:
        module, name = path.split(":")
        try:
            function: Callable[..., Any] = getattr(import_module(module), name)
        except (ImportError, OSError) as error:  # for example a library that does not load
            raise BackendError(
                f"'{self.package}' is installed but cannot be loaded: {error}", fix=f"reinstall it: {self.install}"
            ) from error
        return function


_OPENVINO = BackendInfo(
    name="openvino",
    package="openvino",
    install='pip install "kdx[openvino]"',
    factory="kdx.runtime.openvino.backend:openvino_backend",
    purpose="OpenVINO on the CPU: FP32, INT8, and BF16 on CPUs that have it",
    precisions=("int8", "bf16", "fp32"),
    computed={
        "bf16": ComputedPrecision(
            "kdx.runtime.openvino.backend:openvino_bf16_backend", "kdx.runtime.openvino.compilation:offers_bf16"
        )
    },
)
_TENSORRT = BackendInfo(
    name="tensorrt",
    package="tensorrt",
    install="pip install tensorrt-cu13 cuda-bindings",
    factory="kdx.runtime.tensorrt.backend:tensorrt_backend",
    purpose="TensorRT engines, with CUDA graphs",
    precisions=("int8", "fp16", "fp32"),
    needs_gpu=True,
    engine="tensorrt",
    machine="kdx.runtime.tensorrt.backend:tensorrt_machine",
)
_ONNXRUNTIME_CUDA = BackendInfo(
    name="onnxruntime-cuda",
    package="onnxruntime",
    install='pip install "kdx[cuda]"',
    factory="kdx.runtime.onnxruntime.cuda:onnxruntime_cuda_backend",
    purpose="ONNX Runtime on CUDA: the graphs as they are",
    precisions=("fp16", "fp32"),
    needs_gpu=True,
    distribution="onnxruntime-gpu",
)
_ALL = (
    BackendInfo(
        name="onnxruntime-cpu",
        package="onnxruntime",
        install='pip install "kdx[cpu]"',
        factory="kdx.runtime.onnxruntime.cpu:OnnxRuntimeCpu",
        purpose="ONNX Runtime on the CPU: the FP32 graph everywhere",
        of_runtime="onnxruntime",
    ),
    _OPENVINO,
    replace(
        _OPENVINO,
        name="openvino-throughput",
        factory="kdx.runtime.openvino.backend:openvino_throughput_backend",
        purpose="OpenVINO for large batches on many cores: images one by one, several at a time",
        precisions=("int8", "fp32"),
        computed={},
        on_request=True,
        of_runtime="openvino",
    ),
    _TENSORRT,
    replace(
        _TENSORRT,
        name="tensorrt-rtx",
        package="tensorrt_rtx",
        install='pip install "kdx[rtx]"',
        factory="kdx.runtime.tensorrt.backend:tensorrt_rtx_backend",
        purpose="TensorRT for RTX engines, with CUDA graphs",
        engine="rtx",
        machine="kdx.runtime.tensorrt.backend:tensorrt_rtx_machine",
    ),
    replace(
        _TENSORRT,
        name="tensorrt-pycuda",
        package="pycuda",
        install='pip install tensorrt-cu13 "kdx[pycuda]"',
        factory="kdx.runtime.tensorrt.backend:tensorrt_pycuda_backend",
        purpose="TensorRT engines in the PyCUDA context that is current; no CUDA graphs",
        machine="kdx.runtime.tensorrt.backend:tensorrt_pycuda_machine",
        on_request=True,
        of_runtime="tensorrt",
    ),
    _ONNXRUNTIME_CUDA,
    replace(
        _ONNXRUNTIME_CUDA,
        name="onnxruntime-tensorrt",
        install='pip install "kdx[cuda]", and TensorRT 10',
        factory="kdx.runtime.onnxruntime.cuda:onnxruntime_tensorrt_backend",
        purpose="ONNX Runtime with TensorRT 10, which builds at every start; needs NVIDIA_TF32_OVERRIDE=0",
        on_request=True,
    ),
)
# In the order in which kdx doctor and an automatic choice go through them.
BACKENDS: dict[str, BackendInfo] = {info.name: info for info in _ALL}


def require_backends(bundle: Path | None = None) -> list[BackendInfo]:
    """Return the backends that this machine can use; raise ``BackendError`` if there are none.

    Args:
        bundle: A bundle's folder: backends that run engines are returned only if it holds one for
            them.
    """
    flavours = {engine.record.fingerprint.flavour for engine in engines_of(bundle)} if bundle else set()
    installed = [info for info in BACKENDS.values() if not info.on_request and info.is_usable()]
    usable = [info for info in installed if not info.engine or info.engine in flavours]
    if not usable:
        fixes = " or ".join(dict.fromkeys(info.install for info in BACKENDS.values() if not info.needs_gpu))
        message = "no backend is installed on this machine"
        if installed:
            message += f" but {' and '.join(info.name for info in installed)}, of which there is no engine"
            fixes = f"kdx build-engine {bundle or 'BUNDLE'}; or {fixes}"
        raise BackendError(message, fix=fixes)
    return usable


def runtime_of(backend: str) -> str:
    """Return the runtime of a backend; for ``torch``, which runs no bundles, its own name."""
    return BACKENDS[backend].runtime if backend in BACKENDS else backend


def find_backend(name: str) -> BackendInfo:
    """Return a backend by name.

    Raises:
        BackendError: There is no such backend.
    """
    if name == "torch":
        raise BackendError(
            "the backend 'torch' runs run folders, not bundles", fix="name the run that the bundle was exported from"
        )
    if name not in BACKENDS:
        raise BackendError(f"there is no backend '{name}'", expected=f"auto, {', '.join(BACKENDS)}")
    return BACKENDS[name]
