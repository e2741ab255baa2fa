"""Arrays on the GPU: what their two protocols say is read right, and what cannot be used is
refused."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from kdx.errors import InputError
from kdx.runtime.device_arrays import DeviceArray, device_array

CUDA, CUDA_HOST, MANAGED = 2, 3, 13


class Interface:
    """An object with ``__cuda_array_interface__``."""

    def __init__(self, **changes: object) -> None:
        whole = {"shape": (2, 4, 3), "typestr": "|u1", "data": (4096, False), "version": 3, "stream": None}
        self.__cuda_array_interface__ = {**whole, **changes}


class OnGpu:
    """A numpy array that says that it lies on a GPU."""

    def __init__(self, values: np.ndarray, device: tuple[int, int] = (CUDA, 0)) -> None:
        self.values = values
        self.device = device
        self.asked: list[object] = []

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, *, stream=None):
        self.asked.append(stream)
        return self.values.__dlpack__()


@pytest.mark.parametrize("thing", [np.zeros((2, 3), np.uint8), [1], None, "text", np.uint8(3)])
def test_what_does_not_lie_on_a_gpu(thing):
    assert device_array(thing) is None


def test_torch_on_the_cpu_does_not_lie_on_a_gpu():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    assert device_array(torch.zeros(3, dtype=torch.uint8)) is None


def test_interface():
    thing = Interface(stream=7)
    assert device_array(thing) == DeviceArray(4096, (2, 4, 3), 7, None, thing)
    assert device_array(Interface(data=(4096, True))).pointer == 4096  # read-only
    assert device_array(Interface(strides=(12, 3, 1))).shape == (2, 4, 3)
    # The stride of a dimension of one means nothing.
    assert device_array(Interface(shape=(1, 4, 3), strides=(999, 3, 1))).shape == (1, 4, 3)


def test_an_array_of_both_protocols_lies_on_the_device_that_dlpack_states():
    """As CuPy's: its interface has the stream, and no device."""

    class Both(Interface):
        def __dlpack_device__(self):
            return MANAGED, 1

        def __dlpack__(self, *, stream=None):
            pytest.fail("the interface is read without a capsule")

    assert device_array(Both(stream=7)).ordinal == 1
    assert device_array(Both(stream=7)).stream == 7


def test_streams_of_the_interface():
    assert device_array(Interface()).stream is None
    without = Interface()
    del without.__cuda_array_interface__["stream"]
    assert device_array(without).stream is None
    # Its second version said nothing of streams: the default one is waited for.
    without.__cuda_array_interface__["version"] = 2
    assert device_array(without).stream == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"typestr": "<f4"}, r"not uint8[\s\S]*float32 \(2, 4, 3\)"),
        ({"typestr": "|i1"}, "not uint8"),
        ({"strides": (24, 6, 2)}, r"not C-contiguous[\s\S]*strides \(24, 6, 2\)"),
        ({"strides": (1, 2, 8)}, "not C-contiguous"),
        ({"mask": Interface}, "masked"),
        ({"data": (0, False)}, "empty"),
        ({"shape": (0, 4, 3)}, "empty"),
        ({"shape": ()}, "empty"),
        ({"stream": 0}, "stream 0"),
    ],
)
def test_interfaces_that_cannot_be_used(changes, message):
    with pytest.raises(InputError, match=message):
        device_array(Interface(**changes))


@pytest.mark.parametrize("kind", [CUDA, MANAGED])
def test_dlpack(kind):
    values = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    thing = OnGpu(values, (kind, 3))
    array = device_array(thing)
    assert (array.pointer, array.shape, array.ordinal) == (values.ctypes.data, (2, 4, 3), 3)
    # The producer was given the stream that waits for it.
    assert thing.asked == [array.stream] == [1]


def test_dlpack_with_an_offset():
    values = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert device_array(OnGpu(values[1:])).pointer == values.ctypes.data + 12


@pytest.mark.parametrize("kind", [1, CUDA_HOST, 10])
def test_dlpack_of_other_devices(kind):
    assert device_array(OnGpu(np.zeros(3, np.uint8), (kind, 0))) is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((2, 3), np.float32), "not uint8"),
        (np.zeros((2, 3), np.int8), "not uint8"),
        (np.zeros((2, 3), np.uint16), "not uint8"),
        (np.zeros((4, 6), np.uint8)[:, ::2], "not C-contiguous"),
        (np.zeros((4, 6), np.uint8).T, "not C-contiguous"),
        (np.zeros((0, 6), np.uint8), "empty"),
    ],
)
def test_dlpack_that_cannot_be_used(values, message):
    with pytest.raises(InputError, match=message):
        device_array(OnGpu(values))


def test_a_producer_that_refuses():
    class Refuses(OnGpu):
        def __dlpack__(self, *, stream=None):
            raise BufferError("requires gradient")

    with pytest.raises(InputError, match="requires gradient"):
        device_array(Refuses(np.zeros(3, np.uint8)))


def test_an_old_interface_gives_way_to_dlpack():
    thing = OnGpu(np.zeros(3, np.uint8))
    thing.__cuda_array_interface__ = Interface(version=2).__cuda_array_interface__
    assert device_array(thing).pointer == thing.values.ctypes.data
    thing.__cuda_array_interface__ = Interface().__cuda_array_interface__
    assert device_array(thing).pointer == 4096


@pytest.mark.slow
def test_memory_is_kept_alive_and_let_go_of():
    class Values(np.ndarray):
        pass

    values = np.zeros(3, np.uint8).view(Values)
    alive = weakref.ref(values)
    array = device_array(OnGpu(values))
    part = array.part(0, 2)
    del values, array
    gc.collect()
    assert alive() is not None
    del part
    gc.collect()
    assert alive() is None


def test_parts():
    array = DeviceArray(1000, (5, 4, 3), None, None, None)
    assert array.nbytes == 60
    assert (array.part(2, 4).pointer, array.part(2, 4).shape) == (1024, (2, 4, 3))
    assert array.part(4, 8).shape == (1, 4, 3)
    assert array.reshape(1, 5, 4, 3).pointer == 1000
