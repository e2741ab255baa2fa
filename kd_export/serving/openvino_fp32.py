"""Keeps operations in FP32 in OpenVINO, whatever precision it is given or chooses itself.

The mark ``precise`` keeps an operation in FP32; but an operation that OpenVINO replaces when it
compiles loses its mark. So those operations are replaced first, by what OpenVINO would write. Which
ones they are was seen in compiled models: with every method of kdx, on ResNet and EfficientNet, no
operation stays in BF16 whose rounding matters (OpenVINO 2026.4).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import openvino as ov
from openvino import opset1
from openvino import opset13 as ops

_NO_OPERATIONS = frozenset({"Const", "Parameter", "Result"})
_SIGNS = np.array([1, -1], np.float32)


def settle(model: Any) -> None:
    """Replace a model's operations by those that OpenVINO would replace them by when it compiles.

    The numbers stay the same: a subtraction becomes the addition of a negative, a division by a
    constant the product with its reciprocal, a pooling one of the first operation set, a slice a
    strided one, a squeeze a reshape.

    Args:
        model: A model of static shapes; it is changed.
    """
    for op in model.get_ordered_ops():
        settled = _SETTLED.get(op.get_type_name(), _as_it_is)(op)
        if settled is not None:
            settled.set_friendly_name(op.get_friendly_name())
            for target in list(op.output(0).get_target_inputs()):
                target.replace_source_output(settled.output(0))
    model.validate_nodes_and_infer_types()


def mark_as_fp32(xml: Path) -> None:
    """Mark every operation in a file of OpenVINO's format; the mark can only be set there."""
    tree = ElementTree.parse(xml)  # noqa: S314  # OpenVINO just wrote it
    for layer in tree.getroot().iter("layer"):
        if layer.get("type") in _NO_OPERATIONS:
            continue
        notes = layer.find("rt_info")
        if notes is None:
            notes = ElementTree.Element("rt_info")
            layer.insert(0 if layer.find("data") is None else 1, notes)
        ElementTree.SubElement(notes, "attribute", name="precise", version="0")
    tree.write(xml, encoding="utf-8", xml_declaration=True)


def _as_it_is(op: Any) -> Any:
    return None


def _is_fp32(op: Any) -> bool:
    return bool(op.get_element_type() == ov.Type.f32)


def _constant(op: Any, index: int) -> Any:
    """Return an input's constant value, or None."""
    maker = op.input_value(index).get_node()
    return maker.data if maker.get_type_name() == "Constant" else None


def _spread(op: Any, value: Any) -> Any:
    """Return a constant along the last axis of an output: a scalar would lose the mark."""
    value = np.asarray(value, np.float32)
    return ops.constant(np.broadcast_to(value, np.broadcast_shapes(value.shape, op.get_output_shape(0)[-1:])))


def _added(op: Any) -> Any:
    if not _is_fp32(op):
        return None
    subtracted = _constant(op, 1)
    if subtracted is not None:
        return ops.add(op.input_value(0), _spread(op, -subtracted))
    left = _constant(op, 0)
    if left is None and op.get_output_shape(0)[-1] == 1:
        if op.get_input_shape(0) != op.get_input_shape(1):
            return None
        signed = ops.multiply(ops.concat([op.input_value(0), op.input_value(1)], -1), ops.constant(_SIGNS))
        return ops.reduce_sum(signed, ops.constant(np.array([-1], np.int64)), keep_dims=True)
    negative = ops.multiply(op.input_value(1), _spread(op, -1))
    return ops.add(op.input_value(0) if left is None else _spread(op, left), negative)


def _multiplied(op: Any) -> Any:
    divisor = _constant(op, 1) if _is_fp32(op) else None
    return None if divisor is None else ops.multiply(op.input_value(0), _spread(op, 1 / divisor))


def _pooled(op: Any) -> Any:
    given = op.get_attributes()
    first = {name: given[name] for name in ("strides", "pads_begin", "pads_end", "rounding_type", "auto_pad")}
    if given["rounding_type"] not in {"floor", "ceil"} or any(step != 1 for step in given.get("dilations", ())):
        return None
    if op.get_type_name() == "AvgPool":
        exclude = given["exclude-pad"]
        return opset1.avg_pool(op.input_value(0), kernel_shape=given["kernel"], exclude_pad=exclude, **first)
    return opset1.max_pool(op.input_value(0), kernel_shape=given["kernel"], **first)


def _reshaped(op: Any) -> Any:
    if op.get_output_partial_shape(0).is_dynamic:
        return None
    return ops.reshape(op.input_value(0), ops.constant(np.array(op.get_output_shape(0), np.int64)), False)


def _cut(op: Any) -> Any:
    if op.get_input_size() < 5 or op.get_input_partial_shape(0).is_dynamic:
        return None
    starts, stops, steps, axes = (_constant(op, index) for index in range(1, 5))
    if any(each is None for each in (starts, stops, steps, axes)) or (steps < 1).any():
        return None
    parts = [(0, size, 1) for size in op.get_input_shape(0)]
    for start, stop, step, axis in zip(starts.tolist(), stops.tolist(), steps.tolist(), axes.tolist(), strict=True):
        parts[axis] = slice(start, stop, step).indices(parts[axis][1])
    begin, end, stride = (ops.constant(np.array(each, np.int64)) for each in zip(*parts, strict=True))
    none = [0] * len(parts)
    return ops.strided_slice(op.input_value(0), begin, end, stride, none, none)


_SETTLED = {
    "AvgPool": _pooled,
    "Divide": _multiplied,
    "MaxPool": _pooled,
    "Reshape": _reshaped,
    "Slice": _cut,
    "Squeeze": _reshaped,
    "Subtract": _added,
    "Unsqueeze": _reshaped,
}
