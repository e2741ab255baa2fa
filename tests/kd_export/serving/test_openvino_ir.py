"""Models for Triton's OpenVINO backend: in FP32 whatever the CPU prefers, and judged as the server
will run them."""

from __future__ import annotations

import shutil
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest

from kdx.bundle.manifest import GOLDEN_SCORES, INT8_SCORES
from kdx.bundle.open import open_bundle
from kdx.bundle.store import write_files, write_manifest
from kdx.bundle.variants import Variant
from kdx.errors import BackendError, GateError
from kdx.storage.npy import encode_array
from kdx.verification.comparison import describe_tolerances
from kdx.verification.tolerances import FP32, INT8_STUDENTS
from tests.images import solar_cells
from tests.students import add_int8

pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'kdx[openvino]'")

from kd_export.serving import openvino_ir
from kd_export.serving.openvino_ir import properties_of, require_same_decisions, write_ir
from kdx.runtime.openvino import compilation
from kdx.runtime.openvino.backend import OpenVino
from kdx.runtime.openvino.compilation import core, offers_bf16

PARAMETERS = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"}


def compiled_scores(path: Path, images: np.ndarray, properties: dict[str, object]) -> np.ndarray:
    """Scores of a model in OpenVINO, with these properties and no word of its precision."""
    model = core().read_model(path)
    model.reshape({0: [1, *images.shape[1:]]})
    request = core().compile_model(model, "CPU", properties).create_infer_request()
    scores = []
    for image in images:
        request.infer({0: image[None]})
        scores.append(float(request.get_tensor("anomaly_score").data.item()))
    return np.array(scores)


@pytest.fixture
def variants(bundle_copy) -> Path:
    """A bundle with INT8, and BF16 as the export would list it."""
    add_int8(bundle_copy, solar_cells(3, (64, 64))[..., :1])
    manifest = open_bundle(bundle_copy).manifest
    bf16 = Variant(file="model.onnx", convolutions=1, kept=[])
    own = {**manifest.runtime_thresholds, "bf16": {"openvino": manifest.threshold}}
    variants = {**manifest.variants, "bf16": bf16}
    write_manifest(bundle_copy, msgspec.structs.replace(manifest, variants=variants, runtime_thresholds=own))
    return bundle_copy


def test_fp32_is_served_in_fp32(tiny_bundle, tmp_path):
    opened = open_bundle(tiny_bundle)
    write_ir(opened, "fp32", tmp_path)
    golden = opened.golden()
    properties = properties_of(PARAMETERS)
    served = compiled_scores(tmp_path / "model.xml", golden.images, properties)
    np.testing.assert_allclose(served, golden.scores[:, 0], rtol=FP32.score)
    require_same_decisions(opened, "fp32", tmp_path, PARAMETERS)
    if offers_bf16():  # the graph as it is would be computed in BF16, and nothing would say so
        plain = compiled_scores(opened.graph.path, golden.images, properties)
        assert np.abs(plain / golden.scores[:, 0] - 1).max() > 10 * FP32.score


@pytest.mark.slow
def test_int8_is_what_kdx_runs(variants, tmp_path):
    opened = open_bundle(variants)
    images = opened.golden().images
    write_ir(opened, "int8", tmp_path)
    with OpenVino(opened.graph_of("int8"), 1) as backend:
        expected = backend.run(images).scores[:, 0]
    served = compiled_scores(tmp_path / "model.xml", images, properties_of(PARAMETERS))
    # Beside its quantised convolutions, OpenVINO moves some features in BF16.
    np.testing.assert_allclose(served, expected, rtol=2e-2)


@pytest.mark.slow
def test_bf16_is_what_kdx_runs(variants, tmp_path):
    if not offers_bf16():
        pytest.skip("this CPU computes no BF16")
    opened = open_bundle(variants)
    images = opened.golden().images
    write_ir(opened, "bf16", tmp_path)
    with OpenVino(opened.graph, 1, precision="bf16") as backend:
        expected = backend.run(images).scores[:, 0]
    served = compiled_scores(tmp_path / "model.xml", images, properties_of({**PARAMETERS, "HINT_BF16": "YES"}))
    np.testing.assert_allclose(served, expected, rtol=1e-6)


def test_bf16_is_not_served_from_a_cpu_that_cannot_try_it(variants, tmp_path, monkeypatch):
    monkeypatch.setattr(compilation, "offers_bf16", lambda: False)
    with pytest.raises(BackendError, match="does not support BF16"):
        write_ir(open_bundle(variants), "bf16", tmp_path)


