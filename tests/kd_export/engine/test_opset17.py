"""Graphs for the parser of TensorRT 8.6."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from kd_export.engine.opset17 import quantise_weights_in_graph, to_opset_17
from kdx.errors import GateError
from tests.images import solar_cells

# Of the largest value. ONNX Runtime fuses other nodes in another opset.
FP32_SUMS, FP16_ROUNDING = 1e-5, 1e-3


def run(model: ModelProto, **inputs: np.ndarray) -> list[np.ndarray]:
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, inputs)


def make_model(nodes: list[NodeProto], outputs: dict[str, int]) -> ModelProto:
    """Return a graph of ``x``, ``(N, 4, 6)``, with outputs of so many dimensions."""
    axes = {"columns": [2], "area": [1, 2]}
    graph = helper.make_graph(
        nodes,
        "reductions",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 6])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank) for name, rank in outputs.items()],
        [numpy_helper.from_array(np.array(values, np.int64), name) for name, values in axes.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_axes_become_attributes_and_results_stay() -> None:
    model = make_model(
        [
            helper.make_node("ReduceMax", ["x", "columns"], ["highest"], keepdims=0),
            helper.make_node("ReduceMean", ["x", "area"], ["mean"], keepdims=1, noop_with_empty_axes=1),
            helper.make_node("ReduceSum", ["x", "columns"], ["sum"], keepdims=1),
            helper.make_node("ReduceMin", ["x"], ["lowest"], keepdims=0, noop_with_empty_axes=0),
        ],
        {"highest": 2, "mean": 3, "sum": 3, "lowest": 0},
    )
    old = to_opset_17(model)
    assert [opset.version for opset in old.opset_import] == [17]
    assert [list(node.input) for node in old.graph.node] == [["x"], ["x"], ["x", "columns"], ["x"]]
    assert [opset.version for opset in model.opset_import] == [18]  # the graph that is given stays
    x = np.random.default_rng(0).normal(size=(3, 4, 6)).astype(np.float32)
    for expected, found in zip(run(model, x=x), run(old, x=x), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert run(old, x=x)[0].shape == (3, 4)  # and not one value for all images


@pytest.mark.parametrize(
    ("node", "outputs", "reason"),
    [
        (helper.make_node("Split", ["x"], ["a", "b"], axis=1, num_outputs=2), {"a": 3, "b": 3}, "num_outputs"),
        (helper.make_node("ReduceMin", ["x"], ["a"], noop_with_empty_axes=1), {"a": 3}, "noop_with_empty_axes"),
    ],
)
def test_what_opset_17_lacks_is_refused(node: NodeProto, outputs: dict[str, int], reason: str) -> None:
    model = make_model([node], outputs)
    with pytest.raises(GateError, match=rf"cannot be written for TensorRT 8\.6: .*{reason}") as caught:
        to_opset_17(model)
    assert "TensorRT 10" in caught.value.fix


def test_weights_are_quantised_in_the_graph_to_the_same_integers() -> None:
    """Those of two convolutions that share a quantised tensor, as TensorRT 8.6 needs it."""
    rng = np.random.default_rng(0)
    integers = {
        "a": rng.integers(-127, 128, (6, 4, 3, 3), np.int8),
        "b": rng.integers(-127, 128, (4, 5, 2, 2), np.int8),
    }
    scales = {"a": rng.uniform(1e-30, 0.1, 6), "b": rng.uniform(1e-3, 30, 5)}
    constants = {"step": np.float32(0.02), "middle": np.int8(0)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "step", "middle"], ["x_q"]),
        helper.make_node("DequantizeLinear", ["x_q", "step", "middle"], ["x_dq"]),
    ]
    for name, kind, axis in (("a", "Conv", 0), ("b", "ConvTranspose", 1)):
        of = [f"{name}_{part}" for part in ("quantized", "scale", "zero")]
        scale = scales[name].astype(np.float32)
        constants.update(zip(of, (integers[name], scale, np.zeros(len(scale), np.int8)), strict=True))
        nodes.append(helper.make_node("DequantizeLinear", of, [f"{name}_w"], name=name, axis=axis))
        nodes.append(helper.make_node(kind, ["x_dq", f"{name}_w"], [f"{name}_y"], name=f"pair/{name}"))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *[None] * 3]) for name in ("a_y", "b_y")]
    graph = helper.make_graph(
        nodes,
        "shared",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 7, 9])],
        values,
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    before = model.SerializeToString()
    old = to_opset_17(quantise_weights_in_graph(model))
    assert model.SerializeToString() == before  # the graph that is given stays
    types = {tensor.name: tensor.data_type for tensor in old.graph.initializer}
    makers = {name: node for node in old.graph.node for name in node.output}
    for name in ("a", "b"):
        dequantise = makers[f"{name}_w"]
        quantise = makers[dequantise.input[0]]
        assert quantise.op_type == "QuantizeLinear"
        assert types[quantise.input[0]] == TensorProto.FLOAT
        assert f"{name}_quantized" not in types, "no int8 weights are left"
        old.graph.output.append(helper.make_tensor_value_info(quantise.output[0], TensorProto.INT8, None))
    found = run(old, x=(x := rng.normal(size=(2, 4, 7, 9)).astype(np.float32)))
    for name, weights in zip(("a", "b"), found[2:], strict=True):
        np.testing.assert_array_equal(weights, integers[name])
    for expected, ours in zip(run(model, x=x), found, strict=False):
        np.testing.assert_allclose(ours, expected, rtol=0, atol=FP32_SUMS * np.abs(expected).max())


@pytest.mark.slow
def test_every_method_computes_the_same_in_opset_17(exported) -> None:
    images = solar_cells(3, (72, 80))
    for file, tolerance in ((exported.fp32, FP32_SUMS), (exported.fp16, FP16_ROUNDING)):
        model = onnx.load(file)
        for expected, found in zip(run(model, image=images), run(to_opset_17(model), image=images), strict=True):
            np.testing.assert_allclose(found, expected, atol=tolerance * float(expected.max()))
