"""PyCUDA's side of the API, over a stand-in that behaves as PyCUDA does: contexts on a stack for
each thread."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest

from kdx.errors import BackendError
from kdx.runtime.tensorrt.cuda import pycuda
from kdx.runtime.tensorrt.cuda.api import CudaError
from kdx.runtime.tensorrt.cuda.pycuda import CudaPycuda
from kdx.runtime.tensorrt.cuda.runner import EngineRunner, GraphState


class Error(Exception):
    pass


OutOfMemoryError = type("MemoryError", (Error,), {})  # as PyCUDA calls it


class Device:
    def __init__(self, index):
        self.index = index

    def __eq__(self, other):
        return self.index == other.index

    __hash__ = None

    @staticmethod
    def count():
        return 3

    def name(self):
        return "A GPU"

    def compute_capability(self):
        return (8, 6)


class Context:
    stacks = threading.local()
    synchronized = 0

    def __init__(self, index=1):
        self.device = Device(index)

    @classmethod
    def stack(cls):
        if not hasattr(cls.stacks, "held"):
            cls.stacks.held = []
        return cls.stacks.held

    @classmethod
    def get_current(cls):
        return cls.stack()[-1] if cls.stack() else None

    def push(self):
        self.stack().append(self)

    @classmethod
    def pop(cls):
        cls.stack().pop()

    @classmethod
    def get_device(cls):
        return cls.get_current().device

    @classmethod
    def synchronize(cls):
        cls.synchronized += 1


def make_driver() -> SimpleNamespace:
    """The module ``pycuda.driver``; whatever it makes must be made and used with a context
    current."""
    state = SimpleNamespace(memory={}, next=4096, live=0)

    def require_context():
        if Context.get_current() is None:
            raise Error("cuMemAlloc failed: invalid device context")

    class Owned:
        def __init__(self, *_):
            require_context()
            state.live += 1

        def __del__(self):
            state.live -= 1

    class Stream(Owned):  # of the three, only streams show their handle
        handle = property(id)

        def synchronize(self):
            require_context()

    class Event(Owned):
        def record(self, stream):
            assert isinstance(stream, Stream)
            return self

        def time_till(self, other):
            return 2.5

    class Allocation(Owned):
        def __init__(self, nbytes):
            if nbytes > 1 << 20:
                raise OutOfMemoryError("cuMemAlloc failed: out of memory")
            super().__init__()
            state.next += 1 << 21
            self.pointer = state.next
            state.memory[self.pointer] = np.zeros(nbytes, np.uint8)

        def __int__(self):
            return self.pointer

        def free(self):
            del state.memory[self.pointer]

    def pagelocked_empty(shape, dtype):
        require_context()
        array = np.empty(shape, dtype).view(Pinned)
        array.owner = SimpleNamespace(freed=False)
        array.owner.free = lambda owner=array.owner: setattr(owner, "freed", True)
        driver.owners.append(array.owner)
        return array

    class Pinned(np.ndarray):
        owner = None  # set on what is allocated, not on its views

        @property
        def base(self):
            return self.owner

    def find(pointer):
        return next((m, pointer - p) for p, m in state.memory.items() if p <= pointer < p + m.nbytes)

    def htod(pointer, array, stream):
        memory, offset = find(pointer)
        memory[offset : offset + array.nbytes] = np.asarray(array).reshape(-1).view(np.uint8)

    def dtoh(array, pointer, stream):
        memory, offset = find(pointer)
        np.asarray(array).reshape(-1).view(np.uint8)[:] = memory[offset : offset + array.nbytes]

    def dtod(target, source, nbytes, stream):
        (to, at), (of, start) = find(target), find(source)
        to[at : at + nbytes] = of[start : start + nbytes]

    driver = SimpleNamespace(
        Error=Error,
        Context=Context,
        Device=Device,
        Stream=Stream,
        Event=Event,
        mem_alloc=Allocation,
        pagelocked_empty=pagelocked_empty,
        memcpy_htod_async=htod,
        memcpy_dtoh_async=dtoh,
        memcpy_dtod_async=dtod,
        get_driver_version=lambda: 12080,
        state=state,
        owners=[],
    )
    return driver


@pytest.fixture
def driver(monkeypatch):
    made = make_driver()
    monkeypatch.setattr(pycuda, "_import_driver", lambda: made)
    yield made
    Context.stack().clear()


def test_without_a_context_it_says_so(driver):
    with pytest.raises(BackendError, match="no PyCUDA context is current") as caught:
        CudaPycuda()
    assert "autoprimaryctx" in caught.value.fix


def test_it_lives_in_the_current_context_and_ends_none(driver):
    context = Context()
    context.push()
    cuda = CudaPycuda()
    assert cuda.ordinal == 1
    with cuda.current():
        assert Context.stack() == [context]  # not pushed again
        gpu = cuda.device()
        assert (gpu.name, gpu.compute_capability, gpu.driver) == ("A GPU", "8.6", "12.8")
    seen = []

    def elsewhere():
        with cuda.current():
            seen.append(list(Context.stack()))
        seen.append(list(Context.stack()))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [[context], []]
    cuda.close()
    cuda.close()
    assert Context.stack() == [context]
    with pytest.raises(BackendError, match="was released"), cuda.current():
        pass


def test_another_context_is_put_back(driver):
    ours, theirs = Context(), Context(2)
    ours.push()
    cuda = CudaPycuda()
    theirs.push()
    with cuda.current():
        assert Context.get_current() is ours
    assert Context.get_current() is theirs


def test_errors_name_call_and_code(driver):
    Context().push()
    cuda = CudaPycuda()
    with pytest.raises(CudaError, match=r"cuMemAlloc failed: CUDA_ERROR_OUT_OF_MEMORY \(out of memory\)"):
        cuda.allocate(1 << 21)


def test_memory_streams_and_events(driver):
    Context().push()
    cuda = CudaPycuda()
    live = driver.state.live
    stream, start, end = cuda.create_stream(), cuda.create_event(), cuda.create_event()
    host, back = (cuda.allocate_pinned((2, 4), np.float32) for _ in range(2))
    host[:], back[:] = 7, 0
    first, second = cuda.allocate(32), cuda.allocate(32)
    cuda.record(start, stream)
    cuda.copy_to_device(first, host, stream)
    cuda.copy_on_device(second, first, 32, stream)
    cuda.copy_to_host(back, second, stream)
    cuda.record(end, stream)
    cuda.synchronize(stream)
    assert (np.asarray(back) == 7).all()
    assert cuda.elapsed_ms(start, end) == 2.5
    waited = Context.synchronized
    cuda.wait_for(stream, 1)
    assert Context.synchronized == waited + 1
    for pointer in (first, second):
        cuda.free(pointer)
    for array in (host, back):
        cuda.free_pinned(array)
    assert all(owner.freed for owner in driver.owners)
    for event in (start, end):
        cuda.destroy_event(event)
    cuda.destroy_stream(stream)
    assert driver.state.memory == {}
    assert driver.state.live == live
    assert cuda._objects == {}


def test_it_has_no_graphs(driver):
    Context().push()
    cuda = CudaPycuda()
    for call in (lambda: cuda.begin_capture(1), lambda: cuda.end_capture(1), lambda: cuda.launch(1, 1)):
        with pytest.raises(BackendError, match="does not support CUDA graphs"):
            call()


def test_a_runner_in_it_never_captures(driver, images):
    from tests.kdx.runtime.tensorrt.fake_runtime import SHAPE, Dims, expected_outputs

    class PlainContext:
        def __init__(self):
            self.addresses = {}

        def set_optimization_profile_async(self, index, stream):
            return True

        def set_device_memory(self, pointer, nbytes):
            assert nbytes == driver.state.memory[pointer].nbytes > 0

        def set_input_shape(self, name, shape):
            self.batch = shape[0]
            return True

        def set_tensor_address(self, name, pointer):
            self.addresses[name] = pointer
            return True

        def get_tensor_shape(self, name):
            return Dims(self.batch, 3, 4)

        def execute_async_v3(self, stream):
            memory = {name: driver.state.memory[pointer] for name, pointer in self.addresses.items()}
            count = self.batch * int(np.prod(SHAPE))
            outputs = expected_outputs(memory["image"][:count].reshape(self.batch, *SHAPE))
            for name, values in zip(("anomaly_map", "anomaly_score"), outputs, strict=True):
                memory[name][: values.nbytes] = np.frombuffer(values.tobytes(), np.uint8)
            return True

    engine = SimpleNamespace(
        num_optimization_profiles=1,
        get_tensor_profile_shape=lambda name, index: [Dims(4, *SHAPE)] * 3,
        get_tensor_shape=lambda name: Dims(-1, *SHAPE),
        device_memory_size_v2=0,
    )
    Context().push()
    cuda = CudaPycuda()
    runner = EngineRunner(cuda, engine, [4], create_context=lambda engine: PlainContext())
    for count in (2, 2, 2, 4):
        maps, scores = expected_outputs(images[:count])
        outputs = runner.run(images[:count])
        np.testing.assert_array_equal(outputs.maps, maps)
        np.testing.assert_array_equal(outputs.scores, scores)
    assert runner.graph_state is GraphState.OFF
    runner.close()
    assert driver.state.memory == {}
