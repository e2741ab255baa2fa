"""The integer types of activations, and that the runtimes compute what the INT8 graph says."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from kd_export.engine.build import _graph_for
from kd_export.precision.activations import DEQUANTIZE, QUANTIZE, signed_activations, unsigned_activations
from kd_export.precision.gate import run_onnxruntime, runtimes
from kd_export.precision.quantize import CONVOLUTIONS, quantize
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
def test_signed_activations_are_what_unsigned_ones_were_made_from(graphs) -> None:
    _, quantised = graphs
    signed = signed_activations(quantised)
    kinds = {tensor.name: tensor.data_type for tensor in signed.graph.initializer}
    zeros = [node.input[2] for node in signed.graph.node if node.op_type == QUANTIZE]
    assert zeros
    assert {kinds[name] for name in zeros} == {TensorProto.INT8}
    again = unsigned_activations(signed)
    for ours, theirs in zip(again.graph.initializer, quantised.graph.initializer, strict=True):
        assert (ours.name, ours.data_type) == (theirs.name, theirs.data_type)
        np.testing.assert_allclose(numpy_helper.to_array(ours), numpy_helper.to_array(theirs), rtol=1e-6)
    assert again.graph.node == quantised.graph.node
    exact, maps = (run_onnxruntime(each, solar_cells(2, SIZE)).maps for each in (quantised, signed))
    assert not np.array_equal(exact, maps)
    assert np.square(maps - exact).sum() < 0.01 * np.square(exact).sum()


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


def convolution(side: int, *, minimum: float | None = None, channels: int = 3) -> onnx.ModelProto:
    """Return a graph of two convolutions after each other, with int8 activations.

    Args:
        side: The height and width of the first convolution.
        minimum: The lower limit of a Clip between them; None for no operation.
        channels: The number of channels of the image.
    """
    weights = {"w1": np.ones((4, channels, side, side), np.int8), "w2": np.ones((2, 4, 1, 1), np.int8)}
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    constants += [numpy_helper.from_array(np.ones(len(value), np.float32), f"{k}_s") for k, value in weights.items()]
    constants += [numpy_helper.from_array(np.zeros(len(value), np.int8), f"{k}_z") for k, value in weights.items()]
    for name in ("a", "b"):
        constants.append(numpy_helper.from_array(np.float32(0.5), f"{name}_s"))
        constants.append(numpy_helper.from_array(np.int8(0), f"{name}_z"))
    nodes = [helper.make_node("Identity", ["image"], ["x"], name="preprocess/Sub")]
    if minimum is not None:
        constants.append(numpy_helper.from_array(np.float32(minimum), "minimum"))
        constants.append(numpy_helper.from_array(np.float32(6), "maximum"))
        nodes.append(helper.make_node("Clip", ["y1", "minimum", "maximum"], ["y"], name="pair.clip"))
    source = {"a": "x", "b": "y1" if minimum is None else "y"}
    for index, step in enumerate(("a", "b"), 1):
        quantise = helper.make_node(
            QUANTIZE, [source[step], f"{step}_s", f"{step}_z"], [f"{step}_q"], name=f"pair.{step}q"
        )
        nodes += [
            quantise,
            helper.make_node(DEQUANTIZE, [f"{step}_q", f"{step}_s", f"{step}_z"], [f"{step}_d"], name=f"pair.{step}d"),
            helper.make_node(DEQUANTIZE, [f"w{index}", f"w{index}_s", f"w{index}_z"], [f"w{index}_d"], axis=0),
            helper.make_node("Conv", [f"{step}_d", f"w{index}_d"], [f"y{index}"], name=f"pair.{index}/Conv"),
        ]
    value = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, channels, 16, 16])
    output = helper.make_tensor_value_info("y2", TensorProto.FLOAT, None)
    return helper.make_model(helper.make_graph(nodes, "two", [value], [output], constants))


def steps(model: onnx.ModelProto) -> dict[str, tuple[str, int, float]]:
    """Return the type, the zero point and the scale of both activations."""
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {
        name: (found[f"{name}_z"].dtype.name, int(found[f"{name}_z"]), float(found[f"{name}_s"])) for name in ("a", "b")
    }


@pytest.mark.parametrize(
    ("minimum", "expected"),
    [
        (0.0, ("uint8", 0, pytest.approx(0.5 * 127 / 255))),
        (-1.0, ("uint8", 128, 0.5)),
        (None, ("uint8", 128, 0.5)),
    ],
)
def test_the_zero_point_follows_from_what_can_be_negative(minimum, expected) -> None:
    assert steps(unsigned_activations(convolution(3, minimum=minimum)))["b"] == expected


@pytest.mark.parametrize(("side", "channels", "kind"), [(3, 3, "int8"), (7, 3, "uint8"), (4, 4, "uint8")])
def test_an_image_stays_signed_where_its_convolutions_are_small(side, channels, kind) -> None:
    graph = convolution(side, channels=channels)
    before = graph.SerializeToString()
    assert steps(unsigned_activations(graph))["a"] == (kind, 128 if kind == "uint8" else 0, 0.5)
    assert graph.SerializeToString() == before, "the given graph was changed"
