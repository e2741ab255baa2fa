"""The NVIDIA GPUs of this machine, as the driver reports them without any package or context."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass, field
from typing import Any

from kdx.runtime.loading_process import LoadingProcess

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
# Errors with which drivers refuse to start, and what helps.
_HELP = {
    3: "this process may have been forked from one that has used CUDA; start it with spawn",  # NOT_INITIALIZED
    802: "the fabric manager may not run (systemctl status nvidia-fabricmanager)",  # SYSTEM_NOT_READY
    803: "the driver's libraries and its kernel module differ; restart the machine",  # SYSTEM_DRIVER_MISMATCH
    804: "the card does not support the forward-compatible driver libraries",  # COMPAT_NOT_SUPPORTED_ON_DEVICE
    999: "the kernel module may be in a bad state; see dmesg, and restart the machine",  # UNKNOWN
}


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


@dataclass(frozen=True)
class _Answer:
    """What the driver answered, and to which process: the GPUs, or the error of its start."""

    gpus: tuple[Gpu, ...] = ()
    error: str = ""
    process: LoadingProcess = field(default_factory=LoadingProcess)


def gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that the driver reports; none without a driver, or if it does not start."""
    return _answer().gpus


def why_no_gpu() -> str:
    """Return why :func:`gpus` is empty, as the end of a sentence on this machine's driver."""
    error = _answer().error
    return f"the driver does not start: {error}" if error else "the driver shows none on this machine"


def require_driver() -> None:
    """Raise ``ForkError`` if the driver shows GPUs that this process, a forked one, cannot use."""
    if gpus():
        _answer().process.require_current("the driver of the GPU was started")


_found: list[_Answer] = []


def _answer() -> _Answer:
    # A driver that does not start yet, for example before its fabric manager, is asked again.
    if not _found:
        answer = _ask_driver()
        if answer.error:
            return answer
        _found.append(answer)
    return _found[0]


def _ask_driver() -> _Answer:
    cuda = _load_driver()
    if cuda is None:
        return _Answer()
    count, version = ctypes.c_int(0), ctypes.c_int(0)
    for call, code in (("cuInit", cuda.cuInit(0)), ("cuDeviceGetCount", cuda.cuDeviceGetCount(ctypes.byref(count)))):
        if code == _NO_DEVICE:
            return _Answer()
        if code != 0:
            return _Answer(error=f"{call} returned {_describe(cuda, code)}")
    cuda.cuDriverGetVersion(ctypes.byref(version))
    driver = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return _Answer(tuple(_gpu(cuda, index, driver) for index in range(count.value)))


def _load_driver() -> Any:
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None


def _describe(cuda: Any, code: int) -> str:
    """Return an error of the driver by name and number, with what helps against it."""
    name = ctypes.c_char_p()
    known = cuda.cuGetErrorName(code, ctypes.byref(name)) == 0 and name.value
    text = f"{name.value.decode(errors='replace')} ({code})" if known and name.value else f"error {code}"
    return f"{text}: {_HELP[code]}" if code in _HELP else text


def _gpu(cuda: Any, index: int, driver: str) -> Gpu:
    device, major, minor = ctypes.c_int(0), ctypes.c_int(0), ctypes.c_int(0)
    name = ctypes.create_string_buffer(256)
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    return Gpu(name.value.decode(errors="replace"), f"{major.value}.{minor.value}", driver)
