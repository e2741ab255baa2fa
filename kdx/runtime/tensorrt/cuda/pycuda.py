"""CUDA through PyCUDA, for software that already has a PyCUDA context, in which kdx runs."""

# ruff: noqa: D102 - CudaApi documents the methods

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from kdx.errors import BackendError
from kdx.runtime.gpu import Gpu
from kdx.runtime.tensorrt.cuda.api import CudaError

INSTALL = "pip install pycuda (it compiles against the CUDA toolkit's headers)"

R = TypeVar("R")

# The only exception of PyCUDA that stands for a single code.
_CODES = {"MemoryError": "CUDA_ERROR_OUT_OF_MEMORY"}


class CudaPycuda:
    """The PyCUDA context that is current in the thread that loads the detector.

    Other threads may call the detector.

    PyCUDA has no interface to CUDA graphs.

    Raises:
        BackendError: PyCUDA or the driver is missing, or no context is current.
    """

    supports_graphs = False

    def __init__(self) -> None:
        self._driver = _import_driver()
        context = _current_context(self._driver)
        if context is None:
            raise BackendError(
                "no PyCUDA context is current in this thread",
                expected="a detector that is loaded in a thread in which the line software's context is current",
                fix="import pycuda.autoprimaryctx, or push your context, before loading; or use the backend tensorrt",
            )
        self._context: Any = context
        self.ordinal = _ordinal(self._driver, self._call(context.get_device))
        # PyCUDA frees a stream, an event or an allocation together with its Python object.
        self._objects: dict[int, Any] = {}

    def _call(self, function: Callable[..., R], *arguments: Any) -> R:
        """Call PyCUDA; its exceptions name the driver's function and the error, but no code."""
        try:
            return function(*arguments)
        except self._driver.Error as error:
            call, _, detail = str(error).partition(" failed: ")
            code = type(error).__name__
            raise CudaError(call, _CODES.get(code, code), detail) from error

    @contextmanager
    def current(self) -> Iterator[None]:
        if self._context is None:
            raise BackendError("the CUDA context was released", fix="load the bundle again")
        # The context may already be current in the caller's thread, and PyCUDA counts each push.
        if _current_context(self._driver) == self._context:
            yield
            return
        self._call(self._context.push)
        try:
            yield
        finally:
            self._call(self._context.pop)

    def device(self) -> Gpu:
        device = self._call(self._context.get_device)
        major, minor = self._call(device.compute_capability)
        version = self._call(self._driver.get_driver_version)
        return Gpu(self._call(device.name), f"{major}.{minor}", f"{version // 1000}.{version % 1000 // 10}")

    def _keep(self, handle: int, thing: Any) -> int:
        self._objects[handle] = thing
        return handle

    def allocate(self, nbytes: int) -> int:
        allocation = self._call(self._driver.mem_alloc, nbytes)
        return self._keep(int(allocation), allocation)

    def free(self, pointer: int) -> None:
        self._call(self._objects.pop(pointer).free)

    def allocate_pinned(self, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
        array: NDArray[Any] = self._call(self._driver.pagelocked_empty, shape, dtype)
        self._keep(array.ctypes.data, array)
        return array

    def free_pinned(self, array: NDArray[Any]) -> None:
        self._call(self._objects.pop(array.ctypes.data).base.free)

    def create_stream(self) -> int:
        non_blocking = 1
        stream = self._call(self._driver.Stream, non_blocking)
        return self._keep(int(stream.handle), stream)

    def destroy_stream(self, stream: int) -> None:
        del self._objects[stream]

    def synchronize(self, stream: int) -> None:
        self._call(self._objects[stream].synchronize)

    def wait_for(self, stream: int, producer: int) -> None:
        # PyCUDA cannot record an event on another library's stream, so it waits for the whole
        # context.
        self._call(self._driver.Context.synchronize)

    def copy_to_device(self, pointer: int, array: NDArray[Any], stream: int) -> None:
        self._call(self._driver.memcpy_htod_async, pointer, array, self._objects[stream])

    def copy_to_host(self, array: NDArray[Any], pointer: int, stream: int) -> None:
        self._call(self._driver.memcpy_dtoh_async, array, pointer, self._objects[stream])

    def copy_on_device(self, target: int, source: int, nbytes: int, stream: int) -> None:
        self._call(self._driver.memcpy_dtod_async, target, source, nbytes, self._objects[stream])

    def begin_capture(self, stream: int) -> None:
        _no_graphs()

    def end_capture(self, stream: int) -> int:
        _no_graphs()

    def launch(self, graph: int, stream: int) -> None:
        _no_graphs()

    def destroy_graph(self, graph: int) -> None:
        _no_graphs()

    def create_event(self) -> int:
        event = self._call(self._driver.Event)
        return self._keep(id(event), event)  # PyCUDA does not expose an event's handle

    def destroy_event(self, event: int) -> None:
        del self._objects[event]

    def record(self, event: int, stream: int) -> None:
        self._call(self._objects[event].record, self._objects[stream])

    def elapsed_ms(self, start: int, end: int) -> float:
        return float(self._call(self._objects[start].time_till, self._objects[end]))

    def close(self) -> None:
        # The context belongs to the caller.
        self._context = None


def _import_driver() -> Any:
    try:
        return import_module("pycuda.driver")
    except (ImportError, OSError) as error:
        raise BackendError(
            f"PyCUDA cannot be loaded: {error}", fix=f"install the NVIDIA driver, and {INSTALL}"
        ) from error


def _current_context(driver: Any) -> Any:
    """Return the calling thread's context, or None; PyCUDA uses its own stack, not the driver's."""
    return driver.Context.get_current()


def _ordinal(driver: Any, device: Any) -> int:
    return next(index for index in range(driver.Device.count()) if driver.Device(index) == device)


def _no_graphs() -> NoReturn:
    raise BackendError("PyCUDA does not support CUDA graphs", fix="use the backend tensorrt")
