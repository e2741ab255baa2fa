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
from kd_export.precision.activations import CONVOLUTIONS, DEQUANTIZE, QUANTIZE, signed_activations
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
    export_onnx(detector, path, max_batch=1, metadata={})
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


def types_of(model: onnx.ModelProto) -> set[tuple[int, int]]:
    """Return the type and the zero point of every activation."""
    zeros = {tensor.name: tensor for tensor in model.graph.initializer}
    found = [zeros[node.input[2]] for node in model.graph.node if node.op_type == QUANTIZE]
    return {(zero.data_type, int(numpy_helper.to_array(zero))) for zero in found}


@pytest.mark.slow
def test_signed_activations_compute_the_same(graphs) -> None:
    """Up to values that lie between two steps, and are rounded to either."""
    model, quantised = graphs
    signed = signed_activations(quantised)
    onnx.checker.check_model(signed, full_check=True)
    assert (TensorProto.UINT8, 0) in types_of(quantised)
    assert types_of(signed) == {(TensorProto.INT8, 0)}
    assert added_maps(signed) == []
    exact, expected, found = (run_onnxruntime(each, solar_cells(2, SIZE)).maps for each in (model, quantised, signed))
    assert np.square(found - expected).sum() < 0.1 * np.square(expected - exact).sum()


