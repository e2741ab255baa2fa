"""INT8 students are compared with the module that they were trained as, and not with FP32."""

from __future__ import annotations

import json
import shutil
from importlib import util
from pathlib import Path

import msgspec
import numpy as np
import pytest

import kdx
from kdx.bundle.index import decode_index
from kdx.bundle.manifest import GOLDEN_SCORES, INT8_MAPS, INT8_SCHEMA, INT8_SCORES, NEWEST_SCHEMA, SCHEMA
from kdx.bundle.open import open_bundle
from kdx.bundle.store import with_file, write_files, write_manifest
from kdx.bundle.variants import Judged
from kdx.errors import BackendError, BundleError
from kdx.storage.npy import decode_array, encode_array
from kdx.verification.golden import GoldenCheck, thresholds_of
from kdx.verification.tolerances import INT8_STUDENTS, INT8_STUDENTS_WITHOUT_RESIDUALS, TOLERANCES, tolerances_of
from kdx.workflows.calibrate import CalibrationRequest, calibrate_folder

RUNTIMES = ["onnxruntime-cpu"] + (["openvino"] if util.find_spec("openvino") else [])
REFUSED = r"does not decide here what was trained(.|\n)*int8, batch 1: scores off by "


@pytest.fixture
def bundle(students_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(students_bundle, tmp_path / "copy.kdx"))


def rewrite(bundle: Path, name: str, factor: float) -> None:
    """Multiply what the reference is said to have answered, and put the hashes right."""
    manifest = open_bundle(bundle).manifest
    answers = decode_array((bundle / name).read_bytes(), bundle / name)
    write_files(bundle, {name: encode_array(answers * np.float32(factor))})
    write_manifest(bundle, manifest)


@pytest.mark.parametrize("backend", RUNTIMES)
def test_scores_far_from_those_of_fp32_are_right(students_bundle, frame, backend) -> None:
    opened = open_bundle(students_bundle)
    exact, own = opened.golden(), opened.golden("int8")
    assert np.array_equal(exact.images, own.images)
    difference = np.abs(own.scores - exact.scores).max() / np.median(exact.scores)
    assert difference > 2 * TOLERANCES["int8"].score
    with kdx.load(students_bundle, backend=backend, threads=1, precision="int8") as detector:
        score = detector(own.images[0]).score
        assert score == pytest.approx(float(own.scores[0, 0]), rel=INT8_STUDENTS.score)
        runtime = backend.removesuffix("-cpu")
        assert detector.threshold == opened.manifest.threshold_of("int8", runtime).score


@pytest.mark.parametrize("backend", RUNTIMES)
@pytest.mark.parametrize("name", [INT8_SCORES, INT8_MAPS])
def test_wrong_answers_of_the_reference_are_refused(bundle, backend, name) -> None:
    rewrite(bundle, name, 3)
    with pytest.raises(BackendError, match=REFUSED):
        kdx.load(bundle, backend=backend, threads=1, precision="int8")
    kdx.load(bundle, backend=backend, threads=1, precision="fp32").close()


def test_wrong_answers_of_fp32_do_not_concern_int8(bundle) -> None:
    rewrite(bundle, GOLDEN_SCORES, 3)
    kdx.load(bundle, backend="onnxruntime-cpu", precision="int8").close()
    with pytest.raises(BackendError, match="fp32, batch 1: scores off by"):
        kdx.load(bundle, backend="onnxruntime-cpu", precision="fp32")


@pytest.mark.filterwarnings("ignore:.*int8 has no threshold for onnxruntime")
def test_a_graph_that_answers_as_fp32_is_refused(bundle) -> None:
    """It would be right if it had been made from the FP32 students."""
    manifest = open_bundle(bundle).manifest
    shutil.copy(bundle / "model.onnx", bundle / "model.int8.onnx")
    write_manifest(bundle, msgspec.structs.replace(manifest, runtime_thresholds={}))
    with pytest.raises(BackendError, match=REFUSED):
        kdx.load(bundle, backend="onnxruntime-cpu", precision="int8")
    bare = msgspec.structs.replace(manifest.provenance, int8=None)
    write_manifest(bundle, msgspec.structs.replace(manifest, provenance=bare, schema=SCHEMA, runtime_thresholds={}))
    kdx.load(bundle, backend="onnxruntime-cpu", precision="int8").close()


