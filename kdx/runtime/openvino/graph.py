"""Changes that the OpenVINO backend makes to how a graph is computed, not to what it computes.

The figures are for STPM (ResNet-18, 256², INT8, 2 cores with AVX-512 VNNI).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from kdx.bundle.graph_contract import OUTPUTS, PREPROCESS, TAIL

# The operations that are FP32 in every precision; the last ones are named like the outputs.
_ISLAND = (PREPROCESS, TAIL, *OUTPUTS)
_NO_OPERATIONS = frozenset({"Const", "Parameter", "Result"})
_INT8_MAX, _UINT8_MAX = 127, 255


def reduce_channel_sums(model: Any) -> int:
    """Replace the tail's sums over channels by reductions, and return their number.

    In the graph, they are 1 × 1 convolutions with weights of 1.

    They are convolutions because these are faster in ONNX Runtime. OpenVINO reduces features in the
    layout of the networks' outputs, which makes a run 2 % faster, and in FP32 where its
    convolutions would become BF16.
    """
    sums = [op for op in model.get_ordered_ops() if op.get_type_name() == "Convolution" and _is_channel_sum(op)]
    for convolution in sums:
        reduced = ops.reduce_sum(convolution.input_value(0), np.array([1], np.int64), keep_dims=True)
        reduced.set_friendly_name(convolution.get_friendly_name())
        _replace(convolution, reduced)
    if sums:
        model.validate_nodes_and_infer_types()
    return len(sums)


def use_unsigned_activations(model: Any) -> int:
    """Quantise activations that are never negative to uint8; return the number of tensors.

    Bundles of earlier versions have int8 activations. The CPU's dot product multiplies unsigned by
    signed bytes, so that signed activations need a correction for each output: 3 to 7 % of the run.
    Values up to the calibrated maximum do not change; larger ones are clipped at twice that maximum
    rather than at the maximum.
    """
    pairs = []
    for quantise in model.get_ordered_ops():
        users = [target.get_node() for target in quantise.output(0).get_target_inputs()] if quantise.outputs() else []
        if (
            quantise.get_type_name() == "FakeQuantize"
            and _is_not_negative(quantise.input_value(0).get_node())
            and [user.get_type_name() for user in users] == ["Convert"]
            and users[0].get_element_type() == ov.Type.i8
        ):
            pairs.append((quantise, users[0]))
    for quantise, convert in pairs:
        step = quantise.input_value(2).get_node().data / _INT8_MAX
        zero, top = np.zeros_like(step), (step * _UINT8_MAX).astype(np.float32)
        levels = np.float32(0), np.float32(_UINT8_MAX)
        unsigned = ops.fake_quantize(quantise.input_value(0), zero, top, *levels, _UINT8_MAX + 1)
        unsigned.set_friendly_name(quantise.get_friendly_name())
        converted = ops.convert(unsigned, "u8")
        converted.set_friendly_name(convert.get_friendly_name())
        _replace(convert, converted)
    if pairs:
        model.validate_nodes_and_infer_types()
    return len(pairs)


def with_fp32_island(core: Any, model: Any) -> Any:
    """Return a model whose operations outside the networks stay in FP32.

    The attribute for this, ``precise``, exists only in OpenVINO's own file format.
    """
    with tempfile.TemporaryDirectory() as folder:
        xml, weights = Path(folder) / "model.xml", Path(folder) / "model.bin"
        ov.serialize(model, xml, weights)
        root = ElementTree.parse(xml).getroot()  # noqa: S314  # OpenVINO just wrote it
        for layer in root.iter("layer"):
            if layer.get("type") not in _NO_OPERATIONS and layer.get("name", "").startswith(_ISLAND):
                notes = layer.find("rt_info")
                if notes is None:
                    notes = ElementTree.Element("rt_info")
                    layer.insert(0 if layer.find("data") is None else 1, notes)
                ElementTree.SubElement(notes, "attribute", name="precise", version="0")
        return core.read_model(ElementTree.tostring(root), ov.Tensor(np.fromfile(weights, np.uint8)))


def _is_channel_sum(convolution: Any) -> bool:
    weights = convolution.input_value(1).get_node()
    if not convolution.get_friendly_name().startswith(TAIL) or weights.get_type_name() != "Constant":
        return False
    shape = tuple(weights.get_output_shape(0))
    return shape[0] == 1 and shape[2:] == (1, 1) and bool((weights.data == 1).all())


def _is_not_negative(op: Any) -> bool:
    kind = op.get_type_name()
    if kind == "MaxPool":
        return _is_not_negative(op.input_value(0).get_node())
    return kind == "Relu" or bool(kind == "Clamp" and op.get_attributes()["min"] >= 0)


def _replace(old: Any, new: Any) -> None:
    for target in list(old.output(0).get_target_inputs()):
        target.replace_source_output(new.output(0))
