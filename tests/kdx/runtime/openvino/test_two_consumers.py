"""What OpenVINO computes where two operations take what an INT8 convolution gives, and its shape is
dynamic: the smallest graph that shows it."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

ov = pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'kdx[openvino]'")

CHANNELS, SIZE = 4, 8
# The step of the input, which cannot be negative, and that of the weights.
INPUT, WEIGHT = np.float32(0.01), np.float32(0.02)


def convolution(batch: int | str, weights: np.ndarray) -> bytes:
    """Return an INT8 convolution of 1 × 1 whose output is one of the graph's, and that of a ReLU
    too."""
    constants = [
        numpy_helper.from_array(np.asarray(value), name)
        for name, value in {
            "step": INPUT,
            "zero": np.uint8(0),
            "weights": weights,
            "steps": np.full(CHANNELS, WEIGHT),
            "zeros": np.zeros(CHANNELS, np.int8),
        }.items()
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["integers"]),
        helper.make_node("DequantizeLinear", ["integers", "step", "zero"], ["quantised"]),
        helper.make_node("DequantizeLinear", ["weights", "steps", "zeros"], ["dequantised"], axis=0),
        helper.make_node("Conv", ["quantised", "dequantised"], ["product"]),
        helper.make_node("Relu", ["product"], ["positive"]),
    ]
    shape = [batch, CHANNELS, SIZE, SIZE]
    x, *outputs = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "product", "positive")
    )
    graph = helper.make_graph(nodes, "consumers", [x], outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


@pytest.mark.parametrize("batch", [1, "batch"])
def test_the_second_operation_gets_the_product_scaled_twice_or_once(batch: int | str) -> None:
    """OpenVINO 2026.4 scales it twice where the batch is dynamic; a version that scales it once is
    right too. kdx compiles static shapes, where it always was."""
    rng = np.random.default_rng(0)
    # Multiples of the step, so that nothing is rounded.
    x = (rng.integers(0, 256, (1, CHANNELS, SIZE, SIZE)) * INPUT).astype(np.float32)
    weights = rng.integers(-63, 64, (CHANNELS, CHANNELS, 1, 1), dtype=np.int8)
    core = ov.Core()
    model = core.read_model(convolution(batch, weights), b"")
    product, positive = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([x]).values()
    expected = np.einsum("oi,nihw->nohw", weights[:, :, 0, 0] * WEIGHT, x)
    np.testing.assert_allclose(product, expected, atol=1e-5)
    right = np.maximum(expected, 0)
    assert right.max() > 1
    is_static = batch == 1
    assert np.allclose(positive, right, atol=1e-5) or (
        not is_static and np.allclose(positive, right * INPUT * WEIGHT, atol=1e-8)
    )
