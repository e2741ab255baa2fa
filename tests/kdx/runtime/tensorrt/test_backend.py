"""The backend over a fake TensorRT: which engines of a bundle it takes and refuses, and the
detector above it."""

from __future__ import annotations

import gc
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest

from kdx.bundle.checked_files import Graph
from kdx.bundle.engine_record import PLAN, RECORD, SCHEMA, Fingerprint, this_system
from kdx.decision.rule import DecisionRule
from kdx.errors import BackendError, InputError
from kdx.imaging.images import InputSpec
from kdx.runtime.detector import Detector
from kdx.runtime.gpu import Gpu
from kdx.runtime.tensorrt import backend
from kdx.runtime.tensorrt.backend import TensorRT
from kdx.runtime.tensorrt.cuda.created import created
from kdx.runtime.tensorrt.cuda.runner import GraphState
from kdx.runtime.tensorrt.log import make_log
from kdx.storage.files import sha256_file
from tests.engines import add_engine, make_record
from tests.kdx.runtime.tensorrt import fake_runtime
from tests.kdx.runtime.tensorrt.fake_cuda import GPU, FakeCuda
from tests.kdx.runtime.tensorrt.fake_runtime import expected_outputs, fake_module

VERSION = "11.4.0.106"


def write_engine(bundle: Path, *, name: str = "here", plan: bytes = fake_runtime.PLAN, **changes: object) -> Path:
    """Put an engine for the fake machine into a bundle; ``changes`` are of its record or its
    fingerprint."""
    fingerprint = Fingerprint(
        flavour="tensorrt",
        tensorrt=VERSION,
        compute_capability=GPU.compute_capability,
        gpu=GPU.name,
        driver="12.4",  # another driver is no reason to refuse
        system=this_system(),
    )
    of_machine = {key: changes.pop(key) for key in list(changes) if key in Fingerprint.__struct_fields__}
    onnx_sha256 = sha256_file(bundle / "model.onnx")
    record = make_record(
        msgspec.structs.replace(fingerprint, **of_machine),
        plan,
        **{"batches": [1, 4], "onnx_sha256": onnx_sha256, **changes},
    )
    return add_engine(bundle, name, record, plan)


@pytest.fixture
def bundle(tmp_path):
    (tmp_path / "part.kdx").mkdir()
    (tmp_path / "part.kdx/model.onnx").write_bytes(b"a graph")
    return tmp_path / "part.kdx"


def open_backend(bundle: Path, cuda: FakeCuda, **options) -> TensorRT:
    module = options.pop("module", None) or fake_module(cuda)
    return TensorRT(
        Graph.of(bundle / "model.onnx"),
        module,
        cuda,
        name="tensorrt",
        flavour=options.pop("flavour", "tensorrt"),
        **options,
    )


def assert_right(outputs, images: np.ndarray) -> None:
    for received, expected in zip(outputs, expected_outputs(images), strict=True):
        np.testing.assert_array_equal(received, expected)


# What is taken


def test_an_engine_for_this_machine_runs(bundle, cuda, images):
    write_engine(bundle)
    with open_backend(bundle, cuda) as loaded:
        for _ in range(3):
            assert_right(loaded.run(images[:4]), images[:4])
        assert loaded.graph_state is GraphState.CAPTURED
        assert loaded.graph_failure == ""
        assert loaded.max_batch == 4
        assert loaded.record.precision == "fp16"
        outputs, times = loaded.timed_run(images[:1])
        assert_right(outputs, images[:1])
        assert times.compute_ms > 0
        assert len(loaded.compute_only(images[:2], 3)) == 3
        with pytest.raises(InputError, match=r"\(1 to 4, 6, 8, 3\)"):
            loaded.compute_only(images[:2].swapaxes(1, 2), 3)
    assert not cuda.retained
    for call in (
        lambda: loaded.run(images[:1]),
        lambda: loaded.graph_state,
        lambda: loaded.compute_only(images[:1], 1),
    ):
        with pytest.raises(BackendError, match="closed"):
            call()
    loaded.close()


def test_the_right_one_of_several_engines_is_taken(bundle, cuda, images):
    write_engine(bundle, name="a", gpu="Another GPU", plan=b"not for us")
    write_engine(bundle, name="b")
    write_engine(bundle, name="c", tensorrt="10.0", plan=b"not for us")
    with open_backend(bundle, cuda) as loaded:
        assert_right(loaded.run(images[:1]), images[:1])


