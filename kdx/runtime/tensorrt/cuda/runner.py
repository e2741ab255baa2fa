"""Runs an engine: fixed memory, one stream, a context for each profile, and CUDA graphs.

All contexts compute in the same memory, because calls take turns.

The first call of a shape is a plain enqueue, so that TensorRT completes deferred work, and errors
occur, before a capture. The second call in a row is captured, and later calls launch the copies and
the layers as one graph. A graph belongs to the current shape of its context: another batch size in
the same profile drops it.
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
from kdx.runtime.tensorrt.contexts import context_bytes, give_memory, switch_profile
from kdx.runtime.tensorrt.cuda.api import CudaApi
from kdx.runtime.tensorrt.cuda.buffers import Buffers
from kdx.runtime.tensorrt.cuda.profile import GpuWork, Profile, require


class GraphState(str, enum.Enum):
    """How calls are launched."""

    OFF = "off"  # not requested, or not supported by this CUDA API
    WAITING = "waiting"  # no shape was used twice in a row so far
    CAPTURED = "captured"
    FAILED = "failed"  # calls are plain enqueues; a warning gave the reason


class StageTimes(NamedTuple):
    """The times of a call's stages on the GPU, measured with CUDA events, in milliseconds."""

    h2d_ms: float
    compute_ms: float
    d2h_ms: float


