"""A CUDA API on numpy memory that notices misuse. What is queued on a stream happens only when
someone waits for it.

It keeps the rules whose breach a GPU answers with wrong values, hangs or dead processes: memory is
used while it is allocated, every thread has the context current, nothing waits while a capture
runs, graphs replay over what is there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kdx.runtime.gpu import Gpu
from kdx.runtime.tensorrt.cuda.api import CudaError

Operation = Callable[[], None]

GPU = Gpu("Fake GPU", "8.9", "13.0")


class MisuseError(AssertionError):
    """A rule of CUDA was broken. No BackendError, so that nothing that handles those can hide
    it."""


@dataclass
class FakeStream:
    pending: list[Operation] = field(default_factory=list)
    captured: list[Operation] | None = None


class FakeCuda:
    """A context of its own; ``fail_at`` makes the n-th call from now on fail, and only that one."""

    supports_graphs = True
    ordinal = 0

    def __init__(self, gpu: Gpu = GPU) -> None:
        self.gpu = gpu
        self.memory: dict[int, np.ndarray] = {}
        self.pinned: dict[int, np.ndarray] = {}
        self.streams: dict[int, FakeStream] = {}
        self.graphs: dict[int, list[Operation]] = {}
        self.events: dict[int, int | None] = {}
        self.calls: list[str] = []
        self.misuses: list[str] = []
        self.contexts_destroyed: list[bool] = []  # whether the CUDA context was current, for each of TensorRT's
        self.not_released: set[int] = set()
        self.retained = True
        self._thread = threading.local()
        self._next = 0x7F00_0000_0000
        self._clock = 0
        self._fail_at: int | None = None
        self.failed: str | None = None

    # Checks and failures

    def misuse(self, what: str) -> MisuseError:
        self.misuses.append(what)
        return MisuseError(what)

    def fail_at(self, count: int | None) -> None:
        self._fail_at, self.failed = count, None

    def fails(self, name: str) -> bool:
        """Count a call, and say whether it is the one to fail."""
        self.calls.append(name)
        if self._fail_at is None:
            return False
        self._fail_at -= 1
        if self._fail_at:
            return False
        self._fail_at, self.failed = None, name
        return True

    def is_current(self) -> bool:
        return getattr(self._thread, "depth", 0) > 0

    def _call(self, name: str) -> None:
        if not self.is_current():
            raise self.misuse(f"{name} in a thread in which the context is not current")
        if self.fails(name):
            raise CudaError(name, "CUDA_ERROR_UNKNOWN")

    def _release(self, name: str, things: dict[int, Any], handle: int) -> Any:
        if handle not in things:
            raise self.misuse(f"{name} of what is not there: freed twice, or never made")
        try:
            self._call(name)
        except CudaError:
            self.not_released.add(handle)
            raise
        return things.pop(handle)

    def _new(self, things: dict[int, Any], thing: Any) -> int:
        self._next += 0x1000
        things[self._next] = thing
        return self._next

    @property
    def leaked(self) -> list[str]:
        """What is still held, but for what could not be released because that very call failed."""
        kinds = ("memory", "pinned", "streams", "graphs", "events")
        return [
            f"{kind} {handle:#x}" for kind in kinds for handle in getattr(self, kind) if handle not in self.not_released
        ]

    def device_bytes(self, pointer: int, nbytes: int) -> np.ndarray:
        """Return device memory as kernels see it."""
        for start, block in self.memory.items():
            if start <= pointer and pointer + nbytes <= start + block.nbytes:
                return block[pointer - start : pointer - start + nbytes]
        raise self.misuse(f"device memory {pointer:#x} is used but not allocated, or too small")

    def _require_pinned(self, array: np.ndarray) -> None:
        start, stop = array.ctypes.data, array.ctypes.data + array.nbytes
        if not any(at <= start and stop <= at + block.nbytes for at, block in self.pinned.items()):
            raise self.misuse("host memory that is not page-locked, or freed, is copied asynchronously")

    def queue(self, stream: int, operation: Operation) -> None:
        if stream not in self.streams:
            raise self.misuse("a stream that is not there is used")
        found = self.streams[stream]
        (found.pending if found.captured is None else found.captured).append(operation)

    # The API

    @contextmanager
    def current(self) -> Iterator[None]:
        if not self.retained:
            raise self.misuse("a released context is made current")
        if self.fails("push"):
            raise CudaError("push", "CUDA_ERROR_UNKNOWN")
        self._thread.depth = getattr(self._thread, "depth", 0) + 1
        try:
            yield
        finally:
            self._thread.depth -= 1

    def device(self) -> Gpu:
        self._call("device")
        return self.gpu

    def allocate(self, nbytes: int) -> int:
        self._call("allocate")
        return self._new(self.memory, np.full(nbytes, 0xA5, np.uint8))

    def free(self, pointer: int) -> None:
        self._release("free", self.memory, pointer)

    def allocate_pinned(self, shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
        self._call("allocate_pinned")
        array = np.frombuffer(bytearray(b"\x5a" * (int(np.prod(shape)) * np.dtype(dtype).itemsize)), dtype)
        self.pinned[array.ctypes.data] = array
        return array.reshape(shape)

    def free_pinned(self, array: np.ndarray) -> None:
        self._release("free_pinned", self.pinned, array.ctypes.data)
        array.view(np.uint8).fill(0xDD)  # who still looks at it sees that

    def create_stream(self) -> int:
        self._call("create_stream")
        return self._new(self.streams, FakeStream())

    def destroy_stream(self, stream: int) -> None:
        found = self.streams.get(stream)
        if found and (found.captured is not None or (found.pending and self.failed is None)):
            raise self.misuse("a stream is destroyed while it captures or works")
        self._release("destroy_stream", self.streams, stream)

    def synchronize(self, stream: int) -> None:
        if stream in self.streams and self.streams[stream].captured is not None:
            raise self.misuse("someone waits for a stream that captures")
        self._call("synchronize")
        pending, self.streams[stream].pending = self.streams[stream].pending, []
        for operation in pending:
            operation()

    def wait_for(self, stream: int, producer: int) -> None:
        self._call("wait_for")
        self.queue(stream, lambda: self.synchronize(producer) if producer in self.streams else None)

    def copy_to_device(self, pointer: int, array: np.ndarray, stream: int) -> None:
        self._call("copy_to_device")
        if not array.flags.c_contiguous:
            raise self.misuse("an array that is not contiguous is copied")

        def copy() -> None:
            self._require_pinned(array)
            self.device_bytes(pointer, array.nbytes)[:] = array.reshape(-1).view(np.uint8)

        self.queue(stream, copy)

    def copy_to_host(self, array: np.ndarray, pointer: int, stream: int) -> None:
        self._call("copy_to_host")

        def copy() -> None:
            self._require_pinned(array)
            array.reshape(-1).view(np.uint8)[:] = self.device_bytes(pointer, array.nbytes)

        self.queue(stream, copy)

    def copy_on_device(self, target: int, source: int, nbytes: int, stream: int) -> None:
        self._call("copy_on_device")

        def copy() -> None:
            self.device_bytes(target, nbytes)[:] = self.device_bytes(source, nbytes)

        self.queue(stream, copy)

    def begin_capture(self, stream: int) -> None:
        self._call("begin_capture")
        if self.streams[stream].captured is not None:
            raise self.misuse("a stream that captures is captured")
        self.streams[stream].captured = []

    def end_capture(self, stream: int) -> int:
        found = self.streams[stream]
        if found.captured is None:
            raise self.misuse("a capture is ended that was not begun")
        # Ending takes the stream out of capture also where it fails.
        captured, found.captured = found.captured, None
        self._call("end_capture")
        return self._new(self.graphs, captured)

    def launch(self, graph: int, stream: int) -> None:
        if graph not in self.graphs:
            raise self.misuse("a graph is launched that is not there")
        self._call("launch")
        for operation in self.graphs[graph]:
            self.queue(stream, operation)

    def destroy_graph(self, graph: int) -> None:
        self._release("destroy_graph", self.graphs, graph)

    def create_event(self) -> int:
        self._call("create_event")
        return self._new(self.events, None)

    def destroy_event(self, event: int) -> None:
        self._release("destroy_event", self.events, event)

    def record(self, event: int, stream: int) -> None:
        self._call("record")

        def passes() -> None:
            self._clock += 1
            if event in self.events:  # one may be destroyed before it has passed
                self.events[event] = self._clock

        self.queue(stream, passes)

    def elapsed_ms(self, start: int, end: int) -> float:
        self._call("elapsed_ms")
        first, last = self.events[start], self.events[end]
        if first is None or last is None:
            raise self.misuse("the time of an event is asked that has not passed")
        return float(last - first)

    def close(self) -> None:
        self.retained = False