def test_a_forgotten_backend_frees_its_memory(bundle, cuda, images):
    write_engine(bundle)
    open_backend(bundle, cuda).run(images[:1])
    gc.collect()
    assert not cuda.leaked
    assert not cuda.retained


# What is refused: before TensorRT sees the plan, with nothing left allocated


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"onnx_sha256": "0" * 64}, "built from another graph"),
        ({"tensorrt": "10.16.1.11"}, "built for TensorRT 10.16.1.11, here is 11.4.0.106"),
        ({"compute_capability": "9.0"}, "built for compute capability 9.0, here is 8.9"),
        ({"gpu": "Another GPU"}, "built on Another GPU, here is Fake GPU"),
        ({"gpu": None}, "built on None, here is Fake GPU"),
        ({"system": "Windows AMD64"}, "built for system Windows AMD64"),
        ({"flavour": "rtx"}, "built for flavour rtx"),
        ({"schema": SCHEMA + 1}, "newer kdx"),
    ],
)
def test_engines_for_elsewhere_are_refused(bundle, cuda, changes, message):
    write_engine(bundle, **changes)
    module = fake_module(cuda)
    with pytest.raises(BackendError, match=message):
        open_backend(bundle, cuda, module=module)
    assert not module.engines
    assert not cuda.retained


def test_a_changed_graph_makes_its_engine_stale(bundle, cuda):
    write_engine(bundle)
    (bundle / "model.onnx").write_bytes(b"another graph")
    with pytest.raises(BackendError, match="outdated") as caught:
        open_backend(bundle, cuda)
    assert "kdx build-engine" in caught.value.fix


def test_no_engine_at_all(bundle, cuda):
    with pytest.raises(BackendError, match="no engine") as caught:
        open_backend(bundle, cuda)
    assert "Fake GPU" in caught.value.expected


@pytest.mark.parametrize("damage", ["altered", "missing", "cut"])
def test_a_damaged_plan_is_refused(bundle, cuda, damage):
    plan = write_engine(bundle) / PLAN
    if damage == "missing":
        plan.unlink()
    else:
        plan.write_bytes(plan.read_bytes()[:-1] + (b"" if damage == "cut" else b"!"))
    module = fake_module(cuda)
    with pytest.raises(BackendError, match="missing or was altered"):
        open_backend(bundle, cuda, module=module)
    assert not module.engines


def test_a_damaged_record_is_refused(bundle, cuda):
    (write_engine(bundle) / RECORD).write_bytes(b"{")
    with pytest.raises(BackendError, match="not valid"):
        open_backend(bundle, cuda)


def test_a_plan_that_tensorrt_does_not_load(bundle, cuda):
    write_engine(bundle, plan=b"whole, but no plan")
    with pytest.raises(BackendError, match=r"cannot load .*magic tag mismatch") as caught:
        open_backend(bundle, cuda)
    assert "a warning" not in caught.value.message
    assert "--fp16" in caught.value.fix


def test_a_runtime_that_does_not_start(bundle, cuda):
    """The real bindings raise a TypeError about a factory where CUDA cannot start."""
    write_engine(bundle)
    well = FakeCuda()
    open_backend(bundle, well).close()
    cuda.fail_at(well.calls.index("Runtime") + 1)
    with pytest.raises(BackendError, match=r"cannot create a runtime(.|\n)*error: 35(.|\n)*nvidia-smi"):
        open_backend(bundle, cuda)


def test_other_type_errors_are_not_taken_for_it():
    with pytest.raises(TypeError, match="incompatible constructor"):
        created("a runtime", lambda: (_ for _ in ()).throw(TypeError("incompatible constructor arguments")))


def test_an_engine_of_another_graph_contract(bundle, cuda, monkeypatch):
    write_engine(bundle)
    original = fake_runtime.FakeEngine.__init__

    def half_outputs(self, *arguments):
        original(self, *arguments)
        self.types["anomaly_map"] = fake_runtime.DataType.HALF

    monkeypatch.setattr(fake_runtime.FakeEngine, "__init__", half_outputs)
    with pytest.raises(BackendError, match="not those of a kdx graph"):
        open_backend(bundle, cuda)


def test_profiles_that_are_not_those_of_the_record(bundle, cuda):
    write_engine(bundle, batches=[1, 8])
    with pytest.raises(BackendError, match="differ from its record"):
        open_backend(bundle, cuda)


