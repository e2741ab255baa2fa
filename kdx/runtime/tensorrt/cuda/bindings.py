"""CUDA through NVIDIA's ``cuda-bindings``, in the primary context that torch and CuPy use."""

# ruff: noqa: D102 - CudaApi documents the methods

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdx.errors import BackendError
from kdx.runtime.gpu import Gpu
from kdx.runtime.tensorrt.cuda.api import CudaError

INSTALL = "pip install cuda-bindings"


class CudaBindings:
    """The primary context of the first device, retained until ``close``.

    The whole process shares it. ``CUDA_VISIBLE_DEVICES`` selects among several devices.

    Raises:
        BackendError: The package or the driver is missing, or there is no device.
    """

    supports_graphs = True
    ordinal = 0

    def __init__(self) -> None:
        self._driver = _import_driver()
        try:
            self._call("cuInit", 0)
            self._device = self._call("cuDeviceGet", self.ordinal)
        except CudaError as error:
            raise BackendError(
                f"CUDA finds no device: {error.code}",
                expected="an NVIDIA GPU that the driver reports",
                fix="see what nvidia-smi lists, and what CUDA_VISIBLE_DEVICES hides",
            ) from error
        # The package loads the driver's library at its first call, and raises its own exceptions if
        # that fails.
        except (RuntimeError, OSError) as error:
            raise BackendError(
                f"the CUDA driver cannot be loaded: {error}", fix="install the NVIDIA driver on this machine"
            ) from error
        self._context = self._call("cuDevicePrimaryCtxRetain", self._device)

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the driver, check its code, and return its result or None."""
        try:
            code, *results = getattr(self._driver, name)(*arguments)
        # What cuda-bindings does not find in the driver, it raises at the call.
        except RuntimeError as error:
            if name == "cuInit":
                raise
            raise BackendError(
                f"the driver lacks {name} in the version that this cuda-bindings calls: {error}",
                fix="install the cuda-bindings of the driver's CUDA, for example pip install 'cuda-bindings<13'; or "
                "update the driver",
            ) from error
        if code != self._driver.CUresult.CUDA_SUCCESS:
            raise CudaError(name, getattr(code, "name", str(code)), self._explain(code))
        return results[0] if results else None

    def _explain(self, code: Any) -> str:
        status, text = self._driver.cuGetErrorString(code)
        return text.decode(errors="replace") if status == self._driver.CUresult.CUDA_SUCCESS and text else ""

    @contextmanager
    def current(self) -> Iterator[None]:
        if self._context is None:
            raise BackendError("the CUDA context was released", fix="load the bundle again")
        self._call("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent")

    def device(self) -> Gpu:
        attributes = self._driver.CUdevice_attribute
        name = self._call("cuDeviceGetName", 256, self._device)
        major, minor = (
            self._call("cuDeviceGetAttribute", attribute, self._device)
            for attribute in (
                attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        version = self._call("cuDriverGetVersion")
        text = name.split(b"\0", 1)[0].decode(errors="replace")
        return Gpu(text, f"{major}.{minor}", f"{version // 1000}.{version % 1000 // 10}")

    def allocate(self, nbytes: int) -> int:
        return int(self._call("cuMemAlloc", nbytes))

    def free(self, pointer: int) -> None:
        self._call("cuMemFree", pointer)

    def allocate_pinned(self, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        address = int(self._call("cuMemHostAlloc", nbytes, 0))
        memory: Any = (ctypes.c_uint8 * nbytes).from_address(address)
        return np.frombuffer(memory, dtype).reshape(shape)

    def free_pinned(self, array: NDArray[Any]) -> None:
        self._call("cuMemFreeHost", array.ctypes.data)

    def create_stream(self) -> int:
        return int(self._call("cuStreamCreate", int(self._driver.CUstream_flags.CU_STREAM_NON_BLOCKING)))

    def destroy_stream(self, stream: int) -> None:
        self._call("cuStreamDestroy", stream)

    def synchronize(self, stream: int) -> None:
        self._call("cuStreamSynchronize", stream)

    def wait_for(self, stream: int, producer: int) -> None:
        event = self._call("cuEventCreate", int(self._driver.CUevent_flags.CU_EVENT_DISABLE_TIMING))
        try:
            self._call("cuEventRecord", event, producer)
            self._call("cuStreamWaitEvent", stream, event, 0)
        finally:
            # The driver keeps an event until the streams that wait for it have passed it.
            self._call("cuEventDestroy", event)

    def copy_to_device(self, pointer: int, array: NDArray[Any], stream: int) -> None:
        self._call("cuMemcpyHtoDAsync", pointer, array.ctypes.data, array.nbytes, stream)

    def copy_to_host(self, array: NDArray[Any], pointer: int, stream: int) -> None:
        self._call("cuMemcpyDtoHAsync", array.ctypes.data, pointer, array.nbytes, stream)

    def copy_on_device(self, target: int, source: int, nbytes: int, stream: int) -> None:
        self._call("cuMemcpyDtoDAsync", target, source, nbytes, stream)

    def begin_capture(self, stream: int) -> None:
        # Thread-local, so that calls of other threads, such as allocations of another detector, do
        # not invalidate it.
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", stream, mode)

    def end_capture(self, stream: int) -> int:
        graph = self._call("cuStreamEndCapture", stream)
        try:
            return int(self._call("cuGraphInstantiate", graph, 0))
        finally:
            self._call("cuGraphDestroy", graph)

    def launch(self, graph: int, stream: int) -> None:
        self._call("cuGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        self._call("cuGraphExecDestroy", graph)

    def create_event(self) -> int:
        return int(self._call("cuEventCreate", int(self._driver.CUevent_flags.CU_EVENT_DEFAULT)))

    def destroy_event(self, event: int) -> None:
        self._call("cuEventDestroy", event)

    def record(self, event: int, stream: int) -> None:
        self._call("cuEventRecord", event, stream)

    def elapsed_ms(self, start: int, end: int) -> float:
        return float(self._call("cuEventElapsedTime", start, end))

    def close(self) -> None:
        if self._context is not None:
            self._context = None
            self._call("cuDevicePrimaryCtxRelease", self._device)


def _import_driver() -> Any:
    try:
        return import_module("cuda.bindings.driver")
    except (ImportError, OSError, RuntimeError) as error:
        raise BackendError(f"CUDA needs the package cuda-bindings: {error}", fix=INSTALL) from error
