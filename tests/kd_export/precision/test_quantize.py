"""INT8 graphs: the types in the graph are checked, and it runs in every runtime that reads it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from onnx import TensorProto, numpy_helper

from kd_export.graph.int8 import Int8Plan, step_of
from kd_export.precision.activations import CONVOLUTIONS, DEQUANTIZE, QUANTIZE
from kd_export.precision.quantize import (
    put_back,
    quantised_nodes,
    quantize,
    quantize_by,
)
from kd_export.precision.runners import run_onnxruntime
from kd_export.precision.sensitivity import MEASURED, output_errors, worst_layers
from kdx.bundle.checked_files import Graph
from kdx.errors import GateError
from kdx.runtime.backend import Outputs
from tests.images import solar_cells


def images_of(count: int = 4) -> np.ndarray:
    return solar_cells(count, (72, 80))


class Int8:
    """A method's graph and its INT8 form, with what its nodes take and who makes it."""

    def __init__(self, exported) -> None:
        self.path = exported.int8
        self.fp32 = onnx.load(exported.fp32)
        self.model = onnx.load(exported.int8)
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in self.model.graph.initializer}
        self.makers = {name: node for node in self.model.graph.node for name in node.output}

    def is_dequantised(self, name: str) -> bool:
        return name in self.makers and self.makers[name].op_type == DEQUANTIZE


@pytest.fixture(scope="module")
def int8(exported) -> Int8:
    return Int8(exported)


@pytest.mark.slow
def test_every_type_in_the_graph_of_every_method(int8) -> None:
    graph = int8.model.graph
    # Those after the taps are sums over channels, and FP32 like everything there.
    convolutions = [n for n in graph.node if n.op_type in CONVOLUTIONS and n.name.startswith("pair")]
    assert len(convolutions) > 5
    for node in convolutions:
        assert all(int8.is_dequantised(name) for name in node.input[:2]), node.name
        dequantize = int8.makers[node.input[1]]
        weights, scales, zeros = (int8.constants[name] for name in dequantize.input)
        assert weights.dtype == np.int8
        axis = 0 if node.op_type == "Conv" else 1
        assert next(a.i for a in dequantize.attribute if a.name == "axis") == axis
        assert scales.shape == (weights.shape[axis],), "the weights' scales are not per channel"
        assert (scales > 0).all()
        assert not zeros.any()
        # The bias stays FP32: TensorRT dequantises no int32.
        assert all(int8.constants[name].dtype == np.float32 for name in node.input[2:])
    for node in graph.node:
        if node.op_type == QUANTIZE:
            scale, zero = (int8.constants[name] for name in node.input[1:])
            assert scale.shape == zero.shape == ()
            # What cannot be negative starts at 0. The image may be int8.
            is_image = not node.input[0].startswith("pair")
            assert (zero.dtype, int(zero)) in {(np.dtype(np.uint8), 0), (np.dtype(np.uint8), 128)} or is_image
            assert int(zero) == 0 or int8.makers[node.input[0]].op_type != "Relu"
            assert np.isfinite(scale)
            assert scale > 0
            # Explicit pairs: what is quantised is dequantised with the same scale.
            followers = [other for other in graph.node if node.output[0] in other.input]
            assert followers
            assert all(f.op_type == DEQUANTIZE and f.input[1] == node.input[1] for f in followers)


def test_nothing_outside_the_networks_is_touched(int8) -> None:
    before = {node.name: node for node in int8.fp32.graph.node}
    after = {node.name: node for node in int8.model.graph.node}
    assert set(before) <= set(after)
    for name, node in before.items():
        assert (node.op_type, node.output, node.attribute) == (
            after[name].op_type, after[name].output, after[name].attribute,
        )  # fmt: skip
        if not name.startswith("pair"):
            assert node.input == after[name].input, f"{name} takes quantised values"
    added = [node for name, node in after.items() if name not in before]
    assert {node.op_type for node in added} == {QUANTIZE, DEQUANTIZE}
    assert all(node.name.startswith("pair/") and node.domain == "" for node in added)
    assert [(o.domain, o.version) for o in int8.model.opset_import] == [
        (o.domain, o.version) for o in int8.fp32.opset_import
    ]
    assert {p.key for p in int8.model.metadata_props} == {p.key for p in int8.fp32.metadata_props}
    floats = {t.name for t in int8.model.graph.initializer if t.data_type == TensorProto.FLOAT}
    quantised = quantised_nodes(int8.model)
    weights = {node.input[1] for name, node in before.items() if name in quantised and node.op_type in CONVOLUTIONS}
    assert not weights & floats, "FP32 weights are still in the file"


def test_residual_additions_are_quantised_on_both_sides(int8) -> None:
    constants = {tensor.name for tensor in int8.fp32.graph.initializer}
    sums = [
        node
        for node in int8.model.graph.node
        if node.op_type == "Add" and node.name.startswith("pair") and not constants.intersection(node.input)
    ]
    assert sums
    assert all(int8.is_dequantised(name) for node in sums for name in node.input)


