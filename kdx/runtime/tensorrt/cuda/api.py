"""The CUDA functions that running an engine needs, as one Protocol.

Handles (pointers, streams, events, graphs) are plain integers, which TensorRT accepts.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kdx.errors import BackendError
from kdx.runtime.gpu import Gpu

# After one of these errors, the driver returns it from every call of the process.
_FATAL = frozenset(
    {
        "CUDA_ERROR_ASSERT",
        "CUDA_ERROR_CONTEXT_IS_DESTROYED",
        "CUDA_ERROR_ECC_UNCORRECTABLE",
        "CUDA_ERROR_HARDWARE_STACK_ERROR",
        "CUDA_ERROR_ILLEGAL_ADDRESS",
        "CUDA_ERROR_ILLEGAL_INSTRUCTION",
        "CUDA_ERROR_INVALID_ADDRESS_SPACE",
        "CUDA_ERROR_INVALID_PC",
        "CUDA_ERROR_LAUNCH_FAILED",
        "CUDA_ERROR_LAUNCH_TIMEOUT",
        "CUDA_ERROR_MISALIGNED_ADDRESS",
    }
)


class CudaError(BackendError):
    """A CUDA call failed.

    Attributes:
        call: The name of the function, for example ``cuMemAlloc``.
        code: The code that it returned, for example ``CUDA_ERROR_OUT_OF_MEMORY``.
    """

    def __init__(self, call: str, code: str, detail: str = "") -> None:
        self.call = call
        self.code = code
        fix = ""
        if code in _FATAL:
            fix = "start the process again: CUDA does not recover from this error"
        elif code == "CUDA_ERROR_OUT_OF_MEMORY":
            fix = "close other detectors, or build an engine for smaller batches"
        super().__init__(f"CUDA's {call} failed: {code}{f' ({detail})' if detail else ''}", fix=fix)


class CudaApi(Protocol):
    """A CUDA context.

    Every method except ``close`` is called inside ``current``; each may raise ``CudaError``.

    Attributes:
        supports_graphs: Whether capture and launch exist; if not, the methods for graphs are never
            called.
        ordinal: The device's number.
    """

    supports_graphs: bool
    ordinal: int

    def current(self) -> AbstractContextManager[None]:
        """Make the context current in the calling thread for a block.

        After the block, the context that was current before is current again.
        """
        ...

    def device(self) -> Gpu:
        """Return a description of the device."""
        ...

    def allocate(self, nbytes: int) -> int:
        """Allocate device memory and return its address."""
        ...

    def free(self, pointer: int) -> None:
        """Free device memory."""
        ...

    def allocate_pinned(self, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
        """Return an array in page-locked memory, which must not be freed while a view is in use."""
        ...

    def free_pinned(self, array: NDArray[Any]) -> None:
        """Free an array of ``allocate_pinned``."""
        ...

    def create_stream(self) -> int:
        """Create a stream that does not synchronize with the default stream."""
        ...

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream."""
        ...

    def synchronize(self, stream: int) -> None:
        """Wait until a stream is done; errors of its work are raised here."""
        ...

    def wait_for(self, stream: int, producer: int) -> None:
        """Let a stream wait for the work that was queued so far in ``producer``."""
        ...

    def copy_to_device(self, pointer: int, array: NDArray[Any], stream: int) -> None:
        """Queue a copy of a C-contiguous host array."""
        ...

    def copy_to_host(self, array: NDArray[Any], pointer: int, stream: int) -> None:
        """Queue a copy into a C-contiguous host array."""
        ...

    def copy_on_device(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """Queue a copy within the device."""
        ...

    def begin_capture(self, stream: int) -> None:
        """From now on, record what this thread queues on the stream, without running it."""
        ...

    def end_capture(self, stream: int) -> int:
        """End recording, also after an error, and return the executable graph."""
        ...

    def launch(self, graph: int, stream: int) -> None:
        """Queue a graph."""
        ...

    def destroy_graph(self, graph: int) -> None:
        """Destroy an executable graph."""
        ...

    def create_event(self) -> int:
        """Create an event that records the time."""
        ...

    def destroy_event(self, event: int) -> None:
        """Destroy an event."""
        ...

    def record(self, event: int, stream: int) -> None:
        """Queue an event."""
        ...

    def elapsed_ms(self, start: int, end: int) -> float:
        """Return the milliseconds between two events that have occurred."""
        ...

    def close(self) -> None:
        """Release the context. Closing twice is harmless."""
        ...
