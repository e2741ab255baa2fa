"""What the OpenVINO backend changes in a graph changes nothing that it computes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kd_export.precision.activations import QUANTIZE
from kd_export.precision.quantize import quantize
from kdx.bundle.graph_contract import OUTPUTS
from tests.images import solar_cells

ov = pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'kdx[openvino]'")
openvino_graph = pytest.importorskip("kdx.runtime.openvino.graph")
CONFIG = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}


def types(model, kind: str) -> list[str]:
    """Return the element types of the operations of a kind."""
    return [op.get_element_type().get_type_name() for op in model.get_ordered_ops() if op.get_type_name() == kind]


def run(model, image):
    compiled = ov.Core().compile_model(model, "CPU", CONFIG)
    results = compiled.create_infer_request().infer({0: image})
    return [results[compiled.output(name)].copy() for name in OUTPUTS]


def test_channel_sums_are_reduced_in_every_method(exported) -> None:
    image = solar_cells(1, (72, 80))
    model = ov.Core().read_model(exported.fp32)
    model.reshape({model.input(0): [1, 72, 80, 3]})
    before = run(model, image)
    sums = [op for op in model.get_ordered_ops() if op.get_type_name() == "Convolution" and _in_tail(op)]
    assert openvino_graph.reduce_channel_sums(model) == len(sums) > 0
    assert not [op for op in model.get_ordered_ops() if op.get_type_name() == "Convolution" and _in_tail(op)]
    for ours, theirs in zip(run(model, image), before, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6 * np.abs(theirs).max())


def _in_tail(op) -> bool:
    return op.get_friendly_name().startswith("tail")


def test_other_convolutions_stay(tmp_path) -> None:
    """Ones in the networks, and constants other than ones in the tail, are no sums over
    channels."""
    values = {"pair": np.ones((1, 4, 1, 1), np.float32), "tail": np.full((1, 4, 1, 1), 2, np.float32)}
    nodes = [helper.make_node("Conv", ["image", room], [f"{room}/Conv"], name=f"{room}/Conv") for room in values]
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 4, 8, 8])],
        [helper.make_tensor_value_info(f"{room}/Conv", TensorProto.FLOAT, [1, 1, 8, 8]) for room in values],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "two.onnx")
    assert openvino_graph.reduce_channel_sums(ov.Core().read_model(tmp_path / "two.onnx")) == 0


@pytest.mark.slow
@pytest.mark.parametrize("exported", ["stpm", "mixed-teacher"], indirect=True)
def test_unsigned_activations_have_the_same_values(exported, tmp_path) -> None:
    """On images that were calibrated on, nothing exceeds its range, so nothing may change but
    roundings at ties.

    One such is a step's difference in the next layer: OpenVINO and ONNX Runtime differ by up to 3.5
    % here.
    """
    images = solar_cells(4, (72, 80))
    graph = as_once_written(quantize(onnx.load(exported.fp32), images))
    onnx.save_model(graph, str(tmp_path / "int8.onnx"))
    model = ov.Core().read_model(tmp_path / "int8.onnx")
    model.reshape({model.input(0): [1, 72, 80, 3]})
    before = [run(model, image[None]) for image in images]
    signed = types(model, "Convert").count("i8")
    changed = openvino_graph.use_unsigned_activations(model)
    assert 0 < changed < signed  # the image, and what goes into residual additions, can be negative
    assert types(model, "Convert").count("i8") == signed - changed
    for image, theirs in zip(images, before, strict=True):
        for ours, expected in zip(run(model, image[None]), theirs, strict=True):
            np.testing.assert_allclose(ours, expected, rtol=0, atol=0.035 * np.abs(expected).max())


def as_once_written(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an INT8 graph with int8 activations of the zero point 0, and 127 steps for those that
    cannot be negative."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for scale_name, zero_name in {tuple(node.input[1:]) for node in model.graph.node if node.op_type == QUANTIZE}:
        scale, zero = (numpy_helper.to_array(tensors[name]) for name in (scale_name, zero_name))
        factor = 255 / 127 if (zero.dtype, int(zero)) == (np.uint8, 0) else 1
        tensors[scale_name].CopyFrom(numpy_helper.from_array((scale * factor).astype(np.float32), scale_name))
        tensors[zero_name].CopyFrom(numpy_helper.from_array(np.array(0, np.int8), zero_name))
    return model


def test_what_exceeds_the_calibrated_range_is_cut_off_later() -> None:
    """With a step of 1/127, 1.5 is cut off at 1 as int8 and kept as uint8."""
    from openvino import opset13 as ops

    parameter = ops.parameter([4], np.float32)
    limits = [np.float32(value) for value in (-128 / 127, 1.0, -128.0, 127.0)]
    quantised = ops.convert(ops.fake_quantize(ops.relu(parameter), *limits, 256), "i8")
    levels = ops.convert(quantised, np.float32)
    model = ov.Model([levels], [parameter])
    values = np.array([-1.0, 0.5, 1.0, 1.5], np.float32)

    def steps():
        compiled = ov.Core().compile_model(model, "CPU", CONFIG)
        return next(iter(compiled.create_infer_request().infer({0: values}).values())).tolist()

    assert steps() == [0.0, 64.0, 127.0, 127.0]
    assert openvino_graph.use_unsigned_activations(model) == 1
    assert steps() == [0.0, 64.0, 127.0, 190.0]
