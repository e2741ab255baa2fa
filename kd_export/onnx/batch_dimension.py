"""The batch dimension of a graph that was traced at one batch size.

With a symbolic batch size, PyTorch proves guards about it while it traces a network, which takes
half of an export or more (two thirds with EfficientNet-Lite0). What it finds out is known
beforehand: a detector treats every image for itself, so that the batch size occurs in shapes alone.
Graphs are therefore traced at one size, and these shapes are replaced afterwards. That nothing else
follows from the traced size is checked twice: here by the shapes of all values at other sizes, and
by the certificate of a bundle, which compares answers at other sizes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper, shape_inference

TRACED_BATCH = 11
"""The size to trace at: few dimensions of networks are equal to it, and a certificate compares
answers at other sizes (1, and one of 2 to 7)."""

_CHECKED_BATCHES = (1, 3)
# Constants with more values than this are weights: no shape follows from their values.
_MOST_SIZES = 64


def set_batch(model: ModelProto, batch: int | None) -> bool:
    """Replace the batch size at which a graph was traced.

    Args:
        model: The graph, traced at :data:`TRACED_BATCH`. Its inputs, its outputs and the constant
            shapes of ``Reshape`` are changed in place.
        batch: The batch size; None for any, as the dimension ``N``.

    Returns:
        Whether the shapes of all values follow the batch size. If they do not, the graph depends on
        the traced size in another way than by shapes of ``Reshape``, and is of no use.
    """
    values = (*model.graph.input, *model.graph.output)
    if any(value.type.tensor_type.shape.dim[0].dim_value != TRACED_BATCH for value in values):
        return False
    traced = _shapes_at(model, TRACED_BATCH)
    shapes = _shapes_of_batches(model, traced)
    for tensor in shapes or ():
        _set_first(tensor, -1)
    if shapes is None or not all(_follow(traced, _shapes_at(model, each), each) for each in _CHECKED_BATCHES):
        return False
    for value in values:
        dimension = value.type.tensor_type.shape.dim[0]
        if batch is None:
            dimension.dim_param = "N"
        else:
            dimension.dim_value = batch
    if batch is not None:
        for tensor in shapes:
            _set_first(tensor, batch)
    return True


def _shapes_of_batches(model: ModelProto, traced: Mapping[str, tuple[int, ...]]) -> list[TensorProto] | None:
    """Return the constant shapes of ``Reshape`` that begin with the traced batch size.

    A size of -1 in them is replaced by the size it had when the graph was traced: at another batch
    size it would divide other numbers of values by the traced one. None if it had several sizes.
    """
    wanted: dict[str, set[tuple[int, ...]]] = {}
    for node in model.graph.node:
        if node.op_type == "Reshape":
            wanted.setdefault(node.input[1], set()).add(traced.get(node.output[0], ()))
    found = []
    for tensor in model.graph.initializer:
        sizes = numpy_helper.to_array(tensor) if tensor.name in wanted else None
        if sizes is None or sizes[:1] != TRACED_BATCH:
            continue
        if -1 in sizes:
            shape, *others = wanted[tensor.name]
            if others or len(shape) != len(sizes):
                return None
            tensor.CopyFrom(numpy_helper.from_array(np.array(shape, dtype=sizes.dtype), tensor.name))
        found.append(tensor)
    return found


def _set_first(tensor: TensorProto, size: int) -> None:
    sizes = numpy_helper.to_array(tensor).copy()
    sizes[0] = size
    tensor.CopyFrom(numpy_helper.from_array(sizes, tensor.name))


def _follow(traced: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]], batch: int) -> bool:
    """Return whether every dimension is the traced one or changed as the batch size did.

    Where nothing could be inferred, or a dimension is not known (0), nothing is shown.
    """
    return (
        bool(traced)
        and traced.keys() == found.keys()
        and all(
            len(sizes) == len(traced[name])
            and all(
                size > 0 and (size == one or size * TRACED_BATCH == one * batch)
                for size, one in zip(sizes, traced[name], strict=True)
            )
            for name, sizes in found.items()
        )
    )


def _shapes_at(model: ModelProto, batch: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all values at a batch size; nothing if shapes contradict each other."""
    graph = model.graph
    # Weights are described, so that they are not copied for each inference.
    small = [each for each in graph.initializer if math.prod(each.dims) <= _MOST_SIZES]
    large = [
        helper.make_tensor_value_info(each.name, each.data_type, each.dims)
        for each in graph.initializer
        if math.prod(each.dims) > _MOST_SIZES
    ]
    inputs, outputs = (
        [
            helper.make_tensor_value_info(
                value.name,
                value.type.tensor_type.elem_type,
                [batch, *(dimension.dim_value for dimension in value.type.tensor_type.shape.dim[1:])],
            )
            for value in values
        ]
        for values in (graph.input, graph.output)
    )
    light = helper.make_model(
        helper.make_graph(graph.node, graph.name, [*inputs, *large], outputs, small),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
    )
    try:
        inferred = shape_inference.infer_shapes(light, check_type=True, strict_mode=True, data_prop=True)
    except shape_inference.InferenceError:
        return {}
    return {
        value.name: tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim)
        for value in (*inferred.graph.value_info, *inferred.graph.output)
    }
