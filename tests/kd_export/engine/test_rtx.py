"""Every method's graphs in a real TensorRT parser and builder, without a GPU."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from kd_export.engine import build as build_module
from kd_export.engine.build import EngineRequest, build_engine
from kd_export.engine.flavours import RTX_CAPABILITIES, load_flavour
from kd_export.engine.layers import count_layers, require_convolutions
from kd_export.engine.turing import products_to_convolutions
from kd_export.precision.activations import CONVOLUTIONS, signed_activations
from kd_export.precision.quantize import quantised_nodes
from kdx.bundle.checked_files import Graph
from kdx.bundle.engine_record import Layer, engines_of, find_engine
from kdx.bundle.open import open_bundle
from kdx.errors import BackendError, GateError
from tests.images import solar_cells
from tests.students import add_int8

trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")


def build(model: bytes, capability: str) -> tuple[list[str], bytes | None]:
    """Return what the parser says against a graph, and the plan."""
    flavour = load_flavour("rtx")
    log = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(log)
    network = flavour.create_network(builder)
    parser = trt.OnnxParser(network, log)
    if not parser.parse(model):
        return [str(parser.get_error(i)) for i in range(parser.num_errors)], None
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    sizes = tuple(network.get_input(0).shape)[1:]
    profile.set_shape("image", (1, *sizes), (1, *sizes), (8, *sizes))
    config.add_optimization_profile(profile)
    flavour.set_target(config, capability)
    plan = builder.build_serialized_network(network, config)
    return [], None if plan is None else bytes(plan)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_method_parses_and_builds(exported, precision) -> None:
    errors, plan = build(getattr(exported, precision).read_bytes(), "8.6")
    assert errors == []
    assert plan is not None
    assert len(plan) > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_method_builds_for_turing_without_matrix_products(exported, precision) -> None:
    model = products_to_convolutions(onnx.load(getattr(exported, precision)))
    assert all(node.op_type != "MatMul" for node in model.graph.node)
    errors, plan = build(model.SerializeToString(), "7.5")
    assert errors == []
    assert plan is not None


def test_the_graph_for_turing_computes_the_same(exported) -> None:
    model = onnx.load(exported.fp32)
    images = solar_cells(3, (72, 80))
    (maps, scores), (same_maps, same_scores) = (
        ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"image": images})
        for m in (model, products_to_convolutions(model))
    )
    # FP32 sums in another order.
    np.testing.assert_allclose(same_maps, maps, atol=1e-5 * np.ptp(maps))
    np.testing.assert_allclose(same_scores, scores, rtol=1e-5)


def test_a_graph_that_the_parser_refuses_fails() -> None:
    # The fault that the design avoids: an antialiased Resize.
    helper = onnx.helper
    scales = onnx.numpy_helper.from_array(np.array([1, 1, 0.5, 0.5], np.float32), "scales")
    graph = helper.make_graph(
        [helper.make_node("Resize", ["image", "", "scales"], ["y"], mode="linear", antialias=1)],
        "graph",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 3, 4, 4])],
        [scales],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    errors, plan = build(model.SerializeToString(), "8.6")
    assert errors
    assert plan is None


@pytest.mark.slow
def test_the_command_builds_for_a_card_that_is_not_here(cli, tiny_run, tmp_path) -> None:
    bundle = tmp_path / "tile.kdx"
    cli("export", tiny_run, "-o", bundle, "--precision", "fp32,fp16")
    for capability in ("8.6", "12.0"):
        options = ("--flavour", "rtx", "--compute-capability", capability, "--batch", "1,4")
        record = cli("build-engine", bundle, "--fp16", *options, "--json").json["record"]
        convolutions = [layer for layer in record["layers"] if layer["kind"] == "correlation"]
        networks = [layer for layer in convolutions if layer["name"].startswith("pair")]
        assert len(networks) > 2 * 20  # of 24 for each batch size; others are fused with what follows
        assert {layer["precision"] for layer in networks} == {"fp16"}
        # Behind the taps, sums over channels.
        assert {layer["precision"] for layer in convolutions if layer not in networks} == {"fp32"}
        assert record["layers_from"] == "builder"
        assert record["batches"] == [1, 4]
    first, second = engines_of(bundle)
    assert first.record.plan_sha256 != second.record.plan_sha256
    said = cli("build-engine", bundle, "--flavour", "rtx", "--compute-capability", "8.9").stdout
    assert " fp32 convolutions" in said
    assert "(by TensorRT's builder)" in said
    # On the line PC each finds its own, and a card without one is told how to get it.
    machine = second.record.fingerprint
    assert find_engine(Graph.of(bundle / "model.fp16.onnx"), machine).path == second.path
    import msgspec

    with pytest.raises(BackendError, match=r"no engine of model\.fp16\.onnx") as error:
        find_engine(Graph.of(bundle / "model.fp16.onnx"), msgspec.structs.replace(machine, compute_capability="7.5"))
    assert "kdx build-engine" in error.value.fix


def test_the_capabilities_are_those_of_the_package() -> None:
    assert set(RTX_CAPABILITIES.values()) <= set(dir(trt.ComputeCapability))


# INT8


@pytest.fixture(scope="module")
def quantised(tiny_bundle, tmp_path_factory) -> Path:
    bundle = shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("quantised") / "tile.kdx")
    return add_int8(Path(bundle), solar_cells(3, (64, 64))[..., :1])


@pytest.mark.slow
def test_what_is_quantised_is_int8_in_the_engine(cli, quantised) -> None:
    convolutions = [each for each in quantised_nodes(onnx.load(quantised / "model.int8.onnx")) if "Conv" in each]
    options = ("--flavour", "rtx", "--compute-capability", "8.6")
    record = cli("build-engine", quantised, "--int8", *options, "--json").json["record"]
    assert (record["precision"], record["layers_from"]) == ("int8", "builder")
    counts = count_layers(Layer(**layer) for layer in record["layers"])
    assert counts["int8 convolutions"] == len(convolutions) > 10
    cli("build-engine", quantised, *options)
    machine = next(engines_of(quantised)).record.fingerprint
    for precision in ("fp32", "int8"):
        engine = find_engine(open_bundle(quantised).graph_of(precision), machine)
        assert engine.path.name == f"rtx-8.6-{precision}"
        assert engine.record.precision == precision


@pytest.mark.slow
def test_an_engine_that_quantises_and_computes_in_fp32_is_refused(quantised) -> None:
    """As TensorRT for RTX builds it for Turing."""
    request = EngineRequest(flavour="rtx", precision="int8", compute_capability="7.5")
    with pytest.raises(GateError, match="convolutions are not INT8") as caught:
        build_engine(open_bundle(quantised), request)
    assert "pair.teacher" in caught.value.received
    assert "(fp32)" in caught.value.received
    assert "rtx-7.5-int8" not in [engine.path.name for engine in engines_of(quantised)]


@pytest.mark.slow
def test_int8_that_the_builder_does_not_show_is_not_confirmed(quantised, monkeypatch) -> None:
    monkeypatch.setattr(build_module, "logged_layers", lambda log: [])
    request = EngineRequest(flavour="rtx", precision="int8", compute_capability="8.9")
    with pytest.raises(GateError, match="INT8 cannot be confirmed"):
        build_engine(open_bundle(quantised), request)
    # The types of the network demand other precisions, and TensorRT has no choice.
    request = EngineRequest(flavour="rtx", compute_capability="8.9")
    assert build_engine(open_bundle(quantised), request).record.layers_from == "network"


@pytest.mark.slow
def test_int8_of_every_method(exported) -> None:
    """Beside plain convolutions, residual additions, pools and transposed convolutions."""
    model = signed_activations(onnx.load(exported.int8))
    built = build_module._build(plan_of(model), load_flavour("rtx"))
    require_convolutions(built.demanded, built.logged, "int8")
    kinds = {node.name: node.op_type for node in model.graph.node}
    convolutions = [layer for layer in built.demanded if layer.kind in {"convolution", "deconvolution"}]
    demanded = {layer.name for layer in convolutions if layer.precision == "int8"}
    assert demanded == {name for name in quantised_nodes(model) if kinds[name] in CONVOLUTIONS}


def plan_of(model: onnx.ModelProto) -> SimpleNamespace:
    """Return a plan for a graph that is in no bundle."""
    return SimpleNamespace(
        request=EngineRequest(flavour="rtx"),
        graph=SimpleNamespace(read=model.SerializeToString),
        fingerprint=SimpleNamespace(compute_capability="8.6"),
        kept=frozenset(),
    )