def loading_calls() -> int:
    """Return how many calls loading makes."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder)
        (bundle / "model.onnx").write_bytes(b"a graph")
        write_engine(bundle)
        cuda = FakeCuda()
        loaded = open_backend(bundle, cuda)
        count = len(cuda.calls)
        loaded.close()
        return count


@pytest.mark.parametrize("failure", range(1, loading_calls() + 1))
def test_any_one_call_of_loading_may_fail(bundle, cuda, failure):
    write_engine(bundle)
    cuda.fail_at(failure)
    with pytest.raises(BackendError):
        open_backend(bundle, cuda)
    assert cuda.failed
    assert not cuda.leaked
    assert not cuda.retained


# TensorRT for RTX


def test_rtx_engines_are_compiled_at_once_and_bound_to_no_card(bundle, cuda, images):
    write_engine(bundle, flavour="rtx", gpu=None)
    module = fake_module(cuda, kind=fake_runtime.RtxEngine)
    with open_backend(bundle, cuda, module=module, flavour="rtx") as loaded:
        for _ in range(3):
            assert_right(loaded.run(images[:1]), images[:1])
        assert loaded.graph_state is GraphState.CAPTURED
        (engine,) = (each() for each in module.engines)
        assert engine.kernels == [fake_runtime.Kernels.EAGER] * 2
        del engine


def test_an_rtx_engine_that_says_that_it_cannot_be_captured_is_not(bundle, cuda, images):
    write_engine(bundle, flavour="rtx", gpu=None)
    module = fake_module(cuda, kind=fake_runtime.RtxEngine)
    with open_backend(bundle, cuda, module=module, flavour="rtx") as loaded:
        module.engines[0]().refuse_capture = True
        loaded.run(images[:1])
        with pytest.warns(RuntimeWarning, match="allocates memory while it runs"):
            assert_right(loaded.run(images[:1]), images[:1])
        assert "begin_capture" not in cuda.calls


# Memory of execution contexts


@pytest.mark.parametrize("kind", [fake_runtime.FakeEngine, fake_runtime.OldEngine, fake_runtime.RtxEngine])
def test_all_profiles_compute_in_one_block_of_memory(bundle, cuda, images, kind):
    write_engine(bundle, batches=[1, 2, 4])
    with open_backend(bundle, cuda, module=fake_module(cuda, (1, 2, 4), kind=kind)) as loaded:
        (memory,) = (block for block in cuda.memory.values() if block.nbytes == fake_runtime.CONTEXT_BYTES)
        for count in (1, 2, 4, 1, 2, 4, 1, 2, 4):  # plain, captured, replayed: each after the others
            assert_right(loaded.run(images[:count]), images[:count])
            assert set(memory) == {count}
        assert loaded.graph_state is GraphState.CAPTURED


# Threads


def test_eight_threads_on_one_backend_and_several_backends(bundle, images):
    write_engine(bundle)
    machines = [FakeCuda() for _ in range(2)]
    backends = [open_backend(bundle, cuda) for cuda in machines]

    def work(seed: int) -> None:
        for step in range(25):
            count, start = (seed + step) % 4 + 1, (seed * 3 + step) % 8
            batch = images[start : start + count]
            assert_right(backends[seed % 2].run(batch), batch)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    for loaded, cuda in zip(backends, machines, strict=True):
        assert loaded.graph_state in {GraphState.WAITING, GraphState.CAPTURED}
        loaded.close()
        assert not cuda.misuses
        assert not cuda.leaked


# The detector above it


class OnFakeGpu:
    """What a GPU library's array shows of itself."""

    def __init__(self, cuda: FakeCuda, values: np.ndarray) -> None:
        with cuda.current():
            self.pointer = cuda.allocate(values.nbytes)
        cuda.device_bytes(self.pointer, values.nbytes)[:] = values.reshape(-1).view(np.uint8)
        self.__cuda_array_interface__ = {
            "shape": values.shape,
            "typestr": values.dtype.str,
            "data": (self.pointer, True),  # read-only is good enough
            "version": 3,
            "stream": None,
        }

    def free(self, cuda: FakeCuda) -> None:
        with cuda.current():
            cuda.free(self.pointer)


@pytest.fixture
def detector(bundle, cuda):
    write_engine(bundle)
    with Detector(
        open_backend(bundle, cuda), InputSpec(height=6, width=8), DecisionRule(threshold=1e9), max_batch=16
    ) as opened:
        yield opened


def test_the_detector_splits_by_the_engines_largest_batch(detector, images):
    assert detector.max_batch == 4
    assert_right(detector.outputs(images), images)


