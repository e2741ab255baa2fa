"""Which precisions a backend takes: those of a bundle's engines, where it runs engines."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import msgspec
import pytest

from kdx.bundle.checked_files import Graph
from kdx.bundle.engine_record import find_engine, this_system
from kdx.bundle.variants import graph_file
from kdx.errors import BackendError
from kdx.runtime.backend_table import BackendInfo, find_backend, require_backends
from kdx.runtime.gpu import Gpu
from kdx.runtime.tensorrt import backend as tensorrt
from tests.engines import MACHINE, RTX, add_engine, make_record
from tests.kdx.runtime.tensorrt.fake_cuda import GPU, FakeCuda

HELD = ["fp32", "fp16", "int8"]
HERE = msgspec.structs.replace(MACHINE, system=this_system())
RTX_HERE = msgspec.structs.replace(RTX, system=this_system())


@pytest.fixture
def graphs(tmp_path) -> dict[str, Graph]:
    """The graphs of a bundle without engines, by precision."""
    for precision in HELD:
        (tmp_path / graph_file(precision)).write_bytes(precision.encode())
    return {precision: Graph.of(tmp_path / graph_file(precision)) for precision in HELD}


@pytest.fixture
def gpu_here(monkeypatch):
    """Let this machine have a GPU, TensorRT and TensorRT for RTX; return what changes the GPU."""

    def put(*found: Gpu) -> None:
        monkeypatch.setattr(tensorrt, "gpus", lambda: found)

    put(Gpu(HERE.gpu, HERE.compute_capability, "13.0"))
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__=HERE.tensorrt))
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", SimpleNamespace(__version__=RTX.tensorrt))
    return put


def build(graph: Graph, precision: str, fingerprint=HERE, **changes: object) -> None:
    """Put an engine of a graph into its bundle; ``changes`` are of its fingerprint."""
    built_for = msgspec.structs.replace(fingerprint, **changes)
    record = make_record(built_for, precision=precision, onnx_sha256=graph.sha256)
    add_engine(graph.path.parent, f"{built_for.flavour}-{precision}", record)


def test_engines_run_in_the_precisions_that_were_built_for_the_gpu_here(graphs, gpu_here) -> None:
    build(graphs["fp16"], "fp16")
    build(graphs["fp32"], "fp32", RTX_HERE)
    build(graphs["int8"], "int8", compute_capability="8.9", gpu="A newer GPU")
    backend = find_backend("tensorrt")
    assert [each for each in HELD if backend.offers(each, graphs[each])] == ["fp16"]
    assert [each for each in HELD if find_backend("tensorrt-rtx").offers(each, graphs[each])] == ["fp32"]
    assert all(backend.offers(each) for each in HELD)
    assert find_backend("onnxruntime-cpu").offers("int8", graphs["int8"]), "it runs graphs"
    assert backend.choose_precision(graphs) == "fp16"
    gpu_here(Gpu("A newer GPU", "8.9", "13.0"), Gpu(HERE.gpu, HERE.compute_capability, "13.0"))
    assert backend.choose_precision(graphs) == "int8", "engines run on the first GPU"
    without_int8 = {each: graphs[each] for each in ("fp32", "fp16")}
    assert backend.choose_precision(without_int8) == "fp16", "int8 has no threshold there"


STALE = {
    "another GPU of the same compute capability": {"gpu": "NVIDIA RTX A5000"},
    "an older TensorRT": {"tensorrt": "10.0.1"},
    "another system": {"system": "Another system"},
}


@pytest.mark.parametrize("changes", STALE.values(), ids=STALE)
def test_an_engine_for_another_machine_hides_no_other(graphs, gpu_here, changes) -> None:
    build(graphs["fp16"], "fp16")
    build(graphs["int8"], "int8", **changes)
    precision = find_backend("tensorrt").choose_precision(graphs)
    assert precision == "fp16"
    assert find_engine(graphs[precision], HERE).record.precision == "fp16"


def test_an_engine_of_an_earlier_graph_hides_no_other(graphs, gpu_here) -> None:
    build(graphs["fp16"], "fp16")
    build(graphs["int8"], "int8")
    assert find_backend("tensorrt").choose_precision(graphs) == "int8"
    graphs["int8"].path.write_bytes(b"exported again")
    graphs["int8"] = Graph.of(graphs["int8"].path)
    assert find_backend("tensorrt").choose_precision(graphs) == "fp16"


def test_pycuda_compares_engines_with_the_gpu_of_its_context(graphs, gpu_here, monkeypatch) -> None:
    build(graphs["fp16"], "fp16", gpu=GPU.name, compute_capability=GPU.compute_capability)
    build(graphs["int8"], "int8")
    monkeypatch.setattr(tensorrt, "CudaPycuda", FakeCuda)
    assert find_backend("tensorrt-pycuda").choose_precision(graphs) == "fp16"
    assert find_backend("tensorrt").choose_precision(graphs) == "int8"


@pytest.mark.parametrize("missing", ["GPU", "TensorRT"])
def test_engines_for_any_machine_count_where_this_one_is_not_known(graphs, gpu_here, monkeypatch, missing) -> None:
    build(graphs["fp16"], "fp16", gpu="Another GPU")
    if missing == "GPU":
        gpu_here()
    else:
        monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert find_backend("tensorrt").choose_precision(graphs) == "fp16"
    assert [each for each in HELD if find_backend("tensorrt").offers(each, graphs[each])] == ["fp16"]


def test_without_engines_the_preferred_precision_is_asked_for(graphs) -> None:
    assert find_backend("tensorrt").choose_precision(graphs) == "int8"
    assert find_backend("tensorrt").choose_precision({"fp32": graphs["fp32"]}) == "fp32"


@pytest.mark.parametrize("installed", ["tensorrt", ""])
def test_a_machine_that_only_runs_engines_is_told_to_build_one(graphs, monkeypatch, installed) -> None:
    bundle = graphs["fp32"].path.parent
    monkeypatch.setattr(BackendInfo, "is_usable", lambda self: self.name == installed)
    with pytest.raises(BackendError, match="no backend is installed") as caught:
        require_backends(bundle)
    assert ("but tensorrt, of which there is no engine" in caught.value.message) == bool(installed)
    assert caught.value.fix.startswith(f"kdx build-engine {bundle}; or pip" if installed else "pip")
    assert caught.value.fix.count("kdx[openvino]") == 1
    build(graphs["fp32"], "fp32")
    if installed:
        assert [info.name for info in require_backends(bundle)] == [installed]
