"""What kdx calls exists in the real packages, and takes what kdx gives it. No GPU is needed for
that."""

from __future__ import annotations

import inspect
import re

import numpy as np
import pytest

from kd_export.engine import build, flavours
from kdx.errors import BackendError
from kdx.runtime.gpu import gpus
from kdx.runtime.tensorrt import backend, log
from kdx.runtime.tensorrt.cuda import api, bindings, pycuda
from kdx.runtime.tensorrt.cuda.api import CudaApi, CudaError
from kdx.runtime.tensorrt.cuda.bindings import CudaBindings
from kdx.runtime.tensorrt.cuda.pycuda import CudaPycuda
from tests.kdx.runtime.tensorrt import fake_runtime
from tests.kdx.runtime.tensorrt.fake_cuda import FakeCuda
from tests.kdx.runtime.tensorrt.real_api import VERSIONS, RealApi


def methods_of(kind: type) -> dict[str, list[str]]:
    """Return each public method's parameters."""
    members = inspect.getmembers(kind, inspect.isfunction)
    return {name: list(inspect.signature(f).parameters) for name, f in members if not name.startswith("_")}


@pytest.mark.parametrize("implementation", [CudaBindings, CudaPycuda, FakeCuda])
def test_implementations_have_the_methods_of_the_protocol(implementation):
    wanted, found = methods_of(CudaApi), methods_of(implementation)
    assert len(wanted) == 22
    assert {name: found[name] for name in wanted} == wanted


def test_errors_name_call_and_code():
    error = CudaError("cuMemAlloc", "CUDA_ERROR_OUT_OF_MEMORY", "out of memory")
    assert "CUDA's cuMemAlloc failed: CUDA_ERROR_OUT_OF_MEMORY (out of memory)" in str(error)
    assert "smaller batches" in error.fix
    assert "start the process again" in CudaError("cuStreamSynchronize", "CUDA_ERROR_ILLEGAL_ADDRESS").fix
    assert CudaError("cuCtxPopCurrent", "CUDA_ERROR_UNKNOWN").fix == ""
    assert isinstance(error, BackendError)


# cuda-bindings


@pytest.fixture(scope="module")
def driver():
    return pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")


def test_every_function_of_the_driver_that_is_called_exists(driver):
    source = inspect.getsource(bindings)
    functions = set(re.findall(r'_call\(\s*"(\w+)"', source)) | set(re.findall(r"_driver\.(cu\w+)\(", source))
    assert len(functions) > 25
    assert [name for name in functions if not callable(getattr(driver, name, None))] == []
    enums = re.findall(r"_driver\.(CU\w+)\.(\w+)", source)
    enums += [("CUdevice_attribute", name) for name in re.findall(r"attributes\.(\w+)", source)]
    assert len(enums) > 5
    assert [(kind, name) for kind, name in enums if not hasattr(getattr(driver, kind), name)] == []


def test_every_code_that_is_named_exists(driver):
    codes = {*api._FATAL, "CUDA_ERROR_OUT_OF_MEMORY"}
    assert [code for code in codes if not hasattr(driver.CUresult, code)] == []


class Recorder:
    """A driver whose functions convert their arguments as the real ones do, and succeed."""

    def __init__(self, driver):
        self._driver = driver
        self.calls: list[str] = []

    def __getattr__(self, name):
        real = getattr(self._driver, name)
        if not name.startswith("cu"):
            return real
        memory = np.zeros(64, np.uint8)
        results = {
            "cuDeviceGetName": b"A GPU\0\0\0",
            "cuDriverGetVersion": 13010,
            "cuMemHostAlloc": memory.ctypes.data,
            "cuEventElapsedTime": 1.5,
        }

        def call(*arguments):
            self.calls.append(name)
            # Without a driver this gets as far as the call into its library, after the conversion
            # of the arguments.
            try:
                real(*arguments)
            except (TypeError, ValueError, OverflowError):
                raise
            except RuntimeError as error:
                assert "driver" in str(error)  # noqa: PT017
            _keep.append(memory)
            return (self._driver.CUresult.CUDA_SUCCESS, results.get(name, 64))

        return call


_keep: list[np.ndarray] = []


