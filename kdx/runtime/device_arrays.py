"""Images on the GPU, taken without a copy from CuPy, Numba, PyCUDA, torch and GPU frame grabbers.

Two protocols describe such arrays: ``__cuda_array_interface__`` (Numba) and ``__dlpack__`` (the
array API).
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from kdx.errors import InputError

# DLPack's numbers of memory that kernels can read by its address, and of the legacy default stream.
_DLPACK_CUDA = frozenset({2, 13})  # kDLCUDA, kDLCUDAManaged
_LEGACY_STREAM = 1
_DLPACK_UINT = 1

_EXPECTED = "a C-contiguous uint8 array on the GPU"


@dataclass(frozen=True)
class DeviceArray:
    """C-contiguous uint8 values in device memory.

    Attributes:
        pointer: The address of the first value.
        shape: The shape, of one or more dimensions.
        stream: The stream that writes the array, for which readers must wait; None if it is
            complete.
        ordinal: The number of the device; None if the array does not state it: the interface does
            not, and DLPack, which CuPy and torch support too, does.
        owner: The object that keeps the memory alive.
    """

    pointer: int
    shape: tuple[int, ...]
    stream: int | None
    ordinal: int | None
    owner: object

    @property
    def nbytes(self) -> int:
        """The size in bytes."""
        return prod(self.shape)

    def reshape(self, *shape: int) -> DeviceArray:
        """Return the same values in another shape."""
        return replace(self, shape=shape)

    def part(self, start: int, stop: int) -> DeviceArray:
        """Return the entries ``start`` to ``stop`` of the first dimension."""
        stop = min(stop, self.shape[0])
        stride = prod(self.shape[1:])
        return replace(self, pointer=self.pointer + start * stride, shape=(stop - start, *self.shape[1:]))


def device_array(thing: object) -> DeviceArray | None:
    """Return the device array that an object describes, or None if it is not on the GPU.

    Raises:
        InputError: The array is not uint8, not C-contiguous, empty, or violates its protocol.
    """
    if isinstance(thing, np.ndarray):  # NumPy supports DLPack too
        return None
    if isinstance(thing, DeviceArray):
        return thing
    # torch's property raises an exception for a tensor on the CPU.
    interface = getattr(thing, "__cuda_array_interface__", None)
    ordinal = _dlpack_device(thing)
    # Before version 3, the interface does not state the stream; DLPack does.
    if interface is not None and (interface.get("version", 0) >= 3 or ordinal is None):
        return _from_interface(thing, interface, ordinal)
    return None if ordinal is None else _from_dlpack(thing, ordinal)


def _from_interface(thing: object, interface: dict[str, Any], ordinal: int | None) -> DeviceArray:
    shape = tuple(int(size) for size in interface["shape"])
    if np.dtype(interface["typestr"]) != np.uint8:
        raise _refused("is not uint8", f"{np.dtype(interface['typestr'])} {shape}")
    if interface.get("mask") is not None:
        raise _refused("is masked", f"uint8 {shape} with a mask")
    _require_contiguous(shape, interface.get("strides"))
    # A missing stream means that there is nothing to wait for, but only since version 3.
    old = interface.get("version", 0) < 3
    stream = interface.get("stream", _LEGACY_STREAM if old else None)
    if stream == 0:
        raise _refused("names stream 0, which the interface forbids as ambiguous", "stream 0")
    return _checked(DeviceArray(int(interface["data"][0]), shape, stream, ordinal, thing))


class _Tensor(ctypes.Structure):
    """DLPack's ``DLTensor``, with which its ``DLManagedTensor`` begins."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def _dlpack_device(thing: object) -> int | None:
    """Return the number of the CUDA device of an object that supports DLPack, or None."""
    if not (hasattr(thing, "__dlpack__") and hasattr(thing, "__dlpack_device__")):
        return None
    kind, ordinal = thing.__dlpack_device__()
    return int(ordinal) if int(kind) in _DLPACK_CUDA else None


def _from_dlpack(thing: Any, ordinal: int) -> DeviceArray:
    try:
        # The producer makes the legacy default stream wait for its own stream, so readers wait for
        # that one.
        capsule = thing.__dlpack__(stream=_LEGACY_STREAM)
        address = _capsule_pointer(capsule, b"dltensor")
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"the array on the GPU cannot be handed over: {error}", expected=_EXPECTED) from error
    tensor = _Tensor.from_address(address)
    shape = tuple(tensor.shape[index] for index in range(tensor.ndim))
    if (tensor.code, tensor.bits, tensor.lanes) != (_DLPACK_UINT, 8, 1):
        raise _refused("is not uint8", f"type {tensor.code}, {tensor.bits} bits, {shape}")
    strides = tuple(tensor.strides[index] for index in range(tensor.ndim)) if tensor.strides else None
    _require_contiguous(shape, strides)
    # A capsule that is not consumed frees its tensor when it is freed itself, so it is the owner.
    pointer = (tensor.data or 0) + tensor.byte_offset
    return _checked(DeviceArray(pointer, shape, _LEGACY_STREAM, ordinal, (capsule, thing)))


def _capsule_pointer(capsule: object, name: bytes) -> int:
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    return int(get(capsule, name))


def _require_contiguous(shape: tuple[int, ...], strides: tuple[int, ...] | None) -> None:
    """Check strides, which are the same in bytes and in values for uint8."""
    if strides is None or 0 in shape:
        return
    dense = [prod(shape[axis + 1 :]) for axis in range(len(shape))]
    if any(size > 1 and given != wanted for size, given, wanted in zip(shape, strides, dense, strict=True)):
        raise _refused("is not C-contiguous", f"shape {shape}, strides {tuple(strides)}", "make it contiguous first")


def _checked(array: DeviceArray) -> DeviceArray:
    if not array.shape or not array.nbytes or not array.pointer:
        raise _refused("is empty", f"uint8 {array.shape} at address {array.pointer}")
    return array


def _refused(what: str, received: str, fix: str = "") -> InputError:
    return InputError(f"the array on the GPU {what}", expected=_EXPECTED, received=received, fix=fix)
