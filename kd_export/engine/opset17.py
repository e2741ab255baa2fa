"""Graphs for TensorRT 8.6, whose parser knows operators up to opset 17.

Since opset 18 the axes of most reductions are an input. That parser ignores it and reduces over all
axes, the batch included: it would return one score for a batch, and other features.
"""

from __future__ import annotations

import onnx
from onnx import ModelProto, helper, numpy_helper

from kdx.errors import GateError

OPSET = 17
# Their axes are an attribute in opset 17; those of ReduceSum are an input there, too.
_REDUCTIONS = frozenset(
    {
        *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
        *("ReduceMin", "ReduceProd", "ReduceSumSquare"),
    }
)


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
