"""One interface for the flavours of TensorRT: package, network and configuration.

TensorRT 10, 11 and TensorRT for RTX take a strongly typed network, whose precision is that of the
graph's types. TensorRT 8.6 (JetPack 6.0) has no strongly typed networks. There a flag allows FP16,
the convolutions of the networks are pinned to it, and to FP32 what the graph keeps in FP32 and
everything outside the networks. Another flag allows INT8 between the nodes that quantise; FP16
stays off then, so that the rest is FP32 as in the graph.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Collection
from dataclasses import dataclass
from importlib import import_module, util
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

from kdx.bundle.graph_contract import PAIR
from kdx.errors import BackendError, OptionError
from kdx.runtime.gpu import gpus, why_no_gpu
from kdx.runtime.machine import RTX_PACKAGES, TENSORRT_PACKAGES

_INSTALL = {
    "tensorrt": "pip install tensorrt-cu13 (its libraries come from NVIDIA's own index at install time)",
    "rtx": 'pip install "kdx[rtx]"',
}
_MODULES = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
# The libraries of TensorRT 8.6's sources of kernels, for CUDA 12 and 11.
_SOURCES = {
    "CUBLAS": ("libcublas.so.12", "libcublas.so.11"),
    "CUBLAS_LT": ("libcublasLt.so.12", "libcublasLt.so.11"),
    "CUDNN": ("libcudnn.so.8",),
}
# What TensorRT for RTX builds for. 9.0 (H100, H200) is not among them.
RTX_CAPABILITIES = {"7.5": "SM75", "8.0": "SM80", "8.6": "SM86", "8.9": "SM89", "12.0": "SM120", "12.1": "SM121"}


@dataclass(frozen=True)
class Flavour:
    """An installed TensorRT.

    Attributes:
        name: ``tensorrt`` or ``rtx``.
        module: The Python module of TensorRT.
    """

    name: str
    module: ModuleType

    @property
    def version(self) -> str:
        """The version of TensorRT."""
        return str(self.module.__version__)

    @property
    def is_typed(self) -> bool:
        """Whether networks are strongly typed; 8.6 has no such flag."""
        return hasattr(self.module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")

    def create_network(self, builder: Any) -> Any:
        """Return an empty network."""
        flags = self.module.NetworkDefinitionCreationFlag
        flag = flags.STRONGLY_TYPED if self.is_typed else flags.EXPLICIT_BATCH
        return builder.create_network(1 << int(flag))

    def set_precision(self, network: Any, config: Any, precision: str, kept: Collection[str] = ()) -> None:
        """Make a weakly typed network run in the graph's types; a strongly typed one does.

        Args:
            network: The network.
            config: The configuration of the build.
            precision: The graph's precision.
            kept: The names of the networks' nodes that an FP16 graph keeps in FP32.
        """
        if self.is_typed or precision == "fp32":
            return
        trt = self.module
        if precision == "int8":
            config.set_flag(trt.BuilderFlag.INT8)
            return
        config.set_flag(trt.BuilderFlag.FP16)
        config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
        for index in range(network.num_layers):
            layer = network.get_layer(index)
            if layer.name.startswith(PAIR) and layer.name not in kept:
                # The flag only allows FP16. The other layers of the networks take what is faster.
                if layer.type in {trt.LayerType.CONVOLUTION, trt.LayerType.DECONVOLUTION}:
                    layer.precision = trt.float16
                continue
            for output in range(layer.num_outputs):
                if layer.get_output(output).dtype == trt.float32:
                    layer.precision = trt.float32
                    layer.set_output_type(output, trt.float32)

    def leave_out_sources(self, config: Any) -> None:
        """Build without the kernels of libraries that cannot be loaded here.

        TensorRT 8.6 uses cuBLAS and cuDNN by default, and a build fails where they are missing.
        Later versions have kernels of their own.
        """
        if self.is_typed or sys.platform == "win32":  # there, TensorRT itself cannot be imported without them
            return
        missing = 0
        for source, libraries in _SOURCES.items():
            if not any(_can_load(library) for library in libraries):
                missing |= 1 << int(getattr(self.module.TacticSource, source))
        config.set_tactic_sources(config.get_tactic_sources() & ~missing)

    def set_target(self, config: Any, compute_capability: str) -> None:
        """Build for a compute capability, with TensorRT for RTX also another machine's."""
        if self.name == "rtx":
            # Without it an engine takes memory of its own while it runs, and no CUDA graph can be
            # captured.
            config.set_flag(self.module.BuilderFlag.REQUIRE_USER_ALLOCATION)
            config.num_compute_capabilities = 1
            target = getattr(self.module.ComputeCapability, RTX_CAPABILITIES[compute_capability])
            if not config.set_compute_capability(target, 0):
                raise BackendError(
                    f"this TensorRT for RTX does not build for compute capability {compute_capability}",
                    received=f"version {self.version}",
                    fix="update tensorrt-rtx",
                )


def _can_load(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def installed_version(name: str) -> str | None:
    """Return the version of a flavour's package, without importing it; None where it is missing."""
    if util.find_spec(_MODULES[name]) is None:
        return None
    for package in TENSORRT_PACKAGES if name == "tensorrt" else RTX_PACKAGES:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return "of unknown version"


def load_flavour(name: str) -> Flavour:
    """Import a flavour of TensorRT.

    Raises:
        BackendError: It is missing or cannot be loaded, with the command that installs it.
    """
    if installed_version(name) is None:
        raise BackendError(f"{_MODULES[name]} is not installed", fix=_INSTALL[name])
    try:
        return Flavour(name, import_module(_MODULES[name]))
    except (ImportError, OSError, RuntimeError) as error:
        raise BackendError(
            f"{_MODULES[name]} is installed but cannot be loaded: {error}", fix=f"reinstall it: {_INSTALL[name]}"
        ) from error


def target_capability(name: str, wanted: str | None) -> str:
    """Return the compute capability to build for.

    Args:
        name: The flavour.
        wanted: What was asked for; None for this machine's GPU.

    Raises:
        OptionError: The flavour cannot build for it.
        BackendError: None was asked for, and there is no GPU here; or TensorRT, which times
            kernels, has no GPU.
    """
    here = gpus()[0].compute_capability if gpus() else None
    if name == "tensorrt":
        if here is None:
            raise BackendError(
                f"TensorRT builds on the GPU that the engine is for, and {why_no_gpu()}",
                fix="build on the line PC; for RTX cards, anywhere: kdx build-engine BUNDLE --flavour rtx "
                "--compute-capability 8.6",
            )
        if wanted not in {None, here}:
            raise OptionError(
                "TensorRT builds for the GPU at hand only",
                expected=f"`compute_capability='{here}'`",
                received=str(wanted),
            )
        return here
    chosen = wanted or here
    if chosen is None:
        raise BackendError(
            f"there is no GPU here whose compute capability could be taken: {why_no_gpu()}",
            expected=f"one of {', '.join(RTX_CAPABILITIES)}",
            fix="name that of the line PC's card: kdx build-engine BUNDLE --flavour rtx --compute-capability 8.6 (RTX "
            "30), 8.9 (RTX 40) or 12.0 (RTX 50)",
        )
    if chosen not in RTX_CAPABILITIES:
        raise OptionError(
            "TensorRT for RTX does not build for this compute capability",
            expected=f"one of {', '.join(RTX_CAPABILITIES)}",
            received=chosen,
            fix=""
            if wanted
            else "build with TensorRT: kdx build-engine BUNDLE --flavour tensorrt; or name the line PC's card: kdx "
            "build-engine BUNDLE --flavour rtx --compute-capability X.Y",
        )
    return chosen
