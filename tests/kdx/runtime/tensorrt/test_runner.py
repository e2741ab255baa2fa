"""The runner over a fake TensorRT: results, graphs, memory, and every single call failing once."""

from __future__ import annotations

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from kdx.errors import BackendError, InputError
from kdx.runtime.device_arrays import DeviceArray
from kdx.runtime.tensorrt.cuda.api import CudaError
from kdx.runtime.tensorrt.cuda.runner import EngineRunner, GraphState
from tests.kdx.runtime.tensorrt.fake_cuda import FakeCuda, MisuseError
from tests.kdx.runtime.tensorrt.fake_runtime import SHAPE, Allocation, FakeEngine, expected_outputs

NO_STREAM = None


def user_managed(engine: FakeEngine):
    return engine.create_execution_context(Allocation.USER_MANAGED)


def open_runner(cuda: FakeCuda, batches=(1, 4), *, engine=None, create_context=user_managed, **options) -> EngineRunner:
    engine = engine or FakeEngine(cuda, batches)
    explain = lambda: "; ".join(engine.logged)  # noqa: E731 - it belongs to this engine
    return EngineRunner(cuda, engine, batches, create_context=create_context, explain=explain, **options)


@pytest.fixture
def runner(cuda):
    with_runner = open_runner(cuda)
    yield with_runner
    with_runner.close()


def upload(cuda: FakeCuda, images: np.ndarray, stream: int | None = NO_STREAM) -> DeviceArray:
    """Put images into device memory, at an address that TensorRT itself would not take."""
    with cuda.current():
        pointer = cuda.allocate(images.nbytes + 4) + 4
    cuda.device_bytes(pointer, images.nbytes)[:] = images.reshape(-1)
    return DeviceArray(pointer, images.shape, stream, 0, None)


def release(cuda: FakeCuda, array: DeviceArray) -> None:
    with cuda.current():
        cuda.free(array.pointer - 4)


def assert_right(outputs, images: np.ndarray) -> None:
    maps, scores = expected_outputs(images)
    np.testing.assert_array_equal(outputs.maps, maps)
    np.testing.assert_array_equal(outputs.scores, scores)


# Results


def test_every_batch_plain_captured_and_replayed(cuda, runner, images):
    for count in (1, 2, 3, 4):
        for start in range(4):  # plain, captured, replayed, replayed: each on other images
            batch = images[start : start + count]
            assert_right(runner.run(batch), batch)
        assert runner.graph_state is GraphState.CAPTURED


def test_images_need_not_be_contiguous_or_writeable(runner, images):
    batch = images[6:2:-1]
    assert not batch.flags.c_contiguous
    batch.flags.writeable = False
    assert_right(runner.run(batch), batch)


def test_outputs_are_the_callers_own(runner, images):
    first = runner.run(images[:2])
    kept = first.maps.copy(), first.scores.copy()
    for start in range(4):
        runner.run(images[start : start + 2])
    np.testing.assert_array_equal(first.maps, kept[0])
    np.testing.assert_array_equal(first.scores, kept[1])
    assert first.maps.base is None
    assert first.maps.flags.writeable


@pytest.mark.parametrize(
    ("batch", "received"),
    [
        (np.zeros((0, *SHAPE), np.uint8), r"\(0, 6, 8, 3\)"),
        (np.zeros((5, *SHAPE), np.uint8), r"\(5, 6, 8, 3\)"),
        (np.zeros((1, 6, 8, 1), np.uint8), r"\(1, 6, 8, 1\)"),
        (np.zeros(SHAPE, np.uint8), r"uint8 \(6, 8, 3\)"),
        (np.zeros((1, *SHAPE), np.float32), "float32"),
        (DeviceArray(4096, (1, 8, 6, 3), None, None, None), r"\(1, 8, 6, 3\)"),
    ],
)
def test_other_batches_are_refused(runner, images, batch, received):
    with pytest.raises(InputError, match=received):
        runner.run(batch)
    assert_right(runner.run(images[:1]), images[:1])


def test_images_on_another_gpu_are_refused(runner):
    with pytest.raises(InputError, match="device 1"):
        runner.run(DeviceArray(4096, (1, *SHAPE), None, 1, None))


def test_an_engine_of_other_profiles_than_its_record_is_refused(cuda):
    with pytest.raises(BackendError, match=r"largest batches \[1, 8\]"):
        open_runner(cuda, (1, 8), engine=FakeEngine(cuda, (1, 4)))


# Graphs


