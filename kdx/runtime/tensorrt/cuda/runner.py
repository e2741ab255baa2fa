"""Runs an engine: fixed memory, one stream, an execution context for each optimisation profile, and CUDA graphs.

The first call of a shape is a plain enqueue: TensorRT does what it deferred, and errors show, before a capture. The
second call in a row captures; from then on the whole call (copies and layers) is one launch. A graph belongs to the
shape that its context is set to: another batch size in the same profile drops it.
"""

from __future__ import annotations

import enum
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdx.bundle.graph_contract import INPUT, MAP
from kdx.errors import BackendError, InputError
from kdx.runtime.backend import Outputs
from kdx.runtime.device_arrays import DeviceArray
from kdx.runtime.tensorrt.cuda.api import CudaApi
from kdx.runtime.tensorrt.cuda.buffers import Buffers
from kdx.runtime.tensorrt.cuda.profile import Profile, Work, require


class GraphState(str, enum.Enum):
    """How calls are launched."""

    OFF = "off"  # not asked for, or not possible with this CUDA API
    WAITING = "waiting"  # no shape was called twice in a row so far
    CAPTURED = "captured"
    FAILED = "failed"  # plain enqueues; the reason was warned of


class StageTimes(NamedTuple):
    """Where a call's time goes on the GPU, by CUDA events, in milliseconds."""

    h2d_ms: float
    compute_ms: float
    d2h_ms: float


