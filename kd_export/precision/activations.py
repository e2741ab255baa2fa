"""The integer types of an INT8 graph's activations: unsigned for CPUs, signed for TensorRT.

CPUs multiply unsigned by signed bytes. ONNX Runtime fuses a convolution into an integer kernel
only if its input and its output have the same type, and a ReLU only if the quantisation cuts off
at zero itself. So all activations are uint8: those that cannot be negative have the zero point 0
and use all 256 steps, the others have the zero point 128, with the steps of int8. TensorRT takes
no other type than int8 with the zero point 0.

The image is an exception where the first convolutions have few products for each output. Their
integer kernels are slower in ONNX Runtime than FP32, because it moves the image's channels to the
end before the mean is subtracted: 0.65 ms against 0.29 for two convolutions of 3 × 3 × 3 on 160 ×
160 pixels. As int8, which is not the type of their output, they stay FP32 there. Two convolutions
of 7 × 7 × 3 gain 5.7 ms as uint8. OpenVINO computes both in integers, equally fast.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from kdx.bundle.graph_contract import PAIR

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_INT8_MAX, _UINT8_MAX, _UINT8_MIDDLE = 127, 255, 128
_FEW_PRODUCTS = 64
# Operations whose output is negative only if their input is.
_KEEP_SIGNS = frozenset({"MaxPool", QUANTIZE, DEQUANTIZE})


def unsigned_activations(model: ModelProto) -> ModelProto:
    """Return an INT8 graph with uint8 activations.

    Args:
        model: A graph whose activations are int8 with the zero point 0.
    """
    result = ModelProto()
    result.CopyFrom(model)
    makers = {name: node for node in result.graph.node for name in node.output}
    tensors = {tensor.name: tensor for tensor in result.graph.initializer}
    for step in _steps(result.graph):
        is_image = not makers[step.source].name.startswith(PAIR)
        if _is_not_negative(step.source, makers, tensors):
            _change(step, 0, np.uint8, _INT8_MAX / _UINT8_MAX)
        elif not is_image or _products(step.source, result.graph, tensors) >= _FEW_PRODUCTS:
            _change(step, _UINT8_MIDDLE, np.uint8)
    return result


def signed_activations(model: ModelProto) -> ModelProto:
    """Return an INT8 graph with int8 activations of the zero point 0, for TensorRT.

    Activations that cannot be negative have 128 steps then instead of 256.

    Args:
        model: A graph that :func:`unsigned_activations` returned.
    """
    result = ModelProto()
    result.CopyFrom(model)
    for step in _steps(result.graph):
        zero = numpy_helper.to_array(step.zero)
        if zero.dtype == np.uint8:
            _change(step, 0, np.int8, 1.0 if zero else _UINT8_MAX / _INT8_MAX)
    return result


class _Step(NamedTuple):
    """A step of quantisation: a scale and a zero point.

    Attributes:
        source: The name of the tensor that is quantised.
        scale: The scale, a scalar in FP32.
        zero: The zero point, a scalar whose type is that of the quantised values.
    """

    source: str
    scale: TensorProto
    zero: TensorProto


def _steps(graph: GraphProto) -> Iterator[_Step]:
    """Yield each step of the graph's activations once: a pool's output shares that of its input."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    seen = set()
    for node in graph.node:
        if node.op_type == QUANTIZE and node.input[2] not in seen:
            seen.add(node.input[2])
            yield _Step(node.input[0], tensors[node.input[1]], tensors[node.input[2]])


def _change(step: _Step, zero: int, kind: type[np.integer], factor: float = 1.0) -> None:
    scale = (numpy_helper.to_array(step.scale) * factor).astype(np.float32)
    step.scale.CopyFrom(numpy_helper.from_array(scale, step.scale.name))
    step.zero.CopyFrom(numpy_helper.from_array(np.array(zero, kind), step.zero.name))


def _is_not_negative(name: str, makers: dict[str, NodeProto], tensors: dict[str, TensorProto]) -> bool:
    node = makers.get(name)
    if node is None:
        return False
    if node.op_type in _KEEP_SIGNS:
        return _is_not_negative(node.input[0], makers, tensors)
    if node.op_type == "Clip":
        return node.input[1] in tensors and bool(numpy_helper.to_array(tensors[node.input[1]]) >= 0)
    return node.op_type == "Relu"


def _products(source: str, graph: GraphProto, tensors: dict[str, TensorProto]) -> int:
    """Return the smallest number of products for each output of what takes a quantised tensor."""
    quantised = {node.output[0] for node in graph.node if node.op_type == QUANTIZE and node.input[0] == source}
    values = {node.output[0] for node in graph.node if node.op_type == DEQUANTIZE and node.input[0] in quantised}
    weights = {node.output[0]: node.input[0] for node in graph.node if node.op_type == DEQUANTIZE}
    users = [node for node in graph.node if node.op_type == "Conv" and node.input[0] in values]
    shapes = [tensors[weights[node.input[1]]].dims[1:] for node in users]
    return min((math.prod(shape) for shape in shapes), default=0)
