"""Matrix products as 1 × 1 convolutions, for cards of compute capability 7.5.

TensorRT for RTX compiles no FP32 matrix product for Turing ("FP32 GEMM is not supported", 1.7.1),
but FP32 convolutions. The fused detector's products all have one constant side: resizing,
upsampling, blurring, summing over channels. A constant times columns is a 1 × 1 convolution over
those columns, exactly; a stack of constants, one for each block of rows, is a grouped one.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper


def products_to_convolutions(model: ModelProto) -> ModelProto:
    """Return the graph with every product of a constant matrix and a value as a convolution."""
    rewritten = ModelProto()
    rewritten.CopyFrom(model)
    graph = rewritten.graph
    shapes = _shapes(model)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.op_type != "MatMul":
            nodes.append(node)
            continue
        left, right = (constants.get(name) for name in node.input)
        if left is not None and left.ndim in {2, 3}:
            matrix, value = left, node.input[1]
            nodes += _convolve(graph, node.name, matrix, value, shapes[value], node.output[0])
        elif right is not None and right.ndim == 2:
            # x B = (Bᵀ xᵀ)ᵀ
            value, matrix = node.input[0], right.T
            turned, product = f"{node.output[0]}.turned", f"{node.output[0]}.product"
            axes = [*range(len(shapes[value]) - 2), len(shapes[value]) - 1, len(shapes[value]) - 2]
            shape = [shapes[value][axis] for axis in axes]
            nodes.append(helper.make_node("Transpose", [value], [turned], name=f"{node.name}.turn", perm=axes))
            nodes += _convolve(graph, node.name, matrix, turned, shape, product)
            nodes.append(
                helper.make_node("Transpose", [product], [node.output[0]], name=f"{node.name}.return", perm=axes)
            )
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    onnx.checker.check_model(rewritten, full_check=True)
    return rewritten


def _convolve(
    graph: onnx.GraphProto, name: str, matrix: NDArray[np.float32], value: str, shape: list[int], output: str
) -> list[NodeProto]:
    """Return nodes for ``matrix @ value``, with the rows of the value as channels.

    A stack of matrices ``(K, q, h)`` multiplies a value ``(N, K, h, columns)``.
    """
    groups = matrix.shape[0] if matrix.ndim == 3 else 1
    rows, columns = shape[-2:]
    weight = numpy_helper.from_array(matrix.reshape(-1, rows)[:, :, None, None].copy(), f"{output}.weight")
    before = _constant(graph, f"{output}.before", [-1, groups * rows, 1, columns])
    after = _constant(graph, f"{output}.after", [-1, *shape[1:-2], matrix.shape[-2], columns])
    graph.initializer.append(weight)
    return [
        helper.make_node("Reshape", [value, before], [f"{output}.columns"], name=f"{name}.columns"),
        helper.make_node(
            "Conv", [f"{output}.columns", weight.name], [f"{output}.convolved"], name=f"{name}.Conv", group=groups
        ),
        helper.make_node("Reshape", [f"{output}.convolved", after], [output], name=f"{name}.rows"),
    ]


def _constant(graph: onnx.GraphProto, name: str, values: list[int]) -> str:
    graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
    return name


def _shapes(model: ModelProto) -> dict[str, list[int]]:
    """Return the shapes of values; a dynamic batch is -1."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    return {
        value.name: [dim.dim_value if dim.HasField("dim_value") else -1 for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.input, *graph.output)
        if value.type.tensor_type.elem_type in {TensorProto.FLOAT, TensorProto.FLOAT16}
    }