def test_it_computes_what_fp32_does_up_to_rounding(int8) -> None:
    exact, ours = (run_onnxruntime(model, images_of()) for model in (int8.fp32, int8.model))
    assert np.isfinite(ours.maps).all()
    moved = np.abs(ours.scores / exact.scores - 1).max()
    # Random weights leave teacher and student far apart, so that rounding is a small part of their
    # distance.
    assert 0 < moved < 0.1
    noise = np.square(ours.maps - exact.maps).sum() / np.square(exact.maps).sum()
    assert noise < 0.01, "below 20 dB"


@pytest.mark.slow
def test_openvino_agrees_with_onnx_runtime(int8) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    from kdx.runtime.openvino.backend import OpenVino

    theirs = run_onnxruntime(int8.model, images_of())
    with OpenVino(Graph.of(int8.path)) as backend:
        answers = [backend.run(image[None]) for image in images_of()]
        nodes = [op.get_rt_info() for op in backend.compiled_model().get_runtime_model().get_ops()]
    ours = Outputs(*(np.concatenate(each) for each in zip(*answers, strict=True)))
    exact = run_onnxruntime(int8.fp32, images_of())
    # Where a value lies between two steps the two round it to either side, and from there on they
    # differ as much as each does from FP32; neither may be further away.
    assert np.square(ours.maps - exact.maps).sum() < 3 * np.square(theirs.maps - exact.maps).sum()
    np.testing.assert_allclose(ours.scores, theirs.scores, rtol=0.05)
    convolutions = [n for n in nodes if n["layerType"].value in {"Convolution", "GroupConvolution", "Deconvolution"}]
    kinds = Counter("int8" if n["primitiveType"].value.lower().endswith("i8") else "other" for n in convolutions)
    assert kinds["int8"] > 0.8 * len(convolutions), f"OpenVINO does not compute in INT8: {kinds}"


def test_scales_come_from_the_images(int8) -> None:
    # The first convolution's input is the image itself, less the mean: its range can be had by
    # hand.
    first = next(node for node in int8.model.graph.node if node.op_type == "Conv")
    raw = int8.makers[int8.makers[first.input[0]].input[0]].input[0]
    scale = float(int8.constants[int8.makers[first.input[0]].input[1]])
    probe = onnx.ModelProto()
    probe.CopyFrom(int8.fp32)
    probe.graph.output.append(onnx.helper.make_tensor_value_info(raw, TensorProto.FLOAT, None))
    import onnxruntime as ort

    session = ort.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    largest = max(float(np.abs(session.run([raw], {"image": image[None]})[0]).max()) for image in images_of())
    assert scale == pytest.approx(largest / 127, rel=0.01)


@pytest.fixture(scope="module")
def stpm(tmp_path_factory) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """STPM's FP32 graph and its INT8 form."""
    from kd_export.onnx.onnx_export import export_onnx
    from kdx.imaging.images import InputSpec
    from tests.pairs import fuse_pair, make_pair

    path = tmp_path_factory.mktemp("stpm") / "model.onnx"
    detector = fuse_pair(make_pair("stpm", "test_resnet"), InputSpec(height=64, width=64), 64)
    export_onnx(detector, path, max_batch=1, metadata={"kdx.method": "stpm"})
    model = onnx.load(path)
    return model, quantize(model, solar_cells(4, (64, 64)))


@pytest.mark.slow
def test_the_given_graph_is_not_changed(stpm) -> None:
    model, _ = stpm
    before = model.SerializeToString(deterministic=True)
    quantize(model, solar_cells(2, (64, 64)))
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.slow
def test_what_is_kept_runs_on_unquantised_inputs(stpm) -> None:
    model, quantised = stpm
    kept = [node.name for node in model.graph.node if node.op_type == "Conv"][3:5]
    directly = quantize(model, solar_cells(4, (64, 64)), keep=kept)
    assert directly.SerializeToString(deterministic=True) == put_back(quantised, model, kept).SerializeToString(
        deterministic=True
    )
    before = {node.name: node for node in model.graph.node}
    for node in directly.graph.node:
        if node.name in kept:
            assert node.input == before[node.name].input
    assert set(quantised_nodes(quantised)) - set(quantised_nodes(directly)) == set(kept)
    used = {name for node in directly.graph.node for name in node.input}
    assert {tensor.name for tensor in directly.graph.initializer} <= used


