"""The steps of weights: sums of two products fit into 16 bits, and biases into 32."""

from __future__ import annotations

import itertools
import os
import platform
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from kd_export.precision.gate import run_onnxruntime, runtimes
from kd_export.precision.quantize import quantize
from kd_export.precision.weights import _largest_pair, _steps
from tests.images import solar_cells

SHAPES = [(6, 8, 3, 3), (5, 3, 3, 3), (4, 1, 5, 5), (7, 16, 1, 1)]


def levels_of(weights: np.ndarray, found: np.ndarray) -> np.ndarray:
    return np.rint(weights / found.reshape(-1, 1, 1, 1)).clip(-127, 127).astype(int)


@pytest.mark.parametrize("shape", SHAPES)
def test_neighbours_fit_into_16_bits_whatever_the_activations_are(shape) -> None:
    weights = np.random.default_rng(0).standard_t(2, shape).astype(np.float32)
    levels = levels_of(weights, _steps(weights, 1.0))
    assert np.abs(levels).max() > 80, "the steps are coarser than they need be"
    # An odd number of channels: any two of the channel's weights.
    channels = levels.reshape(shape[0], shape[1], -1)
    for output in channels:
        if shape[1] % 2 == 0:
            pairs = [(output[i], output[i + 1]) for i in range(0, shape[1], 2)]
        else:
            pairs = list(itertools.combinations(output.reshape(-1, 1), 2))
        for first, second in pairs:
            sums = [255 * (first.clip(0) + second.clip(0)), 255 * (first.clip(None, 0) + second.clip(None, 0))]
            assert np.max(sums) <= 2**15 - 1
            assert np.min(sums) >= -(2**15)


def test_large_neighbours_of_opposite_signs_keep_8_bits() -> None:
    weights = np.array([[1.0, -1.0], [1.0, 1.0], [1.0, 0.25]], np.float32).reshape(3, 2, 1, 1)
    assert _steps(weights, 1.0) * 127 == pytest.approx([1.0, 2.0, 1.25])
    assert _largest_pair(weights.clip(0)).tolist() == [1.0, 2.0, 1.25]


def test_depthwise_convolutions_keep_8_bits() -> None:
    weights = np.array([1.0, 1.0, 0.5], np.float32).reshape(1, 1, 3, 1)
    assert _steps(weights, 1.0, is_depthwise=True) * 127 == pytest.approx([1.0])
    assert _steps(weights, 1.0) * 127 == pytest.approx([2.0])


def test_biases_fit_into_32_bits() -> None:
    weights = np.array([1e-12, 1.0, 0.0], np.float32).reshape(3, 1, 1, 1)
    bias = np.array([3.0, 3.0, -3.0], np.float32)
    found = _steps(weights, 0.02, bias, is_depthwise=True)
    assert np.abs(bias / (0.02 * found)).max() <= 2**30 * (1 + 1e-6)
    assert found[1] == pytest.approx(1 / 127), "a channel that fits is left alone"
    assert _steps(np.zeros((2, 1, 1, 1), np.float32), 0.02).tolist() == [1.0, 1.0]


@pytest.fixture(scope="module")
def compact(tmp_path_factory) -> onnx.ModelProto:
    """STPM between two compact networks."""
    from kd_export.onnx.onnx_export import export_onnx
    from kdx.imaging.images import InputSpec
    from tests.pairs import fuse_pair, make_pair

    path = tmp_path_factory.mktemp("compact") / "model.onnx"
    detector = fuse_pair(make_pair("stpm", "compact-s"), InputSpec(height=64, width=64), 64)
    export_onnx(detector, path, max_batch=4, metadata={})
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


_RUN = """
import sys
import numpy as np, onnx
from kd_export.precision.gate import run_openvino
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