@pytest.mark.skipif(bool(gpus()), reason="made-up handles must not reach a real driver")
def test_every_call_of_the_driver_has_arguments_that_it_takes(driver, monkeypatch):
    recorder = Recorder(driver)
    monkeypatch.setattr(bindings, "_import_driver", lambda: recorder)
    cuda = CudaBindings()
    with cuda.current():
        gpu = cuda.device()
        assert (gpu.name, gpu.compute_capability, gpu.driver) == ("A GPU", "64.64", "13.1")
        pinned = cuda.allocate_pinned((4, 4), np.float32)
        assert (pinned.shape, pinned.dtype) == ((4, 4), np.float32)
        stream, event = cuda.create_stream(), cuda.create_event()
        pointer = cuda.allocate(64)
        cuda.wait_for(stream, 1)
        cuda.copy_to_device(pointer, pinned, stream)
        cuda.copy_to_host(pinned, pointer, stream)
        cuda.copy_on_device(pointer, pointer, 64, stream)
        cuda.begin_capture(stream)
        graph = cuda.end_capture(stream)
        cuda.launch(graph, stream)
        cuda.destroy_graph(graph)
        cuda.record(event, stream)
        cuda.synchronize(stream)
        assert cuda.elapsed_ms(event, event) == 1.5
        cuda.destroy_event(event)
        cuda.destroy_stream(stream)
        cuda.free_pinned(pinned)
        cuda.free(pointer)
    cuda.close()
    cuda.close()
    assert recorder.calls.count("cuDevicePrimaryCtxRetain") == recorder.calls.count("cuDevicePrimaryCtxRelease") == 1
    assert recorder.calls.count("cuCtxPushCurrent") == recorder.calls.count("cuCtxPopCurrent") == 1
    assert "cuCtxCreate" not in recorder.calls
    assert recorder.calls.count("cuGraphDestroy") == 1  # the template, beside the executable graph
    with pytest.raises(BackendError, match="was released"), cuda.current():
        pass
    called = set(re.findall(r'_call\(\s*"(\w+)"', inspect.getsource(bindings)))
    assert called == set(recorder.calls)


def test_a_code_that_is_not_success_is_raised(driver, monkeypatch):
    recorder = Recorder(driver)
    monkeypatch.setattr(bindings, "_import_driver", lambda: recorder)
    cuda = CudaBindings()
    failing = (driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY, None)
    monkeypatch.setattr(recorder, "cuMemAlloc", lambda nbytes: failing, raising=False)
    explained = (driver.CUresult.CUDA_SUCCESS, b"out of memory")
    monkeypatch.setattr(recorder, "cuGetErrorString", lambda code: explained, raising=False)
    with (
        cuda.current(),
        pytest.raises(CudaError, match=r"cuMemAlloc failed: CUDA_ERROR_OUT_OF_MEMORY \(out of memory\)"),
    ):
        cuda.allocate(1)


def test_a_function_that_the_driver_lacks_is_an_error_with_its_fix(driver, monkeypatch):
    """As cuda-bindings 13 looks up functions in the versions of CUDA 12.8."""

    def missing(*_: object) -> None:
        raise RuntimeError('Function "cuEventElapsedTime" not found')

    recorder = Recorder(driver)
    monkeypatch.setattr(bindings, "_import_driver", lambda: recorder)
    cuda = CudaBindings()
    monkeypatch.setattr(recorder, "cuEventElapsedTime", missing, raising=False)
    with cuda.current(), pytest.raises(BackendError, match="the driver lacks cuEventElapsedTime") as caught:
        cuda.elapsed_ms(1, 2)
    assert "cuda-bindings<13" in caught.value.fix


@pytest.mark.skipif(bool(gpus()), reason="this machine has a GPU")
def test_a_machine_without_a_driver_is_an_error(driver):
    with pytest.raises(BackendError, match=r"driver cannot be loaded|finds no device") as caught:
        CudaBindings()
    assert "nvidia" in caught.value.fix.lower()