def test_a_replay_is_one_launch(cuda, runner, images):
    runner.run(images[:2])
    runner.run(images[:2])
    del cuda.calls[:]
    runner.run(images[:2])
    assert cuda.calls == ["push", "launch", "synchronize"]


def test_the_smallest_profile_is_used_and_profiles_do_not_disturb_each_other(cuda, runner, images):
    for count in (1, 4, 1, 4):
        runner.run(images[:count])
    del cuda.calls[:]
    for count in (1, 4, 1, 4):
        assert_right(runner.run(images[:count]), images[:count])
    assert cuda.calls.count("launch") == 4
    assert "set_input_shape" not in cuda.calls


def test_another_batch_in_a_profile_drops_its_graph(cuda, runner, images):
    for count in (4, 4, 3):
        runner.run(images[:count])
    assert runner.graph_state is GraphState.WAITING
    assert not cuda.graphs
    for count in (4, 3, 4, 3):  # never twice in a row: nothing is captured, everything is right
        assert_right(runner.run(images[:count]), images[:count])
    assert not cuda.graphs


def test_graphs_can_be_left_out(cuda, images):
    runner = open_runner(cuda, cuda_graph=False)
    for _ in range(3):
        assert_right(runner.run(images[:2]), images[:2])
    assert runner.graph_state is GraphState.OFF
    assert "begin_capture" not in cuda.calls
    runner.close()


def test_an_api_without_graphs_is_not_asked_for_them(cuda, images):
    cuda.supports_graphs = False
    runner = open_runner(cuda)
    for _ in range(3):
        assert_right(runner.run(images[:2]), images[:2])
    assert runner.graph_state is GraphState.OFF
    assert "begin_capture" not in cuda.calls
    runner.close()


def test_an_engine_that_cannot_be_captured_runs_plainly_and_says_so_once(cuda, images):
    engine = FakeEngine(cuda)
    engine.refuse_capture = True
    runner = open_runner(cuda, engine=engine)
    assert_right(runner.run(images[:2]), images[:2])
    before = set(cuda.streams)
    with pytest.warns(RuntimeWarning, match=r"CUDA graphs are off.*not while the stream is capturing"):
        assert_right(runner.run(images[1:3]), images[1:3])
    assert before.isdisjoint(cuda.streams)  # a capture that failed may have left its mark on the stream
    assert runner.graph_state is GraphState.FAILED
    assert "not while the stream is capturing" in runner.graph_failure
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for count in (2, 2, 1, 1, 4):
            assert_right(runner.run(images[:count]), images[:count])
    assert cuda.calls.count("begin_capture") == 1
    runner.close()


# Images on the GPU


def test_images_on_the_gpu(cuda, runner, images):
    for start in range(4):
        batch = images[start : start + 2]
        array = upload(cuda, batch)
        del cuda.calls[:]
        assert_right(runner.run(array), batch)
        assert "copy_to_device" not in cuda.calls
        release(cuda, array)  # graphs hold no address of it
    assert "launch" in cuda.calls


def test_host_and_gpu_take_turns(cuda, runner, images):
    array = upload(cuda, images[4:6])
    for _ in range(3):
        assert_right(runner.run(images[:2]), images[:2])
        assert_right(runner.run(array), images[4:6])
    assert len(cuda.graphs) == 2
    release(cuda, array)


def test_the_producers_stream_is_waited_for(cuda, runner, images):
    for start in range(3):
        batch = images[start : start + 1]
        with cuda.current():
            producer = cuda.create_stream()
        array = upload(cuda, np.zeros_like(batch), stream=producer)

        def write(array=array, batch=batch):
            cuda.device_bytes(array.pointer, batch.nbytes)[:] = batch.reshape(-1)

        cuda.queue(producer, write)
        assert_right(runner.run(array), batch)
        release(cuda, array)
        with cuda.current():
            cuda.destroy_stream(producer)


# Times


def test_timed_runs_give_outputs_and_three_times(cuda, runner, images):
    array = upload(cuda, images[:2])
    for batch in (images[:2], array, images[:2]):
        outputs, times = runner.timed_run(batch)
        assert_right(outputs, images[:2])
        assert times == (1.0, 1.0, 1.0)  # one tick of the fake clock each
    assert "begin_capture" not in cuda.calls
    release(cuda, array)


def test_compute_only_replays_the_layers_alone(cuda, runner, images):
    assert runner.compute_only(images[:2], 5) == [1.0] * 5
    assert_right(runner._buffers.outputs(2), images[:2])  # of these images, whose values a GPU's speed depends on
    assert cuda.calls.count("launch") == 5
    assert cuda.calls.count("copy_to_device") == cuda.calls.count("copy_to_host") / 2 == 1
    assert_right(runner.run(images[:2]), images[:2])