class EngineRunner:
    """An engine ready to run. Calls from several threads are safe, one after the other.

    Args:
        api: The CUDA context. The caller owns it: ``close`` does not close it.
        engine: TensorRT's ``ICudaEngine``, with the tensors of a kdx graph. The runner owns it: the
            caller must not keep it after ``close``.
        batches: The largest batch of each optimisation profile, ascending.
        create_context: Creates an execution context of the engine, which takes its memory from the
            runner; see :mod:`kdx.runtime.tensorrt.contexts`.
        cuda_graph: Whether to capture CUDA graphs.
        explain: Returns what TensorRT logged last, for messages.

    Attributes:
        graph_failure: Why capture failed, or an empty string.
        image_shape: The height, width and channels of the images.
        max_batch: The largest batch.

    Raises:
        BackendError: The engine's profiles differ from ``batches``, or there is not enough memory.
            Nothing stays allocated.
    """

    def __init__(
        self,
        api: CudaApi,
        engine: Any,
        batches: Sequence[int],
        *,
        create_context: Callable[[Any], Any],
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
        with api.current(), ExitStack() as resources:
            # CUDA allocates no 0 bytes, and TensorRT takes no address of nothing.
            nbytes = max(context_bytes(engine), 1)
            memory = api.allocate(nbytes)
            resources.callback(api.free, memory)
            resources.callback(self._release)
            for index, capacity in enumerate(batches):
                self._profiles.append(Profile(api, self._make_context(create_context, index), capacity, explain))
                give_memory(self._profiles[-1].context, memory, nbytes)
            largest = (self.max_batch, *self.image_shape)
            self._profiles[-1].set_batch(largest)
            map_shape = tuple(self._profiles[-1].context.get_tensor_shape(MAP))
            self._buffers = Buffers(api, resources, largest, map_shape)
            for profile in self._profiles:
                for name, pointer in self._buffers.pointers.items():
                    require(profile.context.set_tensor_address(name, pointer), f"take the address of {name}", explain)
            self._resources: ExitStack = resources.pop_all()

    def _make_context(self, create_context: Callable[[Any], Any], index: int) -> Any:
        context, stream = create_context(self._engine), self._current_stream()
        require(
            context is not None,
            "create an execution context, possibly because there is not enough memory",
            self._explain,
        )
        require(switch_profile(context, index, stream), f"switch to profile {index}", self._explain)
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
            BackendError: CUDA or TensorRT failed. The next call begins with a plain enqueue.
        """
        on_device = isinstance(images, DeviceArray)
        work = GpuWork.FROM_DEVICE if on_device else GpuWork.FROM_HOST
        with self._ready(images) as profile:
            count = images.shape[0]
            # Capturing runs nothing, so it may precede the images. If it fails, the current stream
            # is a new one.
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
        """Run a batch with a plain enqueue, and time its three stages.

        Images on the device are copied within it.

        Raises:
            InputError: The batch does not fit the engine, see ``run``.
            BackendError: CUDA or TensorRT failed.
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

    def compute_only(self, images: NDArray[np.uint8], runs: int) -> list[float]:
        """Time the layers alone on images ``(N, H, W, C)`` that already lie on the device.

        The time depends on the images: a GPU multiplies zeros faster.

        Returns:
            The milliseconds of each run, which is launched as a graph if possible, as in ``run``.

        Raises:
            InputError: The batch does not fit the engine, see ``run``.
            BackendError: CUDA or TensorRT failed.
        """
        with self._ready(images) as profile, self._events(2) as (start, end):
            self._buffers.stage(images)
            self._queue(profile, len(images), GpuWork.FROM_HOST, self._current_stream())
            self._api.synchronize(self._current_stream())
            profile.ran = True
            graph = self._graph(profile, images.shape, GpuWork.COMPUTE)
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
        """Free all resources, even if freeing one of them fails. Closing twice is harmless."""
        with self._lock:
            if self._engine is None:
                return
            # In the context, because execution contexts and engine free device memory; graphs
            # before their memory.
            with self._api.current():
                try:
                    with self._resources:
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
        """Lock the engine for one call, and yield its smallest profile that takes the images."""
        with self._lock:
            if self._engine is None:
                raise BackendError("the detector is closed", fix="load the bundle again")
            self._check(images)
            profile = next(profile for profile in self._profiles if profile.capacity >= images.shape[0])
            with self._api.current():
                try:
                    profile.set_batch(images.shape)
                    yield profile
                # Even an interrupt leaves work in the stream, which must not mix with the work of
                # the next call.
                except BaseException:
                    self._reset(profile)
                    raise

    def _check(self, images: NDArray[np.uint8] | DeviceArray) -> None:
        shape, (height, width, channels) = images.shape, self.image_shape
        dtype = "uint8" if isinstance(images, DeviceArray) else str(images.dtype)
        if dtype != "uint8" or shape[1:] != self.image_shape or not 1 <= shape[0] <= self.max_batch:
            raise InputError(
                "the batch does not fit the engine",
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
        """Copy images to the memory from which every graph and enqueue reads them."""
        if not isinstance(images, DeviceArray):
            self._buffers.stage(images)
            return
        # A copy within the device takes microseconds, keeps addresses fixed, and requires no
        # alignment.
        if images.stream is not None:
            self._api.wait_for(stream, images.stream)
        self._api.copy_on_device(self._buffers.image_pointer, images.pointer, images.nbytes, stream)

    def _queue(self, profile: Profile, count: int, work: GpuWork, stream: int) -> None:
        if work is GpuWork.FROM_HOST:
            self._buffers.copy_in(count, stream)
        profile.enqueue(stream)
        if work is not GpuWork.COMPUTE:
            self._buffers.copy_out(count, stream)

    def _graph(self, profile: Profile, shape: tuple[int, ...], work: GpuWork) -> int | None:
        """Return the graph of this batch, captured now if possible; None for a plain enqueue."""
        if work not in profile.graphs and profile.ran and self._cuda_graph:
            stream = self._current_stream()
            try:
                profile.capture(work, stream, lambda: self._queue(profile, shape[0], work, stream))
            except BackendError as error:
                # A failed capture may have changed the state of context and stream.
                self._reset(profile)
                profile.set_batch(shape)
                self._give_up_graphs(error)
        return profile.graphs.get(work)

    def _give_up_graphs(self, error: BackendError) -> None:
        self._cuda_graph = False
        self.graph_failure = error.message
        for profile in self._profiles:
            profile.drop_graphs()
        warnings.warn(
            f"CUDA graphs are off for this detector, which is slower but has the same results: {error.message}",
            RuntimeWarning,
            stacklevel=2,
        )

    def _reset(self, profile: Profile) -> None:
        """Discard the work of a failed call; the next call begins with a plain enqueue."""
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
        with ExitStack() as resources:
            events = []
            for _ in range(count):
                events.append(self._api.create_event())
                resources.callback(self._api.destroy_event, events[-1])
            yield events


def _require_profiles(engine: Any, batches: Sequence[int]) -> None:
    """Check that the engine has the optimisation profiles of its record."""
    profiles = range(engine.num_optimization_profiles)
    largest = [engine.get_tensor_profile_shape(INPUT, index)[2] for index in profiles]
    actual = [tuple(shape)[0] for shape in largest]  # noqa: RUF015 - TensorRT's Dims are not a sequence
    if actual != list(batches) or sorted(set(actual)) != actual or not actual:
        raise BackendError(
            "the engine's optimisation profiles differ from its record",
            expected=f"largest batches {list(batches)}",
            received=f"{actual}",
            fix="build the engine again with `force=True`",
        )
