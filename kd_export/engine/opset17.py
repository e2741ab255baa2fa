"""Graphs for TensorRT 8.6, whose parser knows operators up to opset 17.

Since opset 18 the axes of most reductions are an input. That parser ignores it and reduces over all
axes, the batch included: it would return one score for a batch, and other features.

It does not take int8 constants as the weights of a convolution everywhere: where two convolutions
share a quantised tensor, its build ends in an assertion. Weights in FP32 that the graph quantises
are taken.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper

from kdx.errors import GateError

OPSET = 17
# Their axes are an attribute in opset 17; those of ReduceSum are an input there, too.
_REDUCTIONS = frozenset(
    {
        *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
        *("ReduceMin", "ReduceProd", "ReduceSumSquare"),
    }
)
_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


def quantise_weights_in_graph(model: ModelProto) -> ModelProto:
    """Return an INT8 graph with weights in FP32, which it quantises to the same integers.

    The int8 constants stay; :func:`to_opset_17` removes what is not used.
    """
    rewritten = ModelProto()
    rewritten.CopyFrom(model)
    graph = rewritten.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.op_type == _DEQUANTIZE and node.input[0] in constants:
            weights, scales = constants[node.input[0]], constants[node.input[1]]
            axis = next((each.i for each in node.attribute if each.name == "axis"), 1)
            by_axis = scales.reshape([-1 if each == axis else 1 for each in range(weights.ndim)])
            values, quantised = f"{node.output[0]}.values", f"{node.output[0]}.quantised"
            # Its quotient by the scale is nearer to the integer than to any other.
            graph.initializer.append(numpy_helper.from_array(weights.astype(np.float32) * by_axis, values))
            nodes.append(
                helper.make_node(
                    _QUANTIZE, [values, *node.input[1:]], [quantised], name=f"{node.name}.quantise", axis=axis
                )
            )
            node.input[0] = quantised
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return rewritten


def to_opset_17(model: ModelProto) -> ModelProto:
    """Return the graph in opset 17, with the axes of reductions as attributes.

    Raises:
        GateError: A node uses what opset 17 does not have.
    """
    rewritten = ModelProto()
    rewritten.CopyFrom(model)
    graph = rewritten.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type not in _REDUCTIONS:
            continue
        axes = constants[node.input.pop()] if len(node.input) == 2 else None
        for attribute in [each for each in node.attribute if each.name == "noop_with_empty_axes"]:
            if axes is not None or not attribute.i:  # else the node does nothing, which opset 17 cannot say
                node.attribute.remove(attribute)
        if axes is not None:
            node.attribute.append(helper.make_attribute("axes", numpy_helper.to_array(axes).tolist()))
    used = {name for node in graph.node for name in node.input}
    for name, tensor in constants.items():
        if name not in used:
            graph.initializer.remove(tensor)
    for opset in rewritten.opset_import:
        opset.version = min(opset.version, OPSET)
    try:
        onnx.checker.check_model(rewritten, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GateError(
            f"the graph cannot be written for TensorRT 8.6: {error}", fix="build with TensorRT 10 or later"
        ) from error
    return rewritten
