"""The activations of an INT8 graph as TensorRT takes them: int8 with the zero point 0."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, numpy_helper

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_INT8_MAX, _UINT8_MAX = 127, 255


def signed_activations(model: ModelProto) -> ModelProto:
    """Return an INT8 graph with int8 activations of the zero point 0, for TensorRT.

    Activations that cannot be negative have 128 steps then instead of 256.

    Args:
        model: A graph that :func:`kd_export.precision.quantize.quantize` returned.
    """
    result = ModelProto()
    result.CopyFrom(model)
    tensors = {tensor.name: tensor for tensor in result.graph.initializer}
    # In bundles of earlier versions, a pool's output shares the constants of its input.
    constants = dict.fromkeys(tuple(node.input[1:]) for node in result.graph.node if node.op_type == QUANTIZE)
    for scale_name, zero_name in constants:
        scale, zero = (numpy_helper.to_array(tensors[name]) for name in (scale_name, zero_name))
        if zero.dtype != np.uint8:
            continue
        factor = 1.0 if zero else _UINT8_MAX / _INT8_MAX
        signed = (scale * factor).astype(np.float32)
        tensors[scale_name].CopyFrom(numpy_helper.from_array(signed, scale_name))
        tensors[zero_name].CopyFrom(numpy_helper.from_array(np.array(0, np.int8), zero_name))
    return result