def test_a_missing_package_is_an_error(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named '{name}'")

    monkeypatch.setattr(bindings, "import_module", missing)
    monkeypatch.setattr(pycuda, "import_module", missing)
    with pytest.raises(BackendError, match="needs the package cuda-bindings") as caught:
        CudaBindings()
    assert caught.value.fix == "pip install cuda-bindings"
    with pytest.raises(BackendError, match=r"PyCUDA cannot be loaded: No module named 'pycuda.driver'"):
        CudaPycuda()


# The records of TensorRT's bindings, to which the fakes are held


@pytest.mark.parametrize("version", VERSIONS)
def test_every_name_of_the_module_that_kdx_uses_is_recorded(version):
    record = RealApi(version).records[0]
    sources = "".join(inspect.getsource(module) for module in (backend, build, flavours, log))
    used = set(re.findall(r"\b(?:trt|self\.module)\.([A-Za-z]\w*)(?:\.([A-Z]\w*))?", sources))
    known = {**record["enumerations"], **record["classes"], **record["types"]}
    members = {(kind, member) for kind, member in used if member and member != "Severity"}
    assert len(used) > 12
    # TensorRT for RTX; TensorRT 10; and 8.6 alone.
    others = {"ComputeCapability", "IProgressMonitor", "BuilderFlag.REQUIRE_USER_ALLOCATION"}
    weak = {f"BuilderFlag.{name}" for name in ("FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS")}
    missing = {kind for kind, _ in used if kind not in known}
    missing |= {f"{kind}.{member}" for kind, member in members if member not in record["enumerations"].get(kind, [])}
    assert missing - others == (weak if version == "11.4.0" else set())


@pytest.mark.parametrize("name", ["get_tensor_bytes", "max_workspace_size"])
def test_a_fake_has_nothing_that_the_real_one_lacks(name):
    engine = fake_runtime.FakeEngine(FakeCuda())
    with pytest.raises(AttributeError, match=f"ICudaEngine has no attribute '{name}'"):
        setattr(engine, name, 1)
    with pytest.raises(AssertionError, match=name):
        fake_runtime.REAL.like("ICudaEngine")(type("Fake", (), {name: lambda self: 1}))
    with pytest.raises(AssertionError, match="create_network"):
        fake_runtime.REAL.like("Builder")(type("Fake", (), {"create_network": lambda self, flag: 1}))


# TensorRT for RTX, whose wheel is complete: its Python API is TensorRT's


@pytest.fixture(scope="module")
def trt():
    return pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")


def test_what_the_fakes_have_exists_in_tensorrt_for_rtx_too(trt):
    of_fakes = [(kind, name) for kind, names in fake_runtime.REAL.covered.items() for name in names]
    assert len(of_fakes) > 8
    assert [(kind, name) for kind, name in of_fakes if not hasattr(getattr(trt, kind), name)] == []
    assert trt.__version__
    assert {"UINT8", "FLOAT"} <= set(trt.DataType.__members__)
    assert {"INPUT", "OUTPUT"} <= set(trt.TensorIOMode.__members__)
    assert hasattr(trt.DynamicShapesKernelSpecializationStrategy, "EAGER")
    assert hasattr(trt.ICudaEngine, "create_runtime_config")
    assert hasattr(trt.IRuntimeConfig, "dynamic_shapes_kernel_specialization_strategy")
    assert hasattr(trt.IExecutionContext, "is_stream_capturable")


def test_our_logger_is_one_for_the_real_tensorrt(trt):
    ours = log.make_log(trt)
    runtime = trt.Runtime(ours)
    assert runtime.deserialize_cuda_engine(b"no plan at all, but long enough" * 10) is None
    assert "Serialization" in ours.take()


# With a GPU


@pytest.mark.gpu
def test_a_graph_replays_on_the_real_gpu(driver):
    if not gpus():
        pytest.skip("no NVIDIA GPU on this machine")
    cuda = CudaBindings()
    try:
        with cuda.current():
            assert cuda.device().compute_capability == gpus()[0].compute_capability
            host, back = cuda.allocate_pinned((256,), np.uint8), cuda.allocate_pinned((256,), np.uint8)
            pointer, stream = cuda.allocate(256), cuda.create_stream()
            cuda.begin_capture(stream)
            cuda.copy_to_device(pointer, host, stream)
            cuda.copy_to_host(back, pointer, stream)
            graph = cuda.end_capture(stream)
            for value in (1, 2, 3):
                host[:] = value
                cuda.launch(graph, stream)
                cuda.synchronize(stream)
                assert set(back) == {value}
            cuda.destroy_graph(graph)
            cuda.destroy_stream(stream)
            cuda.free(pointer)
            cuda.free_pinned(host)
            cuda.free_pinned(back)
    finally:
        cuda.close()