@pytest.mark.parametrize("name", [INT8_SCORES, INT8_MAPS])
def test_the_files_of_the_reference_are_required(bundle, name) -> None:
    index = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    content = (bundle / name).read_bytes()
    (bundle / name).write_bytes(content[:-4] + b"\0\0\0\0")
    with pytest.raises(BundleError, match=f"'{name}' in .* was altered"):
        open_bundle(bundle)
    (bundle / name).unlink()
    with pytest.raises(BundleError, match=f"'{name}' is missing"):
        open_bundle(bundle)
    del index["files"][name]
    (bundle / "bundle.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(BundleError, match=f"does not list '{name}'"):
        open_bundle(bundle)


def test_answers_for_fewer_images_are_refused(bundle) -> None:
    manifest, scores = open_bundle(bundle).manifest, open_bundle(bundle).golden("int8").scores
    write_files(bundle, {INT8_SCORES: encode_array(scores[:-1])})
    write_manifest(bundle, manifest)
    assert len(open_bundle(bundle).golden().scores) == len(scores)
    with pytest.raises(BundleError, match="do not match their reference"):
        open_bundle(bundle).golden("int8")


def test_an_older_kdx_refuses_such_a_bundle(bundle) -> None:
    """It would compare INT8 with FP32. Every change keeps the schema."""
    manifest = open_bundle(bundle).manifest
    assert manifest.schema == INT8_SCHEMA == SCHEMA + 1
    opened = open_bundle(bundle).with_thresholds(manifest.threshold)
    assert opened.manifest.schema == INT8_SCHEMA
    assert with_file(opened, "roi.png", None).manifest.schema == INT8_SCHEMA
    bare = msgspec.structs.replace(manifest, provenance=msgspec.structs.replace(manifest.provenance, int8=None))
    assert bare.with_thresholds(manifest.threshold).schema == SCHEMA
    newer = json.loads((bundle / "bundle.json").read_text(encoding="utf-8")) | {"schema": NEWEST_SCHEMA + 1}
    with pytest.raises(BundleError, match="was written by a newer kdx"):
        decode_index(bundle, json.dumps(newer).encode())


@pytest.mark.parametrize("changed", [{"schema": SCHEMA}, {"variants": {}, "runtime_thresholds": {}}])
def test_an_index_that_contradicts_itself_is_refused(bundle, changed) -> None:
    index = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    (bundle / "bundle.json").write_text(json.dumps(index | changed), encoding="utf-8")
    with pytest.raises(BundleError, match="names the origin of INT8 students"):
        open_bundle(bundle)


def test_the_certificate_names_the_reference(students_bundle, cli) -> None:
    found = cli("verify", students_bundle, "--json").json
    assert found["passed"]
    assert found["references"] == {"fp32": "fp32", "int8": "int8"}
    assert found["tolerances"]["int8"] == msgspec.to_builtins(INT8_STUDENTS)
    assert all(each["flips"] == 0 for each in found["comparisons"])
    said = cli("verify", students_bundle).stdout
    assert "int8, compared with the fake-quantised PyTorch module" in said
    assert "fp32, compared with FP32 PyTorch" in said


def test_inspect_says_that_the_students_were_trained(students_bundle, tiny_bundle, cli) -> None:
    said = cli("inspect", students_bundle).stdout
    assert "trained as INT8 networks for 3 epochs, values clipped at 1.5 times their limit" in said
    assert f"checkpoint {'1' * 12}, teacher {'2' * 12}" in said
    assert cli("inspect", students_bundle, "--json").json["manifest"]["provenance"]["int8"]["epoch"] == 3
    assert "INT8 students" not in cli("inspect", tiny_bundle).stdout


def test_verdicts_are_compared_at_the_threshold_of_int8(students_bundle) -> None:
    opened = open_bundle(students_bundle)
    manifest = opened.manifest
    own = manifest.threshold_of("int8", "onnxruntime").score
    assert own != manifest.threshold.score
    assert thresholds_of(manifest, "int8", "onnxruntime") == (own, own)
    assert thresholds_of(manifest, "fp32", "onnxruntime") == (manifest.threshold.score,) * 2
    assert tolerances_of(manifest, "fp32") is TOLERANCES["fp32"]
    without = msgspec.structs.replace(manifest, runtime_thresholds={})
    assert thresholds_of(without, "int8", "onnxruntime") is None


def test_a_verdict_that_flips_is_refused(bundle) -> None:
    """A score within the tolerance may be on the other side of the threshold, beyond a tie."""
    opened = open_bundle(bundle)
    with kdx.load(bundle, backend="onnxruntime-cpu", precision="int8") as detector:
        found = GoldenCheck(opened).golden_of("int8")
        real = detector.batch(found.images)
    top = max(range(len(real)), key=lambda index: real[index].score)
    gap = (INT8_STUDENTS.score + INT8_STUDENTS.tie) / 2
    assert gap > INT8_STUDENTS.tie
    moved = found.scores.copy()
    moved[top] = real[top].score * (1 + gap)
    write_files(bundle, {INT8_SCORES: encode_array(moved)})
    between = real[top].score * 1.0001
    own = opened.manifest.runtime_thresholds["int8"]["onnxruntime"]
    changed = msgspec.structs.replace(own, score=between, review=None, scores=[])
    thresholds = {"int8": {"onnxruntime": changed}}
    write_manifest(bundle, msgspec.structs.replace(opened.manifest, runtime_thresholds=thresholds))
    with pytest.raises(BackendError, match="1 verdicts flipped"):
        kdx.load(bundle, backend="onnxruntime-cpu", precision="int8")


def test_calibration_refuses_a_runtime_that_differs_from_the_reference(bundle, dataset, cli) -> None:
    rewrite(bundle, INT8_SCORES, 1 + 2 * INT8_STUDENTS.score)
    found = cli("calibrate", bundle, dataset, "--false-reject-rate", 0.2, "--json", code=1).json
    assert set(found["refused"]) == {"int8"}
    assert "scores off by" in " ".join(found["refused"]["int8"].values())
    assert not open_bundle(bundle).manifest.runtime_thresholds


def test_images_are_read_once_and_answers_only_where_there_are_any(bundle, tiny_bundle, monkeypatch) -> None:
    read: list[str] = []
    real = type(open_bundle(bundle)).read
    monkeypatch.setattr(type(open_bundle(bundle)), "read", lambda self, name: read.append(name) or real(self, name))
    check = GoldenCheck(open_bundle(bundle))
    assert check.golden_of("int8").images is check.golden_of("fp32").images
    names = {name for name in check.bundle.manifest.files if name.startswith("golden/")}
    assert sorted(each for each in read if each.startswith("golden/")) == sorted(names)
    read.clear()
    plain = GoldenCheck(open_bundle(tiny_bundle))
    assert plain.golden_of("int8") is plain.golden
    assert not any("int8" in name for name in read)


def test_sharing_a_teacher_compares_each_with_its_own_reference(students_bundle, bundle, tmp_path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    kdx.load_many([students_bundle, bundle], backend="openvino", precision="int8", threads=1).close()
    rewrite(bundle, INT8_SCORES, 3)
    with pytest.raises(BackendError, match=r"scores off by 0\.[67]"):
        kdx.load_many([students_bundle, bundle], backend="openvino", precision="int8", threads=1)


def with_additions(manifest, count):
    """Return a manifest whose INT8 students have so many quantised additions."""
    origin = msgspec.structs.replace(manifest.provenance.int8, residual_additions=count)
    return msgspec.structs.replace(manifest, provenance=msgspec.structs.replace(manifest.provenance, int8=origin))


@pytest.mark.parametrize(
    ("additions", "allowed"),
    [(msgspec.UNSET, INT8_STUDENTS), (4, INT8_STUDENTS), (0, INT8_STUDENTS_WITHOUT_RESIDUALS)],
)
def test_graphs_without_residual_additions_have_narrower_tolerances(students_bundle, additions, allowed) -> None:
    manifest = open_bundle(students_bundle).manifest
    assert tolerances_of(with_additions(manifest, additions), "int8") is allowed


def test_the_number_of_additions_is_kept(bundle) -> None:
    manifest = open_bundle(bundle).manifest
    assert "residual_additions" not in (bundle / "bundle.json").read_text(encoding="utf-8")  # as of an earlier release
    write_manifest(bundle, with_additions(manifest, 0))
    assert open_bundle(bundle).manifest.provenance.int8.residual_additions == 0


def test_calibration_names_runtimes_in_which_no_gate_compared_decisions(bundle, dataset) -> None:
    """Golden answers of students are their own, so that they say nothing about defects."""
    request = CalibrationRequest(0.2)
    for judged in ([], ["onnxruntime-cpu"], RUNTIMES):
        manifest = open_bundle(bundle).manifest
        records = [Judged(runtime=name, compared=9, flips=0, score_max=0.1) for name in judged]
        variant = msgspec.structs.replace(manifest.variants["int8"], judged=records)
        write_manifest(bundle, msgspec.structs.replace(manifest, variants={**manifest.variants, "int8": variant}))
        found = calibrate_folder(bundle, dataset, request)
        named = [each.first for each in found.remarks if each.kind == "not_compared_with_fp32"]
        missing = tuple(name.removesuffix("-cpu") for name in RUNTIMES if name not in judged)
        assert named == ([missing] if missing else [])