def test_every_operation_is_marked_and_shapes_are_fixed(tiny_bundle, tmp_path):
    tensors = write_ir(open_bundle(tiny_bundle), "fp32", tmp_path)
    assert tensors.inputs == {"image": ("TYPE_UINT8", (1, 64, 64, 1))}
    assert tensors.outputs == {
        "anomaly_map": ("TYPE_FP32", (1, 64, 64)),
        "anomaly_score": ("TYPE_FP32", (1, 1)),
    }
    layers = list(ElementTree.parse(tmp_path / "model.xml").getroot().iter("layer"))
    marked = [layer for layer in layers if layer.find("rt_info/attribute[@name='precise']") is not None]
    kinds = {layer.get("type") for layer in layers if layer not in marked}
    assert kinds == {"Const", "Parameter", "Result"}
    assert not [layer for layer in marked if layer.get("type") in {"Subtract", "Squeeze", "Unsqueeze"}]


def test_a_model_that_decides_otherwise_is_refused(bundle_copy, tmp_path):
    opened = open_bundle(bundle_copy)
    write_files(bundle_copy, {GOLDEN_SCORES: encode_array(opened.golden().scores * 1.5)})
    write_manifest(bundle_copy, opened.manifest)
    altered = open_bundle(bundle_copy)
    write_ir(altered, "fp32", tmp_path)
    with pytest.raises(GateError, match="would not decide what was trained") as caught:
        require_same_decisions(altered, "fp32", tmp_path, PARAMETERS)
    assert caught.value.expected == "scores within 0.0001, maps within 0.0001, no verdict flipped"
    assert "scores off by 0.3" in caught.value.received


def test_int8_students_are_compared_with_their_own_reference(students_bundle, tmp_path):
    bundle = Path(shutil.copytree(students_bundle, tmp_path / "copy.kdx"))
    opened = open_bundle(bundle)
    write_ir(opened, "int8", tmp_path)
    require_same_decisions(opened, "int8", tmp_path, PARAMETERS)
    write_files(bundle, {INT8_SCORES: encode_array(opened.golden("int8").scores * 3)})
    write_manifest(bundle, opened.manifest)
    with pytest.raises(GateError, match="would not decide what was trained") as caught:
        require_same_decisions(open_bundle(bundle), "int8", tmp_path, PARAMETERS)
    assert caught.value.expected == describe_tolerances(INT8_STUDENTS)


def test_a_model_whose_marks_are_lost_is_refused(tiny_bundle, tmp_path, monkeypatch):
    if not offers_bf16():
        pytest.skip("this CPU computes no BF16")
    monkeypatch.setattr(openvino_ir, "mark_as_fp32", lambda xml: None)
    opened = open_bundle(tiny_bundle)
    write_ir(opened, "fp32", tmp_path)
    with pytest.raises(GateError, match="would not decide what was trained"):
        require_same_decisions(opened, "fp32", tmp_path, PARAMETERS)


def test_the_command_serves_openvino(cli, tiny_bundle, tmp_path):
    pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed: pip install 'kdx[serving]'")
    options = ("--backend", "openvino", "--instances", 2, "--threads", 1, "--json")
    record = cli("triton", tiny_bundle, "-o", tmp_path, *options).json
    assert record["max_batch"] == 1
    told = {key: value for key, value in record["parameters"].items() if not key.startswith("kdx.")}
    assert told == {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": "2", "INFERENCE_NUM_THREADS": "2"}
    files = {path.relative_to(tmp_path / "tiny").as_posix() for path in (tmp_path / "tiny").rglob("*.*")}
    assert files == {"config.pbtxt", "1/model.xml", "1/model.bin", "warmup/golden-0.raw"}


def test_a_refused_model_is_not_written(cli, bundle_copy, tmp_path):
    pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed: pip install 'kdx[serving]'")
    opened = open_bundle(bundle_copy)
    write_files(bundle_copy, {GOLDEN_SCORES: encode_array(opened.golden().scores * 1.5)})
    write_manifest(bundle_copy, opened.manifest)
    assert (
        "take --backend onnxruntime"
        in cli("triton", bundle_copy, "-o", tmp_path / "repository", "--backend", "openvino", code=1).stderr
    )
    assert not (tmp_path / "repository").exists()
