"""The activations of an INT8 graph as TensorRT takes them: int8 with the zero point 0.

Each integer becomes smaller by 128, and then stands for a value that is smaller by some steps: by
none for the zero point 128, and by 128 for 0, which tensors have that cannot be negative. Those
steps are subtracted before a tensor is quantised. What takes it has what that changes added to its
output, which is a constant: for a convolution a bias, or a map, because it pads with zeros.

So all 256 integers are used, and the results are the same up to rounding at ties. With the same
values and the zero point 0, half of the integers would stand for negative numbers. INT8 students
on compact-m, which learnt with all of them, had scores that were off by up to 73 % then, by 8 % in
the median.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
_MIDDLE = 128


def activations(node: NodeProto) -> list[str]:
    """Return the names of the activations that a quantised node takes."""
    return list(node.input[:1] if node.op_type in CONVOLUTIONS else node.input)


def signed_activations(model: ModelProto) -> ModelProto:
    """Return an INT8 graph with int8 activations of the zero point 0, which computes the same.

    Args:
        model: A graph that :func:`kd_export.precision.quantize.quantize` returned.
    """
    return _Signed(model).model


class _Signed:
    """An INT8 graph whose activations become int8.

    Attributes:
        model: The result.
    """

    def __init__(self, model: ModelProto) -> None:
        self.model = ModelProto()
        self.model.CopyFrom(model)
        graph = self._graph = self.model.graph
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._makers = {name: node for node in graph.node for name in node.output}
        self._shapes = _shapes(model)
        # What was subtracted from the values of a tensor, by the name of the dequantised tensor.
        self._lowered = {
            node.output[0]: self._lowered_by(self._makers[node.input[0]])
            for node in graph.node
            if node.op_type == DEQUANTIZE and node.input[0] in self._makers
        }
        nodes = [each for node in graph.node for each in self._rewritten(node)]
        for name in {node.input[2] for node in nodes if node.op_type == QUANTIZE}:
            self._tensors[name].CopyFrom(numpy_helper.from_array(np.array(0, np.int8), name))
        del graph.node[:]
        graph.node.extend(nodes)

    def _rewritten(self, node: NodeProto) -> list[NodeProto]:
        """Return what stands in the place of a node."""
        if node.op_type == QUANTIZE:
            return self._lower(node, self._lowered_by(node))
        lowered = [self._lowered.get(name, 0.0) for name in activations(node)]
        if not any(lowered):
            return [node]
        if node.op_type not in CONVOLUTIONS:
            return self._raise(node, np.array(sum(lowered) if node.op_type == "Add" else lowered[0], np.float32))
        missing = lowered[0] * _taken(node, self._weights(node), self._shapes[node.input[0]])
        if np.ptp(missing, axis=(2, 3)).any():  # less is missing at the borders, which are padded with zeros
            return self._raise(node, missing)
        bias = self._array(node.input[2]) if len(node.input) > 2 else np.float32(0)
        node.input[2:] = [self._constant(f"{node.output[0]}.raised_bias", bias + missing[0, :, 0, 0])]
        return [node]

    def _lowered_by(self, node: NodeProto) -> float:
        """Return the value of the steps between the zero point of a quantiser and the middle."""
        scale, zero = (self._array(name) for name in node.input[1:])
        return float(scale) * (_MIDDLE - int(zero)) if zero.dtype == np.uint8 else 0.0

    def _lower(self, node: NodeProto, value: float) -> list[NodeProto]:
        if not value:
            return [node]
        name = f"{node.output[0]}.lowered"
        inputs = [node.input[0], self._constant(f"{name}_by", np.array(value, np.float32))]
        node.input[0] = name
        return [helper.make_node("Sub", inputs, [name], name=f"{node.name}.lower"), node]

    def _raise(self, node: NodeProto, values: NDArray[np.float32]) -> list[NodeProto]:
        name, output = f"{node.output[0]}.low", node.output[0]
        # TensorRT 8.6 takes a map that is added to an INT8 convolution for a scale, and fails.
        inputs = [name, self._constant(f"{output}.raised_by", -values)]
        node.output[0] = name
        return [node, helper.make_node("Sub", inputs, [output], name=f"{node.name}.raise")]

    def _weights(self, node: NodeProto) -> NDArray[np.float32]:
        dequantize = self._makers[node.input[1]]
        weights, scales = (self._array(name) for name in dequantize.input[:2])
        axis = 0 if node.op_type == "Conv" else 1
        values: NDArray[np.float32] = weights * scales.reshape([-1 if i == axis else 1 for i in range(weights.ndim)])
        return values

    def _array(self, name: str) -> NDArray[Any]:
        return numpy_helper.to_array(self._tensors[name])

    def _constant(self, name: str, values: NDArray[np.float32]) -> str:
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
        return name


def _taken(node: NodeProto, weights: NDArray[np.float32], shape: list[int]) -> NDArray[np.float32]:
    """Return what a convolution without a bias makes of ones, ``(1, outputs, h, w)``."""
    groups = next((each.i for each in node.attribute if each.name == "group"), 1)
    # All channels are alike, so one is enough, with the weights added up.
    if node.op_type == "Conv":
        summed = weights.sum(axis=1, keepdims=True)
    else:
        summed = weights.reshape(groups, -1, *weights.shape[1:]).sum(axis=1)
        summed = summed.reshape(1, -1, *weights.shape[2:])
    alone = NodeProto()
    alone.CopyFrom(node)
    alone.input[:], alone.output[:] = ["x", "w"], ["y"]
    kept = [each for each in node.attribute if each.name != "group"]
    del alone.attribute[:]
    alone.attribute.extend(kept)
    values = {"x": np.ones((1, 1, *shape[2:]), np.float32), "w": summed.astype(np.float32)}
    types = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("x", "w", "y")]
    graph: GraphProto = helper.make_graph([alone], "ones", types[:2], types[2:])
    found: NDArray[np.float32] = ReferenceEvaluator(helper.make_model(graph)).run(None, values)[0]
    return found


def _shapes(model: ModelProto) -> dict[str, list[int]]:
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    return {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in graph.value_info}
