"""The signed activations of TensorRT, and that the runtimes compute what the INT8 graph says."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from kd_export.engine.build import _graph_for
from kd_export.precision.activations import QUANTIZE, signed_activations
from kd_export.precision.int8_plan import CONVOLUTIONS
from kd_export.precision.quantize import quantize
from kd_export.precision.runners import run_onnxruntime, runtimes
from kdx.bundle.graph_contract import OUTPUTS
from tests.images import solar_cells

SIZE = (64, 64)


@pytest.fixture(scope="module", params=["compact-s", "test_resnet"])
def graphs(request, tmp_path_factory) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """STPM's FP32 graph and its INT8 form."""
    from kd_export.onnx.onnx_export import export_onnx
    from kdx.imaging.images import InputSpec
    from tests.pairs import fuse_pair, make_pair

    path = tmp_path_factory.mktemp("stpm") / "model.onnx"
    detector = fuse_pair(make_pair("stpm", request.param), InputSpec(height=SIZE[0], width=SIZE[1]), SIZE[0])
    export_onnx(detector, path, max_batch=4, metadata={})
    model = onnx.load(path)
    return model, quantize(model, solar_cells(4, SIZE))


@pytest.mark.slow
def test_every_runtime_computes_what_the_graph_says(graphs) -> None:
    """ONNX's reference in NumPy is independent of both runtimes.

    They round values between two steps to either side, and ONNX Runtime rounds biases. What that
    changes must be small against what INT8 changes: less than a tenth of its energy.
    """
    model, quantised = graphs
    images = solar_cells(2, SIZE)
    exact = run_onnxruntime(model, images).maps
    raised = onnx.ModelProto()
    raised.CopyFrom(quantised)
    raised.opset_import[0].version = 19  # the reference has QuantizeLinear from here on; it computes the same
    evaluate = ReferenceEvaluator(raised)
    expected = np.concatenate([evaluate.run([OUTPUTS[0]], {"image": image[None]})[0] for image in images])
    changed = float(np.square(expected - exact).sum())
    assert changed > 0
    for name, run in runtimes().items():
        ours = float(np.square(run(quantised, images).maps - expected).sum())
        assert ours < 0.1 * changed, f"{name}: {ours / changed:.3f} of what INT8 changes"


@pytest.mark.slow
def test_onnx_runtime_computes_the_networks_in_integers(graphs, tmp_path) -> None:
    _, quantised = graphs
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(quantised.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = {node.name.split("_token")[0]: node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node}
    makers = {name: node for node in quantised.graph.node for name in node.output}
    users = {name: node for node in quantised.graph.node for name in node.input}
    types = {tensor.name: tensor.data_type for tensor in quantised.graph.initializer}
    fused = 0
    for node in quantised.graph.node:
        if node.op_type not in CONVOLUTIONS or not node.name.startswith("pair"):
            continue
        following = users[node.output[0]]
        while following.op_type == "Relu":
            following = users[following.output[0]]
        # A feature that the tail compares is FP32, and so is the convolution that returns it.
        if following.op_type == QUANTIZE and types[makers[node.input[0]].input[2]] == TensorProto.UINT8:
            assert kinds[node.name] == "QLinearConv", node.name
            fused += 1
    assert fused > 4


@pytest.mark.slow
def test_signed_activations_have_the_same_steps_or_twice_as_large_ones(graphs) -> None:
    """Those that cannot be negative lose every second of their integers."""
    _, quantised = graphs
    signed = signed_activations(quantised)
    assert signed.graph.node == quantised.graph.node
    before, after = (
        {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        for model in (quantised, signed)
    )
    factors = set()
    for node in quantised.graph.node:
        if node.op_type == QUANTIZE:
            _, scale, zero = node.input
            assert (after[zero].dtype, int(after[zero])) == (np.dtype(np.int8), 0)
            factor = 255 / 127 if before[zero].dtype == np.uint8 and not before[zero] else 1.0
            np.testing.assert_allclose(after[scale], before[scale] * factor, rtol=1e-6)
            factors.add(factor)
    assert factors == {1.0, 255 / 127}
    exact, maps = (run_onnxruntime(each, solar_cells(2, SIZE)).maps for each in (quantised, signed))
    assert not np.array_equal(exact, maps)
    assert np.square(maps - exact).sum() < 0.01 * np.square(exact).sum()


def test_constants_that_a_pool_shares_with_its_input_are_changed_once() -> None:
    """As in bundles of earlier versions."""
    constants = [
        numpy_helper.from_array(np.float32(0.5), "scale"),
        numpy_helper.from_array(np.uint8(0), "zero"),
    ]
    nodes = [helper.make_node(QUANTIZE, [name, "scale", "zero"], [f"{name}_q"]) for name in ("x", "pooled")]
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph(nodes, "pool", [value], [], constants)
    scale, zero = (
        numpy_helper.to_array(each) for each in signed_activations(helper.make_model(graph)).graph.initializer
    )
    assert float(scale) == pytest.approx(0.5 * 255 / 127)
    assert zero.dtype == np.int8


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["7.5", "8.6"])
def test_an_int8_engine_is_built_from_signed_activations(graphs, capability) -> None:
    """TensorRT refuses uint8, and the graph for compute capability 7.5 is rewritten further."""
    content = graphs[1].SerializeToString()

    def graph_for(precision: str) -> onnx.ModelProto:
        plan = SimpleNamespace(
            request=SimpleNamespace(flavour="rtx", precision=precision),
            fingerprint=SimpleNamespace(compute_capability=capability),
            graph=SimpleNamespace(read=lambda: content),
        )
        return onnx.load_from_string(_graph_for(plan))

    def types(model: onnx.ModelProto) -> set[int]:
        kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
        return {kinds[node.input[2]] for node in model.graph.node if node.op_type == QUANTIZE}

    assert types(graph_for("int8")) == {TensorProto.INT8}
    assert TensorProto.UINT8 in types(graph_for("fp32")), "only what was asked for is rewritten"
    assert any(node.op_type == "MatMul" for node in graph_for("int8").graph.node) == (capability != "7.5")