def test_the_detector_takes_images_on_the_gpu(detector, cuda, images):
    batch, single = OnFakeGpu(cuda, images), OnFakeGpu(cuda, images[3])
    assert_right(detector.outputs(batch), images)
    assert [verdict.score for verdict in detector.batch(batch)] == list(expected_outputs(images)[1][:, 0])
    for _ in range(3):
        assert detector(single).score == expected_outputs(images[3:4])[1][0, 0]
    batch.free(cuda)
    single.free(cuda)


def test_the_detector_refuses_on_the_gpu_what_it_refuses_on_the_host(detector, cuda, images):
    for values, message in (
        (images[0, :, :4], "wrong size"),
        (images[0, :, :, :1], "wrong channels"),
        (images[0, :, :, 0], "wrong channels"),
        (images[0].astype(np.float32), "not uint8"),
    ):
        array = OnFakeGpu(cuda, np.ascontiguousarray(values))
        with pytest.raises(InputError, match=message):
            detector(array)
        with pytest.raises(InputError, match=message):
            detector(np.ascontiguousarray(values))
        array.free(cuda)


def test_a_mono_detector_takes_images_without_a_channel(cuda, images):
    class Echo:
        name = "echo"
        accepts_device_arrays = True

        def run(self, batch):
            raise BackendError(f"got {batch.shape}")

    detector = Detector(Echo(), InputSpec(height=6, width=8, channels=1), DecisionRule(threshold=1.0), max_batch=16)
    array = OnFakeGpu(cuda, np.ascontiguousarray(images[0, :, :, 0]))
    with pytest.raises(BackendError, match=r"got \(1, 6, 8, 1\)"):
        detector(array)
    array.free(cuda)
    stack = OnFakeGpu(cuda, np.ascontiguousarray(images[:5, :, :, 0]))
    with pytest.raises(BackendError, match=r"got \(5, 6, 8, 1\)"):
        detector.outputs(stack)
    stack.free(cuda)


def test_other_backends_get_no_arrays_on_the_gpu(cuda, images):
    class HostOnly:
        name = "host"

        def run(self, batch):
            raise AssertionError("reached")

    array = OnFakeGpu(cuda, images[0])
    detector = Detector(HostOnly(), InputSpec(height=6, width=8), DecisionRule(threshold=1.0), max_batch=16)
    with pytest.raises(InputError, match="takes numpy arrays"):
        detector(array)
    with pytest.raises(InputError, match="a batch is an array"):
        detector.outputs(array)
    array.free(cuda)


def test_other_things_than_arrays_are_refused(bundle, cuda):
    write_engine(bundle)
    with open_backend(bundle, cuda) as loaded, pytest.raises(InputError, match="list"):
        loaded.run([1, 2])


# Factories and messages


@pytest.mark.parametrize("factory", ["tensorrt_backend", "tensorrt_rtx_backend", "tensorrt_pycuda_backend"])
def test_a_missing_package_is_named(bundle, monkeypatch, factory):
    def missing(name):
        raise FileNotFoundError(f"Could not find: libnvinfer.so of {name}")

    monkeypatch.setattr(backend, "import_module", missing)
    with pytest.raises(BackendError, match=r"cannot be loaded: Could not find: libnvinfer"):
        getattr(backend, factory)(bundle / "model.onnx", None)


def test_the_log_keeps_the_last_errors_and_gives_them_once():
    module = fake_module(FakeCuda())
    log = make_log(module)
    for index in range(5):
        log.log(module.ILogger.Severity.ERROR, f"error {index}")
    log.log(module.ILogger.Severity.WARNING, "a warning")
    assert log.take() == "error 2; error 3; error 4"
    assert log.take() == ""
    # As TensorRT 8.6 says that CUDA does not start.
    log.log(module.ILogger.Severity.WARNING, "CUDA initialization failure with error: 35")
    log.log(module.ILogger.Severity.INFO, "[MemUsageChange] Init CUDA")
    assert log.take() == "CUDA initialization failure with error: 35"
    assert log.take() == ""


def test_another_card_with_the_same_capability_is_another_machine(bundle):
    write_engine(bundle)
    cuda = FakeCuda(Gpu("Other GPU", GPU.compute_capability, GPU.driver))
    with warnings.catch_warnings(), pytest.raises(BackendError, match="built on Fake GPU, here is Other GPU"):
        open_backend(bundle, cuda)
