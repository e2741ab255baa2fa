"""INT8 graphs compute the same on every CPU, whatever its instructions are."""

from __future__ import annotations

import importlib.util
import io
import os
import platform
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from kd_export.graph.int8 import Int8Plan, fake_quantize, fake_quantize_parameters, step_of
from kd_export.precision.quantize import quantize, quantize_by
from kd_export.precision.runners import run_onnxruntime, runtimes
from tests.images import solar_cells


@pytest.fixture(scope="module")
def compact(tmp_path_factory) -> onnx.ModelProto:
    """STPM between two compact networks."""
    from kd_export.onnx.onnx_export import export_onnx
    from kdx.imaging.images import InputSpec
    from tests.pairs import fuse_pair, make_pair

    path = tmp_path_factory.mktemp("compact") / "model.onnx"
    detector = fuse_pair(make_pair("stpm", "compact-s"), InputSpec(height=64, width=64), 64)
    export_onnx(detector, path, max_batch=1, metadata={})
    return onnx.load(path)


@pytest.mark.slow
def test_a_dead_channel_keeps_its_bias_in_every_runtime(compact) -> None:
    """With the steps of 8-bit weights, its bias is no int32: ONNX Runtime moved maps by 7 %."""
    model = onnx.ModelProto()
    model.CopyFrom(compact)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv" and node.name.startswith("pair")]
    for node in convolutions[1:3]:
        for name, value in ((node.input[1], 1e-14), (node.input[2], 2.0)):
            array = numpy_helper.to_array(tensors[name]).copy()
            array[:4] = value
            tensors[name].CopyFrom(numpy_helper.from_array(array, name))
    images = solar_cells(3, (64, 64))
    quantised = quantize(model, images)
    exact = run_onnxruntime(model, images).maps
    for name, run in runtimes().items():
        noise = np.square(run(quantised, images).maps - exact).sum() / np.square(exact).sum()
        assert noise < 1e-3, name


@pytest.mark.parametrize("outputs", [16, 32, 64])
def test_depthwise_convolutions_with_several_outputs_a_channel_overflow_nowhere(outputs) -> None:
    """Both runtimes compute them as products of matrices, with sums in 16 bits without VNNI."""
    weight = torch.full((outputs, 1, 3, 3), 0.9)
    last = torch.rand(8, outputs, 1, 1, generator=torch.Generator().manual_seed(0))
    image = torch.ones(1, 16, 8, 8)
    step = step_of(1.0, "non-negative")
    values = fake_quantize_parameters(weight, None, step, groups=16)
    inner = torch.relu(torch.conv2d(fake_quantize(image, step), values.weight, padding=1, groups=16))
    second = step_of(float(inner.max()), "non-negative")
    expected = torch.conv2d(fake_quantize(inner, second), fake_quantize_parameters(last, None, second).weight).numpy()

    nodes = [
        helper.make_node("Relu", ["image"], ["a"], name="pair.r/Relu"),
        helper.make_node("Conv", ["a", "one"], ["b"], name="pair.c/Conv", group=16, pads=[1] * 4),
        helper.make_node("Relu", ["b"], ["c"], name="pair.s/Relu"),
        helper.make_node("Conv", ["c", "other"], ["y"], name="pair.d/Conv"),
    ]
    ends = [
        helper.make_tensor_value_info(*each)
        for each in (("image", TensorProto.FLOAT, [1, 16, 8, 8]), ("y", TensorProto.FLOAT, [1, 8, 8, 8]))
    ]
    weights = [numpy_helper.from_array(each.numpy(), name) for each, name in ((weight, "one"), (last, "other"))]
    model = helper.make_model(
        helper.make_graph(nodes, "graph", ends[:1], ends[1:], weights),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    graph = quantize_by(model, Int8Plan({"pair.c/Conv": (step,), "pair.d/Conv": (second,)})).SerializeToString()
    found = {"onnxruntime": ort.InferenceSession(graph).run(None, {"image": image.numpy()})[0]}
    if importlib.util.find_spec("openvino"):
        import openvino

        core = openvino.Core()
        compiled = core.compile_model(core.read_model(io.BytesIO(graph)), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        found["openvino"] = compiled({0: image.numpy()})[0]
    for name, values_found in found.items():
        assert np.abs(values_found - expected).max() <= 0.005 * expected.max(), name


_RUN = """
import sys
import numpy as np, onnx
from kd_export.precision.runners import run_openvino
np.save(sys.argv[3], run_openvino(onnx.load(sys.argv[1]), np.load(sys.argv[2])).maps)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="only CPUs of this kind lack VNNI")
def test_openvino_computes_the_same_without_vnni(compact, tmp_path) -> None:
    """A bright image multiplies each weight by 255, which overflowed 16 bits with 8-bit weights."""
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    images = np.maximum(solar_cells(2, (64, 64)), 240)
    onnx.save(quantize(compact, images), tmp_path / "int8.onnx")
    np.save(tmp_path / "images.npy", images)
    maps = {}
    for instructions in ("DEFAULT", "AVX2"):
        files = [str(tmp_path / name) for name in ("int8.onnx", "images.npy", f"{instructions}.npy")]
        environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": instructions}
        subprocess.run([sys.executable, "-c", _RUN, *files], env=environment, check=True, timeout=300)
        maps[instructions] = np.load(files[-1])
    # The FP32 operations of the tail sum in another order.
    np.testing.assert_allclose(maps["AVX2"], maps["DEFAULT"], rtol=0, atol=1e-4 * np.ptp(maps["DEFAULT"]))
