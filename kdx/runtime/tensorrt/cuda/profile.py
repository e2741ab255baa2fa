"""The execution context of an optimisation profile, its batch, and its CUDA graphs."""

from __future__ import annotations

import enum
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from kdx.bundle.graph_contract import INPUT
from kdx.errors import BackendError
from kdx.runtime.tensorrt.cuda.api import CudaApi


class GpuWork(enum.Enum):
    """The work that is queued, or captured, as one unit."""

    FROM_HOST = "copy in, layers, copy out"
    FROM_DEVICE = "layers, copy out"
    COMPUTE = "layers"


class Profile:
    """An execution context and its CUDA graphs, which belong to the current batch.

    Args:
        api: The CUDA context.
        context: TensorRT's ``IExecutionContext``, switched to the profile.
        capacity: The profile's largest batch.
        explain: Returns what TensorRT logged last, for messages.

    Attributes:
        context: The execution context.
        capacity: The profile's largest batch.
        ran: Whether a plain enqueue of the current batch succeeded. TensorRT defers work to the
            first enqueue after a change, which therefore must not be captured.
        graphs: The captured graphs, by what they contain.
    """

    def __init__(self, api: CudaApi, context: Any, capacity: int, explain: Callable[[], str]) -> None:
        self.context = context
        self.capacity = capacity
        self.ran = False
        self.graphs: dict[GpuWork, int] = {}
        self._api = api
        self._explain = explain
        self._batch: int | None = None  # unknown

    def set_batch(self, shape: tuple[int, ...]) -> None:
        """Set the input's shape ``(N, H, W, C)``."""
        if self._batch == shape[0]:
            return
        self.forget()
        require(self.context.set_input_shape(INPUT, shape), f"set the batch to {shape[0]}", self._explain)
        self._batch = shape[0]

    def enqueue(self, stream: int) -> None:
        """Queue the layers."""
        require(self.context.execute_async_v3(stream), f"run a batch of {self._batch}", self._explain)

    def capture(self, work: GpuWork, stream: int, queue: Callable[[], None]) -> None:
        """Capture what ``queue`` queues, and end the capture in any case.

        Raises:
            BackendError: The capture failed.
        """
        capturable = getattr(self.context, "is_stream_capturable", None)  # TensorRT for RTX
        if capturable is not None and not capturable(stream):
            raise BackendError("the engine allocates memory while it runs", fix="build the engine again")
        self._api.begin_capture(stream)
        try:
            queue()
        except BaseException:
            with suppress(BackendError):
                self._api.destroy_graph(self._api.end_capture(stream))
            raise
        self.graphs[work] = self._api.end_capture(stream)

    def forget(self) -> None:
        """Drop the graphs, and what is known about the state of the context."""
        self.drop_graphs()
        self.ran, self._batch = False, None

    def drop_graphs(self) -> None:
        """Destroy the graphs, and forget those that fail to be destroyed."""
        while self.graphs:
            _, graph = self.graphs.popitem()
            with suppress(BackendError):
                self._api.destroy_graph(graph)


def require(done: bool, what: str, explain: Callable[[], str]) -> None:
    """Raise ``BackendError`` with TensorRT's log if TensorRT reports that something failed."""
    if not done:
        log = explain()
        raise BackendError(f"TensorRT could not {what}{f': {log}' if log else ''}")
