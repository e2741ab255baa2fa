"""ONNX Runtime on the GPU: bound memory, tried on the CPU's provider, and never a silent
fallback."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from kdx.bundle.checked_files import Graph
from kdx.errors import BackendError, InputError
from kdx.runtime.gpu import Gpu, gpus

ort = pytest.importorskip("onnxruntime", reason="no ONNX Runtime is installed")
onnx = pytest.importorskip("onnx", reason="onnx is not installed")

from kdx.runtime.onnxruntime import cuda as backend  # noqa: E402
from kdx.runtime.onnxruntime.cpu import OnnxRuntimeCpu  # noqa: E402
from kdx.runtime.onnxruntime.cuda import CUDA, TENSORRT, OnnxRuntimeCuda  # noqa: E402
from kdx.runtime.onnxruntime.session import CPU  # noqa: E402

SHAPE = (6, 8, 3)


@pytest.fixture(scope="module")
def graph(tmp_path_factory) -> Path:
    """A graph of the contract: the map is the sum over channels, the score its maximum."""
    helper, types = onnx.helper, onnx.TensorProto
    constant = onnx.numpy_helper.from_array
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=types.FLOAT),
        helper.make_node("ReduceSum", ["x", "last"], ["anomaly_map"], keepdims=0),
        helper.make_node("ReduceMax", ["anomaly_map", "rows"], ["peak"], keepdims=0),
        helper.make_node("Unsqueeze", ["peak", "one"], ["anomaly_score"]),
    ]
    made = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", types.UINT8, ["N", *SHAPE])],
        [
            helper.make_tensor_value_info("anomaly_map", types.FLOAT, ["N", 6, 8]),
            helper.make_tensor_value_info("anomaly_score", types.FLOAT, ["N", 1]),
        ],
        [constant(np.array(axes), name) for name, axes in (("last", [3]), ("rows", [1, 2]), ("one", [1]))],
    )
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def expected(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    maps = images.astype(np.float32).sum(axis=3)
    return maps, maps.max(axis=(1, 2))[:, None]


def assert_right(outputs, images: np.ndarray) -> None:
    for received, wanted in zip(outputs, expected(images), strict=True):
        np.testing.assert_array_equal(received, wanted)


def on_cpu(graph: Path, **options) -> OnnxRuntimeCuda:
    """The same code in the CPU's provider, where memory is bound all the same."""
    return OnnxRuntimeCuda(Graph.of(graph), 1, provider=CPU, **options)


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_batches_in_bound_memory(graph, images, cuda_graph):
    with on_cpu(graph, cuda_graph=cuda_graph) as loaded:
        kept = []
        for count in (1, 4, 1, 3, 4):
            outputs = loaded.run(images[:count])
            kept.append((outputs, count))
            loaded.run(images[5 : 5 + count])
        for outputs, count in kept:  # no later call has changed them
            assert_right(outputs, images[:count])
        assert sorted(loaded._bound) == [1, 3, 4]
        backwards = images[::-1][:2]
        assert_right(loaded.run(backwards), backwards)


def test_the_last_batch_sizes_keep_their_memory(graph, images):
    with on_cpu(graph) as loaded:
        for count in (1, 2, 3, 4, 1, 5, 1, 6):
            assert_right(loaded.run(images[:count]), images[:count])
        assert list(loaded._bound) == [4, 5, 1, 6]
        assert_right(loaded.run(images[:2]), images[:2])


def test_it_agrees_with_the_cpu_backend(graph, images):
    with on_cpu(graph) as bound, OnnxRuntimeCpu(Graph.of(graph), 1) as plain:
        for received, wanted in zip(bound.run(images), plain.run(images), strict=True):
            np.testing.assert_array_equal(received, wanted)


def test_other_batches_are_refused(graph, images):
    with on_cpu(graph) as loaded:
        for batch in (images[:0], images[:, :, :4], images.astype(np.float32), images[0]):
            with pytest.raises(InputError, match=r"uint8 \(N, 6, 8, 3\)"):
                loaded.run(batch)
        assert_right(loaded.run(images[:2]), images[:2])


def test_after_a_failure_memory_is_bound_again(graph, images, monkeypatch):
    with on_cpu(graph, cuda_graph=True) as loaded:
        loaded.run(images[:2])
        before = loaded._bound[2]

        def fails(binding, options):
            raise RuntimeError("CUDA failure 700")

        with monkeypatch.context() as patch:
            patch.setattr(loaded._session, "run_with_iobinding", fails)
            with pytest.raises(BackendError, match=r"batch of shape \(2, 6, 8, 3\): CUDA failure 700"):
                loaded.run(images[:2])
        assert_right(loaded.run(images[:2]), images[:2])
        assert loaded._bound[2] is not before
        assert loaded._graphs == 2  # no graph replays over memory that is gone


def test_a_closed_one_says_so(graph, images):
    loaded = on_cpu(graph)
    loaded.close()
    loaded.close()
    with pytest.raises(BackendError, match="closed"):
        loaded.run(images[:1])


def test_eight_threads(graph, images):
    with on_cpu(graph) as loaded, ThreadPoolExecutor(8) as pool:

        def work(seed: int) -> None:
            for step in range(20):
                count = (seed + step) % 4 + 1
                batch = images[seed : seed + count]
                assert_right(loaded.run(batch), batch)

        list(pool.map(work, range(8)))