def convolution(**attributes: object) -> tuple[onnx.NodeProto, dict[str, np.ndarray]]:
    """Return a convolution of ``x``, transposed if it has an output padding, and its constants."""
    rng = np.random.default_rng(0)
    kind = "ConvTranspose" if "output_padding" in attributes else "Conv"
    groups = attributes.get("group", 1)
    shape, outputs = ((4, 6 // groups), 6) if kind == "ConvTranspose" else ((6, 4 // groups), 6)
    axis = 1 if kind == "ConvTranspose" else 0
    constants = {
        "w_quantized": rng.integers(-127, 128, (*shape, 3, 2), np.int8),
        "w_scale": rng.uniform(0.01, 0.02, shape[axis]).astype(np.float32),
        "w_zero": np.zeros(shape[axis], np.int8),
        "b": rng.normal(size=outputs).astype(np.float32),
    }
    return helper.make_node(kind, ["x_dq", "w", "b"], ["y"], name="pair/node", **attributes), constants


NODES = {
    "padded": convolution(pads=[1, 0, 2, 1]),
    "strided and dilated": convolution(pads=[1, 1, 1, 1], strides=[2, 1], dilations=[2, 1]),
    "not padded": convolution(),
    "grouped": convolution(group=2, pads=[1, 1, 1, 1]),
    "without a bias": (convolution()[0], convolution()[1]),
    "transposed": convolution(strides=[2, 2], pads=[1, 0, 0, 1], output_padding=[1, 0]),
    "transposed, grouped": convolution(strides=[2, 2], output_padding=[0, 1], group=2),
    "added to itself": (helper.make_node("Add", ["x_dq", "x_dq"], ["y"], name="pair/node"), {}),
    "added to another": (helper.make_node("Add", ["x_dq", "other"], ["y"], name="pair/node"), {}),
    "pooled": (
        helper.make_node("MaxPool", ["x_dq"], ["y"], name="pair/node", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        {},
    ),
}
del NODES["without a bias"][0].input[2:]


def computed(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> np.ndarray:
    """Compute a graph as it stands, without fusing anything."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    names = {value.name for value in model.graph.input}
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {name: value for name, value in feed.items() if name in names})[0]


@pytest.mark.parametrize("name", NODES)
@pytest.mark.parametrize("step", [(np.uint8, 0), (np.uint8, 128), (np.int8, 0)])
def test_every_kind_of_node_computes_the_same(name, step) -> None:
    """The steps are a power of two, and no value lies between two of them."""
    node, constants = NODES[name]
    kind, zero = step
    constants = {**constants, "x_scale": np.float32(1 / 32), "x_zero": kind(zero)}
    nodes = [
        helper.make_node(QUANTIZE, ["x", "x_scale", "x_zero"], ["x_q"], name="pair/q"),
        helper.make_node(DEQUANTIZE, ["x_q", "x_scale", "x_zero"], ["x_dq"], name="pair/dq"),
    ]
    if "w" in node.input:
        axis = 0 if node.op_type == "Conv" else 1
        nodes.append(helper.make_node(DEQUANTIZE, ["w_quantized", "w_scale", "w_zero"], ["w"], axis=axis))
    values = [helper.make_tensor_value_info(each, TensorProto.FLOAT, ["n", 4, 7, 9]) for each in ("x", "other")]
    graph = helper.make_graph(
        [*nodes, node],
        "one",
        values,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), each) for each, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    signed = signed_activations(model)
    assert types_of(signed) == {(TensorProto.INT8, 0)}
    assert len(model.graph.node) == len(nodes) + 1, "the graph that was given is not changed"
    rng = np.random.default_rng(1)
    low, high = np.iinfo(kind).min - zero, np.iinfo(kind).max - zero
    x = (rng.integers(low - 20, high + 20, (2, 4, 7, 9)) + 0.25).astype(np.float32) / 32  # some are clipped
    feed = {"x": x, "other": rng.normal(size=x.shape).astype(np.float32)}
    expected, found = (computed(each, feed) for each in (model, signed))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert added_maps(signed) == []
    if (zero, kind) == (0, np.uint8):
        assert len(signed.graph.node) > len(model.graph.node)
    else:
        assert len(signed.graph.node) == len(model.graph.node), "the integers shifted are the same values"


def added_maps(model: onnx.ModelProto) -> list[str]:
    """Return the nodes that add a constant map, wider than one value a channel, to a convolution.

    TensorRT 8.6 fails where the convolution is INT8.
    """
    shapes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    convolved = {node.output[0] for node in model.graph.node if node.op_type in CONVOLUTIONS}
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "Add"
        and convolved.intersection(node.input)
        and any(np.prod(shapes.get(name, [])[-2:]) > 1 for name in node.input)
    ]


def test_constants_that_a_pool_shares_with_its_input() -> None:
    """As in bundles of earlier versions."""
    constants = [numpy_helper.from_array(np.float32(0.5), "scale"), numpy_helper.from_array(np.uint8(0), "zero")]
    nodes = []
    for name in ("x", "pooled"):
        nodes.append(helper.make_node(QUANTIZE, [name, "scale", "zero"], [f"{name}_q"], name=f"{name}/q"))
        nodes.append(helper.make_node(DEQUANTIZE, [f"{name}_q", "scale", "zero"], [f"{name}_dq"], name=f"{name}/dq"))
    nodes.insert(2, helper.make_node("MaxPool", ["x_dq"], ["pooled"], name="pair/pool", kernel_shape=[2, 2]))
    nodes.append(helper.make_node("Add", ["pooled_dq", "pooled_dq"], ["y"], name="pair/add"))
    value, result = (helper.make_tensor_value_info(each, TensorProto.FLOAT, None) for each in ("x", "y"))
    value.CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4]))
    graph = helper.make_graph(nodes, "pool", [value], [result], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])
    x = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4) * 9
    expected, found = (ReferenceEvaluator(each).run(None, {"x": x})[0] for each in (model, signed_activations(model)))
    np.testing.assert_array_equal(found, expected)


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
        return onnx.load_from_string(_graph_for(plan, is_typed=True))

    def types(model: onnx.ModelProto) -> set[int]:
        kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
        return {kinds[node.input[2]] for node in model.graph.node if node.op_type == QUANTIZE}

    assert types(graph_for("int8")) == {TensorProto.INT8}
    assert TensorProto.UINT8 in types(graph_for("fp32")), "only what was asked for is rewritten"
    assert any(node.op_type == "MatMul" for node in graph_for("int8").graph.node) == (capability != "7.5")