# Failures


def script(cuda: FakeCuda, images: np.ndarray, failure: int | None) -> tuple[list[str], list[str]]:
    """Load, run in every mode, close; return errors and warnings. What must be true after a failure
    is checked."""
    raised: list[str] = []
    array = upload(cuda, images[:2])
    del cuda.calls[:]
    cuda.fail_at(failure)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            runner = open_runner(cuda)
        except BackendError as error:
            assert not cuda.leaked or cuda.leaked == [f"memory {array.pointer - 4:#x}"]
            raised.append(str(error))
            runner = open_runner(cuda)  # loading again succeeds

        def attempt(action, check):
            try:
                result = action()
            except BackendError as error:
                raised.append(str(error))
                result = action()  # the very next call succeeds
            check(result)

        for count in (1, 4, 1, 4, 1, 4, 3):
            for batch in (images[:count], images[5 : 5 + count]):
                attempt(
                    lambda batch=batch: runner.run(batch), lambda outputs, batch=batch: assert_right(outputs, batch)
                )
        for _ in range(3):
            attempt(lambda: runner.run(array), lambda outputs: assert_right(outputs, images[:2]))
        attempt(lambda: runner.timed_run(images[:2]), lambda result: assert_right(result[0], images[:2]))
        attempt(lambda: runner.compute_only(images[:4], 2), lambda times: len(times) == 2)
        state, reason = runner.graph_state, runner.graph_failure
        assert (state is GraphState.FAILED) == bool(reason)
        try:
            runner.close()
        except BackendError as error:
            raised.append(str(error))
        runner.close()
    cuda.fail_at(None)
    release(cuda, array)
    return raised, [str(warning.message) for warning in caught]


def count_calls() -> list[str]:
    cuda = FakeCuda()
    images = np.zeros((12, *SHAPE), np.uint8)
    assert script(cuda, images, None) == ([], [])
    return cuda.calls[: -len(["push", "free"])]


CALLS = count_calls()


def test_the_script_reaches_every_call():
    reached = {
        "launch",
        "end_capture",
        "copy_on_device",
        "execute_async_v3",
        "set_input_shape",
        "destroy_graph",
        "free",
    }
    assert reached <= set(CALLS)
    assert len(CALLS) > 150


@pytest.mark.parametrize("failure", range(1, len(CALLS) + 1))
def test_any_one_call_may_fail(cuda, images, failure):
    raised, warned = script(cuda, images, failure)
    failed = CALLS[failure - 1]
    assert cuda.calls[failure - 1] == failed
    # A graph that cannot be destroyed is forgotten; every other failure is reported, once, as an
    # error or a warning.
    assert len(raised) + len(warned) == (failed != "destroy_graph")


def test_a_failed_run_says_what_tensorrt_logged(cuda, runner, images):
    runner.run(images[:1])
    cuda.fail_at(["push", "begin_capture", "copy_to_device", "execute_async_v3"].index("begin_capture") + 1)
    with pytest.warns(RuntimeWarning, match="begin_capture failed: CUDA_ERROR_UNKNOWN"):
        runner.run(images[:1])
    cuda.fail_at(3)  # after push and the copy in
    with pytest.raises(BackendError, match="TensorRT could not run a batch of 1: enqueue: no"):
        runner.run(images[:1])


def test_after_a_failed_launch_the_next_call_is_a_plain_enqueue(cuda, runner, images):
    for _ in range(2):
        runner.run(images[:1])
    cuda.fail_at(["push", "launch"].index("launch") + 1)
    with pytest.raises(CudaError, match="launch failed"):
        runner.run(images[:1])
    assert not cuda.graphs
    del cuda.calls[:]
    assert_right(runner.run(images[2:3]), images[2:3])
    assert "execute_async_v3" in cuda.calls
    assert "launch" not in cuda.calls


def test_an_interrupt_leaves_nothing_behind(cuda, runner, images, monkeypatch):
    runner.run(images[:1])

    def interrupt(stream):
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(cuda, "synchronize", interrupt)
    with pytest.raises(KeyboardInterrupt):
        runner.run(images[:1])
    assert not cuda.streams  # what was queued has been waited for, and meets nothing of the next call
    for start in range(4):
        assert_right(runner.run(images[start : start + 1]), images[start : start + 1])


# Closing