def test_all_put_back_is_fp32(stpm) -> None:
    model, quantised = stpm
    none = put_back(quantised, model, quantised_nodes(quantised))
    assert quantised_nodes(none) == []
    images = solar_cells(3, (64, 64))
    for ours, theirs in zip(run_onnxruntime(none, images), run_onnxruntime(model, images), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_the_layer_that_is_broken_is_the_worst(stpm) -> None:
    model, quantised = stpm
    broken = onnx.ModelProto()
    broken.CopyFrom(quantised)
    chosen = [node for node in broken.graph.node if node.op_type == "Conv"][6]
    dequantize = next(node for node in broken.graph.node if chosen.input[1] in node.output)
    scale = next(tensor for tensor in broken.graph.initializer if tensor.name == dequantize.input[1])
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * 8, scale.name))
    steps: list[None] = []

    def maps_of(graph: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
        outputs: Outputs = run_onnxruntime(graph, images)
        return outputs.maps

    found = worst_layers(broken, model, solar_cells(2, (64, 64)), maps_of, step=lambda: steps.append(None))
    assert found[0].node == chosen.name
    assert found[0].error > 3 * found[1].error
    measured = [each.error for each in found if each.of_maps]
    assert measured == sorted(measured, reverse=True)
    assert len(steps) == len(measured) <= MEASURED
    assert {each.node for each in found} == set(quantised_nodes(quantised))
    # With few measured by the maps, it is among them: its own output is off more than any other's.
    few = worst_layers(broken, model, solar_cells(2, (64, 64)), maps_of, measured=3)
    assert [each.of_maps for each in few] == [True] * 3 + [False] * (len(found) - 3)
    assert few[0].node == chosen.name


def test_what_quantising_does_to_an_output_alone(stpm) -> None:
    """The first convolution by hand: int8 image and weights, in PyTorch."""
    model, quantised = stpm
    node = next(node for node in quantised.graph.node if node.op_type == "Conv")
    makers = {name: maker for maker in quantised.graph.node for name in maker.output}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantised.graph.initializer}
    originals = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    exact = next(each for each in model.graph.node if each.name == node.name)
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.append(onnx.helper.make_tensor_value_info(exact.input[0], onnx.TensorProto.FLOAT, None))
    session = ort.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    image = solar_cells(1, (64, 64))
    (x,) = session.run([exact.input[0]], {"image": image})
    step, zero = (constants[name] for name in makers[makers[node.input[0]].input[0]].input[1:])
    low, high = (np.iinfo(zero.dtype).min - int(zero), np.iinfo(zero.dtype).max - int(zero))
    weights = makers[node.input[1]]
    scale = constants[weights.input[1]].reshape(-1, 1, 1, 1)
    attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    settings = {"stride": attributes["strides"], "padding": attributes["pads"][:2]}
    bias = torch.tensor(originals[exact.input[2]])
    ours = F.conv2d(
        torch.tensor(np.clip(np.rint(x / step), low, high) * step),
        torch.tensor(constants[weights.input[0]] * scale),
        bias,
        **settings,
    )
    theirs = F.conv2d(torch.tensor(x), torch.tensor(originals[exact.input[1]]), bias, **settings)
    expected = float(((ours - theirs).square().sum() / theirs.square().sum()).sqrt())
    assert expected > 0
    assert output_errors(quantised, model, image)[node.name] == pytest.approx(expected, rel=1e-3)


def test_a_plan_of_another_network_is_refused(stpm) -> None:
    model, _ = stpm
    plan = Int8Plan({"pair.student.conv9/Conv": (step_of(1.0, "any"),)})
    with pytest.raises(GateError, match=r"the graph has no node 'pair\.student\.conv9/Conv', which is quantised"):
        quantize_by(model, plan)


def test_weights_that_two_nodes_share_have_a_step_for_each() -> None:
    weight = numpy_helper.from_array(np.ones((4, 4, 1, 1), np.float32), "weight")
    bias = numpy_helper.from_array(np.full(4, 0.1, np.float32), "bias")
    value, output = (onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 2, 2]) for name in "xz")
    nodes = [
        onnx.helper.make_node("Conv", ["x", "weight", "bias"], ["y"], name="pair.conv/Conv"),
        onnx.helper.make_node("Conv", ["y", "weight", "bias"], ["z"], name="pair.conv/Conv_2"),
    ]
    graph = onnx.helper.make_graph(nodes, "twice", [value], [output], [weight, bias])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    # With these activations, the bias of the second one has much larger steps.
    plan = Int8Plan({"pair.conv/Conv": (step_of(1.0, "any"),), "pair.conv/Conv_2": (step_of(900.0, "any"),)})
    quantised = quantize_by(model, plan)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantised.graph.initializer}
    assert {"weight_quantized", "weight.2_quantized", "bias_rounded", "bias.2_rounded"} <= set(constants)
    x = np.ones((1, 4, 2, 2), np.float32)
    session = ort.InferenceSession(quantised.SerializeToString(), providers=["CPUExecutionProvider"])
    # Two neighbours of 1 have steps of 2 / 127, and become 64 steps each. The first output, 4.1, is
    # nearer to one step of the second input than to none, and so is the bias to one of its steps.
    weights, inputs = 2 / 127, 900 / 127
    assert np.unique(session.run(None, {"x": x})[0]) == pytest.approx(4 * 64 * weights * inputs + weights * inputs)


def test_without_images_or_networks_nothing_is_quantised(stpm) -> None:
    model, _ = stpm
    with pytest.raises(GateError, match="nothing can be quantised"):
        quantize(model, solar_cells(4, (64, 64))[:0])
    other = onnx.ModelProto()
    other.CopyFrom(model)
    for node in other.graph.node:
        node.name = node.name.replace("pair", "tail", 1)
    with pytest.raises(GateError, match="nothing can be quantised"):
        quantize(other, solar_cells(2, (64, 64)))
