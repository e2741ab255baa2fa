"""What runs a graph: one Protocol for all backends of :mod:`kdx.runtime.backend_table`."""

from __future__ import annotations

from types import TracebackType
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from kdx.errors import OptionError

_MOST_THREADS = 1024


def require_threads(threads: int | None) -> int | None:
    """Return a number of threads as a plain number; NumPy's are accepted too.

    Raises:
        OptionError: The number is invalid.
    """
    if threads is None:
        return None
    if isinstance(threads, bool) or not isinstance(threads, (int, np.integer)):
        raise OptionError(
            "`threads` is not a whole number",
            expected=f"1 to {_MOST_THREADS}, or None",
            received=repr(threads),
            fix="leave out `threads`, and the backend chooses",
        )
    if not 1 <= threads <= _MOST_THREADS:
        raise OptionError("`threads` is out of range", expected=f"1 to {_MOST_THREADS}", received=str(threads))
    return int(threads)


class Outputs(NamedTuple):
    """The graph's two outputs.

    Attributes:
        maps: The output ``anomaly_map``, float32 ``(N, h, w)``.
        scores: The output ``anomaly_score``, float32 ``(N, 1)``.
    """

    maps: NDArray[np.float32]
    scores: NDArray[np.float32]


class Backend(Protocol):
    """A graph that a runtime has loaded.

    It is a context manager: leaving it, or calling ``close``, frees its resources.

    Attributes:
        name: The name by which users choose the backend.
    """

    name: str

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """Run a batch.

        Args:
            images: uint8 ``(N, H, W, C)``, C-contiguous, N between 1 and the bundle's largest
                batch.

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


def largest_batch(backend: Backend, largest: int) -> int:
    """Return the largest batch that a backend takes.

    Args:
        backend: The backend. An engine, whose ``max_batch`` says so, may have been built for
            smaller batches than its bundle's graph takes.
        largest: The largest batch of the bundle's graph.
    """
    return min(largest, getattr(backend, "max_batch", largest))


@runtime_checkable
class Profiled(Protocol):
    """A backend that can measure how long each node takes."""

    name: str

    def node_times(self, images: NDArray[np.uint8], runs: int, warm_up: int) -> dict[str, float]:
        """Return the mean milliseconds per call of each node.

        Args:
            images: uint8 ``(K, H, W, C)``, taken one at a time, in turn.
            runs: The number of calls that count.
            warm_up: The number of calls before these.
        """
        ...


class ClosesOnExit:
    """Makes a class with ``close`` a context manager."""

    def close(self) -> None:
        """Free the resources."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
