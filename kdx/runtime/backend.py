"""What runs a bundle: one Protocol, and the list of backends that kdx knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, util
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from kdx.errors import BackendError


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
class BackendInfo:
    """A backend that runs bundles, installed or not.

    Attributes:
        name: As in ``--backend``.
        package: The module that must be importable.
        install: The command that installs it.
        factory: ``module:function`` taking the graph's path and a thread count (None: the runtime's choice).
        purpose: One line for ``kdx doctor``.
    """

    name: str
    package: str
    install: str
    factory: str
    purpose: str

    def is_installed(self) -> bool:
        """Whether the package is present, without importing it."""
        return util.find_spec(self.package) is not None

    def open(self, graph: Path, threads: int | None) -> Backend:
        """Load a graph.

        Raises:
            BackendError: The package is missing or cannot load the graph.
        """
        if not self.is_installed():
            raise BackendError(
                f"the backend '{self.name}' is not installed", expected=f"package {self.package}", fix=self.install
            )
        module, function = self.factory.split(":")
        try:
            factory: Callable[[Path, int | None], Backend] = getattr(import_module(module), function)
        except (ImportError, OSError) as error:  # for example a library that does not load
            raise BackendError(
                f"'{self.package}' is installed but cannot be loaded: {error}", fix=f"reinstall it: {self.install}"
            ) from error
        return factory(graph, threads)


# In order of preference: "auto" takes the first that is installed.
BACKENDS: dict[str, BackendInfo] = {
    info.name: info
    for info in (
        BackendInfo(
            name="onnxruntime-cpu",
            package="onnxruntime",
            install='pip install "kdx[cpu]"',
            factory="kdx.runtime.onnxruntime_cpu:OnnxRuntimeCpu",
            purpose="ONNX Runtime on the CPU: the FP32 graph everywhere",
        ),
    )
}


def installed_backends() -> list[BackendInfo]:
    """Return the backends whose package is present."""
    return [info for info in BACKENDS.values() if info.is_installed()]


def require_backends() -> list[BackendInfo]:
    """Return the backends whose package is present; raise ``BackendError`` when there are none."""
    installed = installed_backends()
    if not installed:
        fixes = " or ".join(info.install for info in BACKENDS.values())
        raise BackendError("no backend is installed on this machine", fix=fixes)
    return installed


def find_backend(name: str) -> BackendInfo:
    """Return a backend by name; ``auto`` is the first one installed.

    Raises:
        BackendError: Unknown, or none is installed.
    """
    if name == "auto":
        return require_backends()[0]
    if name == "torch":
        raise BackendError(
            "the backend 'torch' runs run folders, not bundles", fix="name the run that the bundle was exported from"
        )
    if name not in BACKENDS:
        raise BackendError(f"there is no backend '{name}'", expected=f"auto, {', '.join(BACKENDS)}")
    return BACKENDS[name]