def test_a_graph_that_cannot_be_loaded(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(BackendError, match="cannot load"):
        on_cpu(tmp_path / "model.onnx")


# No silent fallback


@pytest.mark.skipif(CUDA in ort.get_available_providers(), reason="this ONNX Runtime was built with CUDA")
@pytest.mark.parametrize(
    ("factory", "provider"), [("onnxruntime_cuda_backend", CUDA), ("onnxruntime_tensorrt_backend", TENSORRT)]
)
def test_a_build_without_the_provider_is_named(graph, factory, provider):
    with pytest.raises(BackendError, match=f"built without {provider}") as caught:
        getattr(backend, factory)(graph, None)
    assert "onnxruntime-gpu" in caught.value.fix


@pytest.mark.skipif(bool(gpus()), reason="this machine has a GPU")
def test_a_machine_without_a_gpu_is_an_error(graph, monkeypatch):
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    with pytest.raises(BackendError, match="needs an NVIDIA GPU"):
        OnnxRuntimeCuda(Graph.of(graph))


@pytest.fixture
def not_preloaded():
    backend._preload.cache_clear()
    yield
    backend._preload.cache_clear()


def test_loads_at_once_leave_standard_output_as_it_is(monkeypatch, not_preloaded):
    """``kdx serve`` loads replaced bundles in threads."""
    held = []

    def preload() -> None:
        held.append(backend._PRELOADING.locked())
        print("Failed to load libcublasLt.so.13")

    monkeypatch.setattr(backend, "gpus", lambda: (Gpu("A GPU", "8.9", "13.0"),))
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(ort, "preload_dlls", preload)
    before = sys.stdout
    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(backend.require_provider, [CUDA] * 4))
    assert said == ["Failed to load libcublasLt.so.13"] * 4
    assert held == [True], "once a process, and one thread at a time"
    assert sys.stdout is before


def test_a_session_on_the_cpu_is_refused(graph, monkeypatch, capsys, not_preloaded):
    """What ONNX Runtime does where CUDA's libraries are missing: it logs that, and continues on the
    CPU."""
    monkeypatch.setattr(backend, "gpus", lambda: (Gpu("A GPU", "8.9", "13.0"),))
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(ort, "preload_dlls", lambda: print("Failed to load libcublasLt.so.13"))
    open_session = backend.open_session
    monkeypatch.setattr(backend, "open_session", lambda content, name, **_: open_session(content, name))
    with pytest.raises(BackendError, match=r"would run 'model\.onnx' on the CPU") as caught:
        OnnxRuntimeCuda(Graph.of(graph))
    assert caught.value.received == CPU
    assert "lib" in caught.value.fix
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(CUDA not in ort.get_available_providers(), reason="this ONNX Runtime was built without CUDA")
@pytest.mark.skipif(bool(gpus()), reason="this machine has a GPU")
def test_the_real_fallback_is_refused_and_the_library_named(graph, monkeypatch):
    monkeypatch.setattr(backend, "gpus", lambda: (Gpu("A GPU", "8.9", "13.0"),))
    with pytest.raises(BackendError, match=r"would run 'model\.onnx' on the CPU") as caught:
        OnnxRuntimeCuda(Graph.of(graph))
    assert "cannot open shared object file" in caught.value.fix


def test_tensor_float_32_is_off_and_graphs_are_asked_of_one_provider():
    ((name, options), last) = backend._providers(CUDA, cuda_graph=True)
    assert (name, last) == (CUDA, CPU)
    assert options["use_tf32"] == "0"
    assert options["enable_cuda_graph"] == "1"
    (first, second, _) = backend._providers(TENSORRT, cuda_graph=True)
    assert first[1]["trt_cuda_graph_enable"] == "1"
    assert second[1]["enable_cuda_graph"] == "0"


@pytest.mark.parametrize("value", [None, "1", ""])
def test_tensorrt_that_would_use_tensor_float_32_is_refused(graph, monkeypatch, value):
    monkeypatch.setattr(backend, "require_provider", lambda provider: "")
    monkeypatch.setattr(backend, "open_session", lambda *_, **__: pytest.fail("a session was opened"))
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    if value is not None:
        monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", value)
    with pytest.raises(BackendError, match="would compute FP32 in TensorFloat-32") as caught:
        backend.onnxruntime_tensorrt_backend(Graph.of(graph))
    assert caught.value.received == ("it is not set" if value is None else f"NVIDIA_TF32_OVERRIDE={value}")


def test_tensorrt_without_tensor_float_32_is_opened(graph, monkeypatch):
    open_session = backend.open_session
    monkeypatch.setattr(backend, "require_provider", lambda provider: "")
    monkeypatch.setattr(backend, "open_session", lambda content, name, **_: open_session(content, name))
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    with pytest.raises(BackendError, match="on the CPU"):  # where there is no TensorRT
        backend.onnxruntime_tensorrt_backend(Graph.of(graph))


@pytest.mark.gpu
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_on_the_real_gpu(graph, images, cuda_graph):
    if not gpus() or CUDA not in ort.get_available_providers():
        pytest.skip("no NVIDIA GPU on this machine, or an ONNX Runtime without CUDA")
    with OnnxRuntimeCuda(Graph.of(graph), cuda_graph=cuda_graph) as loaded:
        for count in (1, 4, 1, 4, 1, 4):
            assert_right(loaded.run(images[:count]), images[:count])
            assert_right(loaded.run(images[5 : 5 + count]), images[5 : 5 + count])
