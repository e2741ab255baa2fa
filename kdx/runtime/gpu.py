"""The NVIDIA GPUs of this machine, as the driver reports them without any package or context."""

from __future__ import annotations

import ctypes
import functools
import sys
from dataclasses import dataclass

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU.

    Attributes:
        name: The card's name.
        compute_capability: The compute capability, for example ``8.6``.
        driver: The newest CUDA version that the driver supports, for example ``13.0``.
    """

    name: str
    compute_capability: str
    driver: str


@functools.cache
def gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that the driver reports; none without a driver."""
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return ()
    count, version = ctypes.c_int(0), ctypes.c_int(0)
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    cuda.cuDriverGetVersion(ctypes.byref(version))
    driver = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return tuple(_gpu(cuda, index, driver) for index in range(count.value))


def _gpu(cuda: ctypes.CDLL, index: int, driver: str) -> Gpu:
    device, major, minor = ctypes.c_int(0), ctypes.c_int(0), ctypes.c_int(0)
    name = ctypes.create_string_buffer(256)
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    return Gpu(name.value.decode(errors="replace"), f"{major.value}.{minor.value}", driver)
