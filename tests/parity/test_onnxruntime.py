"""torch = ONNX Runtime on real images: what is exported computes what was trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from kd_export.graph import FusedDetector
from kd_export.onnx.onnx_export import export_onnx, metadata_of, require_contract
from kdx.bundle.checked_files import Graph
from kdx.errors import GateError, OptionError
from kdx.imaging.images import InputSpec
from kdx.verification.tolerances import FP32
from tests.images import solar_cells
from tests.pairs import fuse_pair, make_pair

onnxruntime_cpu = pytest.importorskip("kdx.runtime.onnxruntime.cpu", reason="onnxruntime is not installed")


def make_detector(spec: InputSpec, size: int, backbone: str, taps: str, sigma: float) -> FusedDetector:
    return fuse_pair(make_pair("stpm", backbone, taps, sigma), spec, size)


CASES = {
    "colour": (InputSpec(height=64, width=64), 64, "resnet18", "", 0.0),
    "blur": (InputSpec(height=96, width=96), 96, "tf_efficientnet_lite0", "blocks.1,blocks.2", 4.0),
    "mono, resized": (InputSpec(height=75, width=100, channels=1), 64, "resnet18", "", 2.0),
    "bgr, enlarged": (InputSpec(height=50, width=40, channel_order="bgr"), 64, "resnet18", "layer1,layer2", 0.0),
}


@pytest.fixture(scope="module", params=CASES)
def exported(request, tmp_path_factory):
    detector = make_detector(*CASES[request.param])
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    export_onnx(
        detector,
        path,
        max_batch=6,
        metadata=metadata_of(detector, method="stpm", kdx_version="0", bundle_schema=1, max_batch=6),
    )
    return detector, path


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3, 6])
def test_graph_agrees_with_torch_on_real_images(exported, batch) -> None:
    detector, path = exported
    spec = detector.input_spec
    images = solar_cells(6, (spec.height, spec.width), spec.channels)[:batch]
    with onnxruntime_cpu.OnnxRuntimeCpu(Graph.of(path)) as backend:
        ours = backend.run(images)
    maps, scores = (output.numpy() for output in detector(torch.from_numpy(images)))
    assert ours.maps.dtype == ours.scores.dtype == np.float32
    assert ours.maps.shape == (batch, *detector.size)
    assert ours.scores.shape == (batch, 1)
    assert (np.abs(ours.scores - scores) <= FP32.score * np.abs(scores)).all()
    assert (np.abs(ours.maps - maps).max(axis=(1, 2)) <= FP32.map * np.ptp(maps, axis=(1, 2))).all()


def test_graph_keeps_its_contract(exported) -> None:
    detector, path = exported
    model = onnx.load(path)
    require_contract(model, detector)
    operators = [node.op_type for node in model.graph.node]
    assert not {"BatchNormalization", "Resize", "Constant", "Shape"} & set(operators)
    assert operators.count("Cast") == 1
    assert {prop.key for prop in model.metadata_props} == {
        "kdx.batch",
        "kdx.version", "kdx.bundle_schema", "kdx.method", "kdx.input",
    }  # fmt: skip
    assert 18 <= model.opset_import[0].version <= 20
    # The exporter's notes would carry this machine's paths and half a megabyte.
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
    assert not list(path.parent.glob("*.data"))


def test_a_graph_that_breaks_the_contract_is_named(exported) -> None:
    detector, path = exported
    for fault, words in (
        (
            lambda m: m.graph.node.append(onnx.helper.make_node("Relu", [m.graph.node[0].output[0]], ["x"])),
            "dead node Relu",
        ),
        (lambda m: setattr(m.graph.output[0], "name", "map"), "outputs"),
        (lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", onnx.TensorProto.FLOAT), "not uint8"),
    ):
        model = onnx.load(path)
        fault(model)
        with pytest.raises(GateError, match=words):
            require_contract(model, detector)


@pytest.mark.slow
def test_layers_after_the_last_tap_are_not_in_the_graph(tmp_path: Path) -> None:
    spec = InputSpec(height=64, width=64)
    sizes = []
    for taps in ("layer1", "layer1,layer2"):
        path = tmp_path / f"{len(taps)}.onnx"
        export_onnx(make_detector(spec, 64, "resnet18", taps, 0.0), path, max_batch=1, metadata={})
        sizes.append(path.stat().st_size)
    # Stem and layer1 of ResNet-18 are 157,504 parameters, of teacher and student, four bytes each.
    assert 2 * 157_504 * 4 < sizes[0] < 2 * 157_504 * 4 + 200_000
    assert sizes[1] > sizes[0]


@pytest.mark.slow
def test_a_static_graph_has_a_static_batch(tmp_path: Path) -> None:
    detector = make_detector(InputSpec(height=64, width=64), 64, "resnet18", "layer1", 0.0)
    export_onnx(detector, tmp_path / "static.onnx", max_batch=1, metadata={})
    shape = onnx.load(tmp_path / "static.onnx").graph.input[0].type.tensor_type.shape
    assert shape.dim[0].dim_value == 1


@pytest.mark.parametrize("batch", [0, -1, 5000])
def test_an_impossible_batch_is_refused(tmp_path: Path, batch: int) -> None:
    detector = make_detector(InputSpec(height=64, width=64), 64, "resnet18", "layer1", 0.0)
    with pytest.raises(OptionError, match="max_batch"):
        export_onnx(detector, tmp_path / "x.onnx", max_batch=batch, metadata={})
