"""The steps of an INT8 graph's weights, such that every CPU computes the same.

CPUs without VNNI multiply uint8 by int8, and add the products of two neighbouring input channels
in 16 bits, which end at 32,767. Two products of 255 · 127 do not fit. OpenVINO's scores of a
compact pair were more than 20 times as large with the instructions of such a CPU.

Weights of 7 bits always fit, and cost accuracy: on a pair of tf_efficientnet_lite0 they doubled
what INT8 changes in the maps. But two large weights with one sign are seldom neighbours. So the
step of an output channel is the smallest with which no two neighbours exceed 128: in the median
layer 1.2 times that of 8 bits. It changes the maps as little as 8 bits do.

ONNX Runtime turns biases into int32, with the product of both steps as their step. Channels whose
weights are nearly zero, of which lite0 has dozens, get a step that keeps their bias in that range.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from kd_export.precision.activations import DEQUANTIZE

_INT8_MAX = 127
# Half of what int32 holds: the sum of products is added to the bias.
_LARGEST_BIAS = 2.0**30


def fit_integers(quantised: ModelProto, model: ModelProto) -> ModelProto:
    """Return an INT8 graph whose sums of two products fit into 16 bits, and biases into 32.

    Args:
        quantised: A graph with symmetric int8 weights per output channel.
        model: The FP32 graph that it was made from, whose nodes have the same names.
    """
    result = ModelProto()
    result.CopyFrom(quantised)
    makers = {name: node for node in result.graph.node for name in node.output}
    tensors = {tensor.name: tensor for tensor in result.graph.initializer}
    exact = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    originals = {node.name: node for node in model.graph.node}
    for node in result.graph.node:
        dequantise = [makers.get(name) for name in node.input[:2]]
        if node.name not in originals or len(dequantise) < 2 or originals[node.name].input[1] not in exact:
            continue
        source, weights = dequantise
        if source is None or weights is None or not source.op_type == weights.op_type == DEQUANTIZE:
            continue
        axis = next(each.i for each in weights.attribute if each.name == "axis")
        by_output = np.moveaxis(exact[originals[node.name].input[1]], axis, 0)
        step = float(numpy_helper.to_array(tensors[source.input[1]]))
        groups = next((each.i for each in node.attribute if each.name == "group"), 1)
        bias = next((exact[name] for name in originals[node.name].input[2:]), None)
        steps = _steps(by_output, step, bias, is_depthwise=groups > 1 and by_output.shape[1] == 1)
        levels = np.rint(by_output / steps.reshape(-1, *[1] * (by_output.ndim - 1))).clip(-_INT8_MAX, _INT8_MAX)
        values = np.ascontiguousarray(np.moveaxis(levels, 0, axis)).astype(np.int8)
        for name, array in ((weights.input[0], values), (weights.input[1], steps)):
            tensors[name].CopyFrom(numpy_helper.from_array(array, name))
    return result


def _steps(
    weights: NDArray[np.float32], step: float, bias: NDArray[np.float32] | None = None, *, is_depthwise: bool = False
) -> NDArray[np.float32]:
    """Return the step of each output channel.

    Args:
        weights: Weights ``(outputs, inputs, ...)``.
        step: The step of the activations that they are multiplied by.
        bias: The bias ``(outputs,)``, or None.
        is_depthwise: Whether the convolution is depthwise, whose kernels add in 32 bits.
    """
    largest = np.abs(weights).reshape(len(weights), -1).max(1)
    for sign in () if is_depthwise else (1, -1):
        largest = np.maximum(largest, _largest_pair((sign * weights).clip(0)))
    # Rounding makes a pair of 127 at most 128, and 255 · 128 fits into 16 bits.
    steps = largest.astype(np.float64) / _INT8_MAX
    if bias is not None:
        steps = np.maximum(steps, np.abs(bias) / (step * _LARGEST_BIAS))
    found: NDArray[np.float32] = np.where(steps > 0, steps, 1).astype(np.float32)  # of zeros, any step
    return found


def _largest_pair(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the largest sum of two neighbours in each output channel of non-negative weights.

    Neighbours are the first and second input channel, the third and fourth, and so on. With an odd
    number of channels, a kernel may pair any two weights.
    """
    outputs, inputs = weights.shape[:2]
    found: NDArray[np.float32]
    if inputs % 2 == 0:
        found = (weights[:, 0::2] + weights[:, 1::2]).reshape(outputs, -1).max(1)
    else:
        found = np.sort(weights.reshape(outputs, -1), axis=1)[:, -2:].sum(1)
    return found