class EngineRunner:
    """An engine ready to run. Calls from several threads are safe, one after the other.

    Args:
        api: The CUDA context. It stays the caller's: ``close`` does not close it.
        engine: TensorRT's ``ICudaEngine``, with the tensors of the graph contract. It becomes the runner's: no one else
            may hold it after ``close``.
        batches: The largest batch of each optimisation profile, ascending.
        create_context: Makes an execution context of the engine.
        cuda_graph: Whether to capture.
        explain: Returns what TensorRT logged last, for messages.

    Attributes:
        graph_failure: Why capture failed, or an empty string.

    Raises:
        BackendError: The engine is not what ``batches`` say, or memory does not suffice. Nothing stays allocated.
    """

    def __init__(
        self,
        api: CudaApi,
        engine: Any,
        batches: Sequence[int],
        *,
        create_context: Callable[[Any], Any] = lambda engine: engine.create_execution_context(),
        cuda_graph: bool = True,
        explain: Callable[[], str] = lambda: "",
    ) -> None:
        self.graph_failure = ""
        self._api = api
        self._engine = engine
        self._explain = explain
        self._cuda_graph = cuda_graph and api.supports_graphs
        self._lock = threading.Lock()
        self._stream: int | None = None
        self._profiles: list[Profile] = []
        _require_profiles(engine, batches)
        self.image_shape = tuple(engine.get_tensor_shape(INPUT))[1:]
        self.max_batch = batches[-1]
        with api.current(), ExitStack() as held:
            held.callback(self._release)
            for index, capacity in enumerate(batches):
                self._profiles.append(Profile(api, self._make_context(create_context, index), capacity, explain))
            largest = (self.max_batch, *self.image_shape)
            self._profiles[-1].set_batch(largest)
            map_shape = tuple(self._profiles[-1].context.get_tensor_shape(MAP))
            self._buffers = Buffers(api, held, largest, map_shape)
            for profile in self._profiles:
                for name, pointer in self._buffers.pointers.items():
                    require(profile.context.set_tensor_address(name, pointer), f"take the address of {name}", explain)
            self._held: ExitStack = held.pop_all()

    def _make_context(self, create_context: Callable[[Any], Any], index: int) -> Any:
        context, stream = create_context(self._engine), self._current_stream()
        require(context is not None, "create an execution context, perhaps for want of memory", self._explain)
        require(context.set_optimization_profile_async(index, stream), f"switch to profile {index}", self._explain)
        self._api.synchronize(stream)
        return context

    @property
    def graph_state(self) -> GraphState:
        """How calls are launched."""
        if self.graph_failure:
            return GraphState.FAILED
        if not self._cuda_graph:
            return GraphState.OFF
        return GraphState.CAPTURED if any(profile.graphs for profile in self._profiles) else GraphState.WAITING

    def run(self, images: NDArray[np.uint8] | DeviceArray) -> Outputs:
        """Run a batch from the host or the device.

        Raises:
            InputError: Another type or shape than the engine's, or too many images.
            BackendError: CUDA or TensorRT failed. The next call starts afresh.
        """
        on_device = isinstance(images, DeviceArray)
        work = Work.FROM_DEVICE if on_device else Work.FROM_HOST
        with self._ready(images) as profile:
            count = images.shape[0]
            # Capturing runs nothing, so it may come before the images; where it fails, the stream is another after it.
            graph = self._graph(profile, images.shape, work)
            stream = self._current_stream()
            self._stage(images, stream)
            if graph is None:
                self._queue(profile, count, work, stream)
            else:
                self._api.launch(graph, stream)
            self._api.synchronize(stream)
            profile.ran = True
            return self._buffers.outputs(count)

    def timed_run(self, images: NDArray[np.uint8] | DeviceArray) -> tuple[Outputs, StageTimes]:
        """Run a batch by plain enqueues and time its three stages; of images on the device the first is a copy there.

        Raises:
            InputError: As ``run``.
            BackendError: As ``run``.
        """
        with self._ready(images) as profile, self._events(4) as events:
            count = images.shape[0]
            stream = self._current_stream()
            if not isinstance(images, DeviceArray):
                self._buffers.stage(images)
            self._api.record(events[0], stream)
            if isinstance(images, DeviceArray):
                self._stage(images, stream)
            else:
                self._buffers.copy_in(count, stream)
            self._api.record(events[1], stream)
            profile.enqueue(stream)
            self._api.record(events[2], stream)
            self._buffers.copy_out(count, stream)
            self._api.record(events[3], stream)
            self._api.synchronize(stream)
            profile.ran = True
            times = (self._api.elapsed_ms(events[i], events[i + 1]) for i in range(3))
            return self._buffers.outputs(count), StageTimes(*times)

    def compute_only(self, count: int, runs: int) -> list[float]:
        """Time the layers alone on so many images that lie on the device already.

        Returns:
            Milliseconds of each run, launched as ``run`` launches: as a graph, where that is possible.
        """
        images = np.zeros((count, *self.image_shape), np.uint8)
        with self._ready(images) as profile, self._events(2) as (start, end):
            self._buffers.stage(images)
            self._queue(profile, count, Work.FROM_HOST, self._current_stream())
            self._api.synchronize(self._current_stream())
            profile.ran = True
            graph = self._graph(profile, images.shape, Work.COMPUTE)
            stream = self._current_stream()
            times = []
            for _ in range(runs):
                self._api.record(start, stream)
                if graph is None:
                    profile.enqueue(stream)
                else:
                    self._api.launch(graph, stream)
                self._api.record(end, stream)
                self._api.synchronize(stream)
                times.append(self._api.elapsed_ms(start, end))
            return times

    def close(self) -> None:
        """Free everything, whatever fails while doing so. Closing twice is harmless."""
        with self._lock:
            if self._engine is None:
                return
            # Inside, for contexts and engine free device memory as they go; graphs before what they run over.
            with self._api.current():
                try:
                    with self._held:
                        self._release()
                finally:
                    self._engine = None

    def _release(self) -> None:
        for profile in self._profiles:
            profile.drop_graphs()
        self._profiles.clear()
        stream, self._stream = self._stream, None
        if stream is not None:
            self._api.destroy_stream(stream)

    @contextmanager
    def _ready(self, images: NDArray[np.uint8] | DeviceArray) -> Iterator[Profile]:
        """Hold the engine for one call, with its smallest profile that takes the images set to their number."""
        with self._lock:
            if self._engine is None:
                raise BackendError("the detector is closed", fix="load the bundle again")
            self._check(images)
            profile = next(profile for profile in self._profiles if profile.capacity >= images.shape[0])
            with self._api.current():
                try:
                    profile.set_batch(images.shape)
                    yield profile
                # Also an interrupt leaves work in the stream that must not meet the next call's.
                except BaseException:
                    self._start_afresh(profile)
                    raise

    def _check(self, images: NDArray[np.uint8] | DeviceArray) -> None:
        shape, (height, width, channels) = images.shape, self.image_shape
        dtype = "uint8" if isinstance(images, DeviceArray) else str(images.dtype)
        if dtype != "uint8" or shape[1:] != self.image_shape or not 1 <= shape[0] <= self.max_batch:
            raise InputError(
                "the engine does not take this batch",
                expected=f"uint8 (1 to {self.max_batch}, {height}, {width}, {channels})",
                received=f"{dtype} {shape}",
            )
        if isinstance(images, DeviceArray) and images.ordinal not in {None, self._api.ordinal}:
            raise InputError(
                "the images lie on another GPU than the engine",
                expected=f"device {self._api.ordinal}",
                received=f"device {images.ordinal}",
            )

    def _stage(self, images: NDArray[np.uint8] | DeviceArray, stream: int) -> None:
        """Bring images to where every graph and enqueue reads them."""
        if not isinstance(images, DeviceArray):
            self._buffers.stage(images)
            return
        # A copy within the device takes microseconds, keeps addresses fixed, and asks no alignment of the producer.
        if images.stream is not None:
            self._api.wait_for(stream, images.stream)
        self._api.copy_on_device(self._buffers.image_pointer, images.pointer, images.nbytes, stream)

    def _queue(self, profile: Profile, count: int, work: Work, stream: int) -> None:
        if work is Work.FROM_HOST:
            self._buffers.copy_in(count, stream)
        profile.enqueue(stream)
        if work is not Work.COMPUTE:
            self._buffers.copy_out(count, stream)

    def _graph(self, profile: Profile, shape: tuple[int, ...], work: Work) -> int | None:
        """Return the graph of this batch, captured now if need be, or None where a plain enqueue is due."""
        if work not in profile.graphs and profile.ran and self._cuda_graph:
            stream = self._current_stream()
            try:
                profile.capture(work, stream, lambda: self._queue(profile, shape[0], work, stream))
            except BackendError as error:
                # Half a capture may have left its mark on context and stream.
                self._start_afresh(profile)
                profile.set_batch(shape)
                self._give_up_graphs(error)
        return profile.graphs.get(work)

    def _give_up_graphs(self, error: BackendError) -> None:
        self._cuda_graph = False
        self.graph_failure = error.message
        for profile in self._profiles:
            profile.drop_graphs()
        warnings.warn(
            f"CUDA graphs are off for this detector, which makes it slower and changes no result: {error.message}",
            RuntimeWarning,
            stacklevel=2,
        )

    def _start_afresh(self, profile: Profile) -> None:
        """After a failure: nothing of the failed call is left, and the next one begins with a plain enqueue."""
        profile.forget()
        stream, self._stream = self._stream, None
        if stream is not None:
            with suppress(BackendError):
                self._api.synchronize(stream)
            with suppress(BackendError):
                self._api.destroy_stream(stream)

    def _current_stream(self) -> int:
        if self._stream is None:
            self._stream = self._api.create_stream()
        return self._stream

    @contextmanager
    def _events(self, count: int) -> Iterator[list[int]]:
        with ExitStack() as held:
            events = []
            for _ in range(count):
                events.append(self._api.create_event())
                held.callback(self._api.destroy_event, events[-1])
            yield events


def _require_profiles(engine: Any, batches: Sequence[int]) -> None:
    """Check that the engine has the profiles that its record names."""
    profiles = range(engine.num_optimization_profiles)
    largest = [engine.get_tensor_profile_shape(INPUT, index)[2] for index in profiles]
    found = [tuple(shape)[0] for shape in largest]  # noqa: RUF015 - TensorRT's Dims are no sequence
    if found != list(batches) or sorted(set(found)) != found or not found:
        raise BackendError(
            "the engine's optimisation profiles are not those of its record",
            expected=f"largest batches {list(batches)}",
            received=f"{found}",
            fix="build the engine again with --force",
        )