def test_closing_frees_everything_in_the_context(cuda, images):
    runner = open_runner(cuda)
    for _ in range(3):
        runner.run(images[:1])
        runner.run(images[:4])
    assert len(cuda.graphs) == 2
    runner.close()
    assert not cuda.leaked
    assert cuda.contexts_destroyed == [True, True]
    runner.close()
    with pytest.raises(BackendError, match="closed"):
        runner.run(images[:1])


# Threads


def test_eight_threads_on_one_runner(cuda, runner, images):
    def work(seed: int) -> None:
        for step in range(30):
            count = (seed + step) % 4 + 1
            start = (seed * 5 + step) % 8
            assert_right(runner.run(images[start : start + count]), images[start : start + count])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


def test_runners_have_streams_of_their_own(cuda, images):
    runners = [open_runner(cuda) for _ in range(3)]
    assert len(cuda.streams) == 3
    start = threading.Barrier(6)

    def work(index: int) -> None:
        runner = runners[index % 3]
        start.wait()
        for step in range(20):
            batch = images[step % 8 : step % 8 + 1 + index % 4]
            assert_right(runner.run(batch), batch)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    for runner in runners:
        runner.close()


def test_closing_while_others_run(cuda, images):
    runner = open_runner(cuda)
    begun = threading.Event()

    def work(_: int) -> str:
        for step in range(10_000):
            begun.set()
            try:
                assert_right(runner.run(images[step % 8 : step % 8 + 1]), images[step % 8 : step % 8 + 1])
            except BackendError as error:
                return error.message
        return "never closed"

    with ThreadPoolExecutor(4) as pool:
        messages = [pool.submit(work, index) for index in range(4)]
        begun.wait()
        runner.close()
        assert {future.result() for future in messages} == {"the detector is closed"}


# The fake itself: what it is there to notice, it notices


def test_the_fake_notices_misuse():
    cuda = FakeCuda()
    with pytest.raises(MisuseError, match="not current"):
        cuda.allocate(4)
    with cuda.current():
        pointer, stream, host = cuda.allocate(4), cuda.create_stream(), cuda.allocate_pinned((4,), np.uint8)
        cuda.copy_to_host(host, pointer, stream)
        assert set(host) == {0x5A}  # nothing happens before someone waits
        cuda.begin_capture(stream)
        cuda.copy_to_host(host, pointer, stream)
        with pytest.raises(MisuseError, match="captures"):
            cuda.synchronize(stream)
        graph = cuda.end_capture(stream)
        cuda.synchronize(stream)
        assert set(host) == {0xA5}
        cuda.free(pointer)
        with pytest.raises(MisuseError, match="freed twice"):
            cuda.free(pointer)
        cuda.launch(graph, stream)
        with pytest.raises(MisuseError, match="not allocated"):
            cuda.synchronize(stream)
        cuda.destroy_graph(graph)
        with pytest.raises(MisuseError, match="not there"):
            cuda.launch(graph, stream)
        cuda.fail_at(1)
        with pytest.raises(CudaError, match="free_pinned failed"):
            cuda.free_pinned(host)
    assert len(cuda.misuses) == 5
    assert [name.split()[0] for name in cuda.leaked] == ["streams"]


def test_the_fake_engine_notices_a_capture_before_an_enqueue(cuda, images):
    engine = FakeEngine(cuda)
    context = engine.create_execution_context()
    with cuda.current():
        stream = cuda.create_stream()
        context.set_optimization_profile_async(0, stream)
        context.set_input_shape("image", (1, *SHAPE))
        pointers = [cuda.allocate(1024) for _ in range(3)]
        for name, pointer in zip(("image", "anomaly_map", "anomaly_score"), pointers, strict=True):
            context.set_tensor_address(name, pointer)
        cuda.synchronize(stream)
        cuda.begin_capture(stream)
        with pytest.raises(MisuseError, match="before a plain enqueue"):
            context.execute_async_v3(stream)
        cuda.destroy_graph(cuda.end_capture(stream))
        context.execute_async_v3(stream)
        cuda.synchronize(stream)
        cuda.begin_capture(stream)
        context.execute_async_v3(stream)
        graph = cuda.end_capture(stream)
        context.set_input_shape("image", (1, *SHAPE))
        cuda.launch(graph, stream)
        with pytest.raises(MisuseError, match="after its context was changed"):
            cuda.synchronize(stream)
        cuda.destroy_graph(graph)
        cuda.destroy_stream(stream)
        for pointer in pointers:
            cuda.free(pointer)
    cuda.misuses.clear()
