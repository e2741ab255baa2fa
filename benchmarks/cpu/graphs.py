"""What a graph costs, read from the graph itself."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import onnx

from kdx.bundle.graph_contract import PAIR


def cost_of(graph: Path) -> dict[str, Any]:
    """Return the parameters, the multiply-adds and the size of a graph."""
    return {"parameters": parameters(graph), "multiply_adds": multiply_adds(graph), "graph_bytes": graph.stat().st_size}


def multiply_adds(graph: Path) -> dict[str, int]:
    """Count multiply-adds for one image by operator: convolutions and matrix products."""
    model = onnx.shape_inference.infer_shapes(onnx.load(graph), data_prop=True)
    shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        # The batch is symbolic, and counts as one.
        shapes[value.name] = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
    counts: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type == "Conv":
            count = math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
        elif node.op_type == "ConvTranspose":
            count = math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])
        elif node.op_type == "MatMul":
            count = math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
        else:
            continue
        counts[node.op_type] = counts.get(node.op_type, 0) + count
    return counts


def parameters(graph: Path) -> int:
    """Count the weights of the networks' convolutions; the constants of the tail do not count."""
    model = onnx.load(graph)
    convolutions = [node for node in model.graph.node if node.op_type in {"Conv", "ConvTranspose"}]
    used = {name for node in convolutions if node.name.startswith(PAIR) for name in node.input[1:]}
    return sum(math.prod(tensor.dims) for tensor in model.graph.initializer if tensor.name in used)
