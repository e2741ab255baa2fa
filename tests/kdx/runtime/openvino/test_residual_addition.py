"""What OpenVINO computes where it fuses a residual addition into an INT8 convolution: the smallest
graph that shows it."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

ov = pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'kdx[openvino]'")

CHANNELS, SIZE = 16, 12
# The steps of the input, of the first convolution's output, of the second's (zero point 128), of
# the sum, and of the weights.
INPUT, HIDDEN, PRODUCT, SUM, WEIGHT = (np.float32(step) for step in (0.01173, 0.03519, 0.04177, 0.03391, 0.0210))


def residual_block(first: np.ndarray, second: np.ndarray) -> bytes:
    """Return a residual block of two convolutions of 1 × 1 with quantised activations."""
    nodes, constants = [], []

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(value, name))
        return name

    def quantised(name: str, step: np.float32, zero: int) -> str:
        by = [constant(f"{name}_scale", np.array(step)), constant(f"{name}_zero", np.array(zero, np.uint8))]
        nodes.append(helper.make_node("QuantizeLinear", [name, *by], [f"{name}_integer"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_integer", *by], [f"{name}_quantised"]))
        return f"{name}_quantised"

    def convolved(name: str, taken: str, weights: np.ndarray) -> None:
        by = [
            constant(f"{name}_step", np.full(CHANNELS, WEIGHT)),
            constant(f"{name}_zeros", np.zeros(CHANNELS, np.int8)),
        ]
        inputs = [constant(f"{name}_weights", weights), *by]
        nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{name}_dequantised"], axis=0))
        nodes.append(helper.make_node("Conv", [taken, f"{name}_dequantised"], [name]))

    x = quantised("x", INPUT, 0)
    convolved("first", x, first)
    nodes.append(helper.make_node("Relu", ["first"], ["hidden"]))
    convolved("product", quantised("hidden", HIDDEN, 0), second)
    nodes.append(helper.make_node("Add", [quantised("product", PRODUCT, 128), x], ["added"]))
    nodes.append(helper.make_node("Relu", ["added"], ["sum"]))
    y = quantised("sum", SUM, 0)
    shape = [1, CHANNELS, SIZE, SIZE]
    declared = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name in ("x", y)]
    graph = helper.make_graph(nodes, "residual", *declared, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


def rounded(values: np.ndarray, step: np.float32, zero: int = 0) -> np.ndarray:
    """Quantise and dequantise."""
    return (np.clip(np.rint(values / step) + zero, 0, 255) - zero).astype(np.float32) * step


def test_what_a_convolution_adds_is_clipped_and_not_always_rounded() -> None:
    """OpenVINO 2026.4 leaves out the rounding; a version that rounds as the graph says is right
    too."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 3, (1, CHANNELS, SIZE, SIZE)).astype(np.float32)
    # So small that no CPU without VNNI overflows 16 bits.
    first, second = rng.integers(-63, 64, (2, CHANNELS, CHANNELS, 1, 1), dtype=np.int8)
    core = ov.Core()
    model = core.read_model(residual_block(first, second), b"")
    found = np.rint(core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([x])[0] / SUM)

    def convolve(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return np.einsum("oi,nihw->nohw", weights[:, :, 0, 0] * WEIGHT, values)

    added = rounded(x, INPUT)
    product = convolve(rounded(np.maximum(convolve(added, first), 0), HIDDEN), second)
    clipped = np.clip(product, -128 * PRODUCT, 127 * PRODUCT)
    as_written, unrounded = (
        np.rint(rounded(np.maximum(each + added, 0), SUM) / SUM) for each in (rounded(product, PRODUCT, 128), clipped)
    )
    assert (clipped != product).mean() > 0.01
    assert (as_written != unrounded).mean() > 0.05
    assert min((found != as_written).mean(), (found != unrounded).mean()) < 0.005
