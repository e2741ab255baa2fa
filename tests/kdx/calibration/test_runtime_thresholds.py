"""INT8 and BF16 are decided at a threshold of the runtime that computes the scores, or not at
all."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import sqlite3
import warnings
from pathlib import Path

import msgspec
import numpy as np
import pytest

import kdx
from kdx.bundle.bundle import Bundle
from kdx.bundle.checked_files import Graph
from kdx.bundle.open import open_bundle
from kdx.bundle.store import write_manifest
from kdx.calibration.by_hand import GivenThreshold
from kdx.calibration.validity import CalibrationValidity, CalibrationWarning, runtimes_for
from kdx.decision.verdict import Decision
from kdx.errors import DataError
from kdx.loading.selftest import run_selftest
from kdx.loading.served_answers import parameters_of, verdict_of_answer
from kdx.monitoring.verdict_log import read_log
from kdx.runtime.backend_table import BACKENDS, find_backend, runtime_of
from kdx.verification.certificate import verify
from kdx.workflows import calibrate
from kdx.workflows.calibrate import CalibrationRequest, _is_of_same_images, calibrate_folder
from kdx.workflows.fit.cpu_timing import cpu_backend_precision_pairs
from tests.engines import ONNX, add_engine, emulate_tensorrt, make_record
from tests.images import solar_cells
from tests.schema1 import old_bundle
from tests.students import add_int8

pytest.importorskip("openvino", reason="two runtimes are needed: pip install openvino")

ORT, OPENVINO = ("onnxruntime-cpu", "onnxruntime"), ("openvino", "openvino")


@pytest.fixture(scope="module")
def calibrated(tiny_bundle, dataset, cli, tmp_path_factory) -> Path:
    """A bundle with an INT8 graph, calibrated in both runtimes; no test may change it."""
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("runtimes") / "tile.kdx"))
    add_int8(bundle, solar_cells(3, (64, 64))[..., :1])
    cli("calibrate", bundle, dataset, "--false-reject-rate", 0.2, "--review-rate", 0.4, code=None)
    return bundle


@pytest.mark.slow
def test_a_number_by_hand_is_on_each_runtimes_own_scale(copy, cells):
    """And one that another machine measured is kept for the same number, reason and images."""
    request = CalibrationRequest(by_hand=GivenThreshold(1.0, 0.5, "to see"))
    found = calibrate_folder(copy, cells, request)
    assert found.exact.threshold.score == open_bundle(copy).manifest.threshold.score == 1.0
    own = found.own["int8"]
    for calibration in own.values():
        factor = np.median(calibration.scores / found.exact.scores)
        assert factor == pytest.approx(1, abs=0.5)
        threshold = calibration.threshold
        assert (threshold.score, threshold.review.score) == pytest.approx((factor, 0.5 * factor))
        assert threshold.by_hand.factor == pytest.approx(factor)
        assert msgspec.structs.replace(threshold.by_hand, factor=msgspec.UNSET) == found.exact.threshold.by_hand
    assert own.keys() <= {"onnxruntime", "openvino"}
    assert own
    kept = next(iter(own.values())).threshold
    same, other = (GivenThreshold(1.0, 0.5, reason) for reason in ("to see", "another reason"))
    for given, is_kept in ((same, True), (other, False)):
        exact = msgspec.structs.replace(found.exact.threshold, by_hand=given.record(None))
        assert _is_of_same_images(kept, exact) is is_kept


def test_what_one_precision_cannot_do_costs_fp32_nothing(copy, cells, monkeypatch):
    """For example scores that are not finite, or an empty review band, in INT8 alone."""
    real = calibrate.calibrate_bundle

    def calibrate_bundle(*given, precision, **options):
        if precision == "int8":
            raise DataError("2 good images have scores that are not finite", received="nan")
        return real(*given, precision=precision, **options)

    monkeypatch.setattr(calibrate, "calibrate_bundle", calibrate_bundle)
    found = calibrate_folder(copy, cells, CalibrationRequest(0.3))
    said = "2 good images have scores that are not finite: nan"
    assert found.refused == {"int8": {"onnxruntime": said, "openvino": said}}
    manifest = open_bundle(copy).manifest
    assert manifest.threshold.false_reject_rate == 0.3
    assert not manifest.runtime_thresholds


@pytest.fixture
def copy(calibrated, tmp_path) -> Path:
    return Path(shutil.copytree(calibrated, tmp_path / "tile.kdx"))


def only_in(bundle: Path, runtime: str) -> Bundle:
    """Leave INT8 the threshold of one runtime."""
    opened = open_bundle(bundle)
    own = opened.manifest.runtime_thresholds["int8"]
    return opened.with_thresholds(opened.manifest.threshold, {"int8": {runtime: own[runtime]}})


def load_quietly(bundle: Path, **options: object) -> kdx.Detector:
    with warnings.catch_warnings():
        warnings.simplefilter("error", CalibrationWarning)
        return kdx.load(bundle, threads=1, **options)


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "runtime"), [ORT, OPENVINO, ("openvino-throughput", "openvino")])
def test_each_runtime_decides_at_what_it_measured(calibrated, dataset, backend, runtime):
    manifest = open_bundle(calibrated).manifest
    own = manifest.runtime_thresholds["int8"][runtime]
    with load_quietly(calibrated, backend=backend, precision="int8") as detector:
        assert (detector.threshold, detector.pixel_threshold) == (own.score, own.pixel)
        assert detector.review_threshold == own.review.score
        trained = open_bundle(calibrated).training_images()
        good = [
            path
            for path in sorted((dataset / "train/good").iterdir())
            if kdx.storage.files.sha256_file(path) not in trained
        ]
        scores = sorted(detector(kdx.read_image(path, detector.input)).score for path in good)
    np.testing.assert_allclose(scores, own.scores, rtol=1e-5)


@pytest.mark.slow
def test_two_runtimes_do_not_measure_the_same(calibrated):
    ours, theirs = open_bundle(calibrated).manifest.runtime_thresholds["int8"].values()
    assert ours.data_sha256 == theirs.data_sha256
    assert ours.scores != theirs.scores


@pytest.mark.parametrize(("backend", "runtime", "other"), [(*ORT, "openvino"), (*OPENVINO, "onnxruntime")])
def test_a_runtime_without_its_own_threshold_gives_no_verdict(copy, frame, backend, runtime, other):
    only_in(copy, other)
    said = f"int8 has no threshold for {runtime} .it was measured by {other}.: every verdict is undecided"
    with pytest.warns(CalibrationWarning, match=said):
        detector = kdx.load(copy, backend, 1, precision="int8")
    with detector:
        assert detector.threshold is None
        assert detector(frame).decision is Decision.UNDECIDED
        assert [verdict.decision for verdict in detector.batch([frame, frame])] == [Decision.UNDECIDED] * 2
    with pytest.warns(CalibrationWarning, match=said):
        group = kdx.load_many({"tile": copy}, backend, 1, precision="int8")
    with group:
        assert group(frame)["tile"].decision is Decision.UNDECIDED
    failed = run_selftest(copy, backend, 1, "int8")
    assert not failed.passed
    assert f"int8 has no threshold for {runtime}" in failed.checks[-1].said


def test_what_could_only_be_undecided_is_never_chosen(copy, monkeypatch, tmp_path):
    monkeypatch.setenv("KDX_CACHE_DIR", str(tmp_path / "cache"))
    opened = only_in(copy, "onnxruntime")
    with load_quietly(copy, precision="int8") as detector:
        assert detector.backend.name == "onnxruntime-cpu"
    with load_quietly(copy, backend="openvino") as detector:
        assert detector.precision == "fp32", "openvino takes INT8 first where it can decide in it"
    with load_quietly(copy) as detector:
        assert (detector.backend.name, detector.precision) != ("openvino", "int8")
        assert detector.threshold is not None
    assert ("openvino", "int8") not in cpu_backend_precision_pairs(opened, ["fp32", "int8"])
    assert ("onnxruntime-cpu", "int8") in cpu_backend_precision_pairs(opened, ["fp32", "int8"])


def test_verify_compares_decisions_at_each_runtimes_threshold(copy):
    opened = open_bundle(copy)
    own = opened.manifest.runtime_thresholds["int8"]
    low = msgspec.structs.replace(own["openvino"], score=1e-6, scores=[])
    opened = opened.with_thresholds(opened.manifest.threshold, {"int8": {**own, "openvino": low}})
    backends = [find_backend("onnxruntime-cpu"), find_backend("openvino")]
    flips = {c.backend: c.flips for c in verify(opened, backends, precisions=["int8"], threads=1).comparisons}
    assert flips["onnxruntime-cpu"] == 0
    assert flips["openvino"] > 0


def test_thresholds_of_absent_runtimes_stay_only_with_the_same_images(copy, dataset, cells, cli, monkeypatch):
    before = open_bundle(copy).manifest.runtime_thresholds["int8"]
    monkeypatch.setattr(type(BACKENDS["openvino"]), "is_usable", lambda info: info.name == "onnxruntime-cpu")
    options = ("--false-reject-rate", 0.2, "--review-rate", 0.4)
    found = cli("calibrate", copy, dataset, *options, "--json", code=None).json
    assert found["not_measured_here"] == {}
    assert open_bundle(copy).manifest.runtime_thresholds["int8"]["openvino"] == before["openvino"]
    said = cli("calibrate", copy, cells, *options, code=None).stdout
    assert "int8 has no threshold for openvino, which cannot run it here" in said
    assert "openvino" not in open_bundle(copy).manifest.runtime_thresholds.get("int8", {})


def test_per_position_two_runtimes_on_two_machines_both_get_thresholds(copy, cells, cli, monkeypatch):
    """Each machine fits the level map on its own FP32 maps; the second keeps the level that the
    first fitted."""
    options = ("--false-reject-rate", 0.2, "--per-position")
    cli("calibrate", copy, cells, *options, "--backend", "onnxruntime-cpu", code=None)
    first = open_bundle(copy).manifest
    monkeypatch.setattr(type(BACKENDS["openvino"]), "is_usable", lambda info: info.name == "openvino")
    cli("calibrate", copy, cells, *options, "--backend", "openvino", code=None)
    second = open_bundle(copy).manifest
    assert second.level_sha256 == first.level_sha256 == second.threshold.level.sha256
    kept = first.runtime_thresholds["int8"]["onnxruntime"]
    assert second.runtime_thresholds["int8"]["onnxruntime"] == kept
    assert "openvino" in second.runtime_thresholds["int8"]
    # Other images are another fit.
    monkeypatch.undo()
    fewer = sorted(cells.rglob("*.png"))[0].parent
    others = Path(shutil.copytree(fewer, copy.parent / "others"))
    for path in sorted(others.glob("*.png"))[:2]:
        path.unlink()
    cli("calibrate", copy, others, *options, "--backend", "openvino", code=None)
    assert open_bundle(copy).manifest.level_sha256 != first.level_sha256


def test_a_threshold_of_schema_1_is_doubted_in_the_self_test_and_on_a_server(tmp_path, frame, cli):
    bundle = old_bundle("stpm", tmp_path)
    said = "older kdx, which did not record whether onnxruntime or openvino measured it"
    tested = run_selftest(bundle, "onnxruntime-cpu", 1, "int8")
    assert tested.passed
    assert said in tested.checks[1].said
    assert said not in run_selftest(bundle, "onnxruntime-cpu", 1, "fp32").checks[1].said
    for precision in ("int8", "fp32"):
        manifest = open_bundle(bundle).manifest
        doubt = CalibrationValidity(manifest, precision, "onnxruntime").why_uncertain
        told = parameters_of(manifest, manifest.threshold_of(precision, "onnxruntime"), doubt)
        anomaly_map = np.full(manifest.map_size, 0.1, np.float32)
        shape = (manifest.input.height, manifest.input.width, manifest.input.channels)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            verdict_of_answer(anomaly_map, np.array([0.1], np.float32), np.zeros(shape, np.uint8), told)
        assert [said in str(one.message) for one in caught] == ([True] if precision == "int8" else [])


def test_kdx_triton_says_what_is_not_known_of_a_threshold(tmp_path, cli):
    pytest.importorskip("tritonclient.grpc")
    bundle = old_bundle("stpm", tmp_path)
    result = cli("triton", bundle, "-o", tmp_path / "r", "--backend", "onnxruntime", "--precision", "int8", "--cpu")
    assert "did not record whether onnxruntime or openvino measured it" in " ".join(result.stderr.split())
    assert "kdx.doubt" in (tmp_path / "r/stpm/config.pbtxt").read_text(encoding="utf-8")
    cli("triton", bundle, "-o", tmp_path / "r32", "--backend", "onnxruntime", "--precision", "fp32", "--cpu")
    assert "kdx.doubt" not in (tmp_path / "r32/stpm/config.pbtxt").read_text(encoding="utf-8")


def test_a_threshold_of_schema_1_decides_as_it_did_and_says_what_is_not_known(tmp_path, frame):
    bundle = old_bundle("stpm", tmp_path)
    legacy = open_bundle(bundle).manifest.thresholds["int8"].score
    for backend in ("onnxruntime-cpu", "openvino"):
        said = "older kdx, which did not record whether onnxruntime or openvino measured it"
        with pytest.warns(CalibrationWarning, match=said):
            detector = kdx.load(bundle, backend, 1, precision="int8")
        with detector:
            assert detector.threshold == legacy
        for precision in ("fp32", *(["bf16"] if find_backend(backend).offers("bf16") else [])):
            load_quietly(bundle, backend=backend, precision=precision).close()
    manifest = open_bundle(bundle).manifest
    assert manifest.threshold_of("bf16", "onnxruntime") is None, "only OpenVINO computes in BF16"
    assert manifest.threshold_of("int8", "tensorrt") is None


@pytest.mark.slow
def test_calibrating_a_bundle_of_schema_1_records_the_runtimes(tmp_path, cells, cli):
    bundle = old_bundle("stpm", tmp_path)
    cli("calibrate", bundle, cells, "--false-reject-rate", 0.2, code=None)
    manifest = open_bundle(bundle).manifest
    assert manifest.thresholds == {}
    assert manifest.is_runtime_known("int8")


def test_inspect_names_the_runtimes(calibrated, tmp_path, cli):
    said = cli("inspect", calibrated).stdout
    assert "in onnxruntime" in said
    assert "in openvino" in said
    assert "which of them measured it was not recorded" in cli("inspect", old_bundle("stpm", tmp_path)).stdout


def test_a_threshold_of_another_graph_is_refused_in_any_runtime(copy):
    opened = open_bundle(copy)
    own = dict(opened.manifest.runtime_thresholds["int8"])
    own["openvino"] = msgspec.structs.replace(own["openvino"], graph_sha256="0" * 64)
    write_manifest(copy, msgspec.structs.replace(opened.manifest, runtime_thresholds={"int8": own}))
    with pytest.raises(kdx.KdxError, match="calibrated on another graph"):
        open_bundle(copy)


def test_logs_of_two_runtimes_are_not_mixed(calibrated, tmp_path, frame):
    path = tmp_path / "verdicts.sqlite"
    with load_quietly(calibrated, backend="openvino", precision="int8", log=path) as detector:
        detector(frame)
    with pytest.raises(kdx.KdxError, match="log of another graph, runtime"):
        kdx.load(calibrated, "onnxruntime-cpu", 1, precision="int8", log=path)
    fp32 = tmp_path / "fp32.sqlite"
    for backend in ("openvino", "onnxruntime-cpu"):
        load_quietly(calibrated, backend=backend, precision="fp32", log=fp32).close()


def test_a_log_of_before_runtimes_were_recorded_is_written_to(calibrated, tmp_path, frame):
    """An update of kdx stops no line; the log stays one that kdx drift refuses to compare."""
    path = tmp_path / "verdicts.sqlite"
    with load_quietly(calibrated, backend="openvino", precision="int8", log=path) as detector:
        detector(frame)
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("DELETE FROM facts WHERE name = 'runtime'")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with kdx.load(calibrated, backend="openvino", precision="int8", log=path) as detector:
            detector(frame)
    assert any("did not record the runtime" in str(each.message) for each in caught)
    logged = read_log(path)
    assert logged.facts.runtime is None
    assert len(logged.scores) == 2
    with pytest.raises(kdx.KdxError, match="log of another graph"):
        kdx.load(calibrated, backend="openvino", precision="fp32", log=path)


@pytest.mark.slow
def test_an_archive_is_scored_at_the_runtimes_threshold(calibrated, dataset, tmp_path, cli):
    own = open_bundle(calibrated).manifest.runtime_thresholds["int8"]
    for backend, runtime in (ORT, OPENVINO):
        out = tmp_path / runtime
        options = ("--backend", backend, "--precision", "int8", "--workers", 1, "--json")
        found = cli("score", calibrated, dataset / "test/good", "-o", out, *options).json
        assert found["threshold"] == own[runtime].score


def test_backends_of_one_runtime_are_one():
    assert runtime_of("openvino-throughput") == runtime_of("openvino")
    assert runtime_of("tensorrt-pycuda") == runtime_of("tensorrt")
    assert runtimes_for("int8") == ["onnxruntime", "openvino"]
    assert runtimes_for("bf16") == ["openvino"]


def test_an_engine_for_another_machine_makes_its_runtime_one_to_calibrate(tmp_path, monkeypatch):
    (tmp_path / "model.int8.onnx").write_bytes(ONNX)
    graph = Graph.of(tmp_path / "model.int8.onnx")
    add_engine(tmp_path, "int8", make_record(precision="int8"))
    other = dataclasses.replace(BACKENDS["tensorrt"], machine="tests.engines:other_machine")
    monkeypatch.setitem(BACKENDS, "tensorrt", other)
    assert not other.offers("int8", graph)
    assert runtimes_for("int8", graph) == ["onnxruntime", "openvino", "tensorrt"]
    graph.path.write_bytes(b"another graph")
    assert runtimes_for("int8", Graph.of(graph.path)) == ["onnxruntime", "openvino"]


# TensorRT


@pytest.fixture
def with_engine(copy, monkeypatch) -> Path:
    """The bundle with an INT8 engine, and a TensorRT that computes what it would."""
    emulate_tensorrt(monkeypatch)
    graph = open_bundle(copy).graph_of("int8")
    add_engine(copy, "tensorrt-8.6-int8", make_record(precision="int8", onnx_sha256=graph.sha256))
    return copy


@pytest.mark.slow
def test_tensorrt_decides_int8_at_what_it_measured(with_engine, dataset, cli):
    opened = open_bundle(with_engine)
    assert runtimes_for("int8", opened.graph_of("int8")) == ["onnxruntime", "openvino", "tensorrt"]
    validity = CalibrationValidity(opened.manifest, "int8", "tensorrt")
    assert "until kdx calibrate on a machine with tensorrt" in validity.why_undecided
    found = cli("calibrate", with_engine, dataset, "--false-reject-rate", 0.2, "--json", code=None).json
    own = found["runtime_thresholds"]["int8"]["tensorrt"]
    with load_quietly(with_engine, backend="tensorrt") as detector:
        assert (detector.backend.name, detector.threshold) == ("tensorrt", own["score"])
    certificate = verify(open_bundle(with_engine), [find_backend("tensorrt")])
    assert {(each.backend, each.precision) for each in certificate.comparisons} == {("tensorrt", "int8")}
    assert certificate.passed


@pytest.mark.slow
def test_an_engine_that_cannot_run_here_has_no_threshold_yet(copy, dataset, cli):
    graph = open_bundle(copy).graph_of("int8")
    add_engine(copy, "tensorrt-8.6-int8", make_record(precision="int8", onnx_sha256=graph.sha256))
    found = cli("calibrate", copy, dataset, "--false-reject-rate", 0.2, "--json", code=None).json
    assert found["not_measured_here"] == {"int8": ["tensorrt"]}
    assert "tensorrt" not in found["runtime_thresholds"]["int8"]


@pytest.mark.slow
def test_a_threshold_of_tensorrt_is_kept_where_it_is_not(with_engine, dataset, cli, monkeypatch):
    cli("calibrate", with_engine, dataset, "--false-reject-rate", 0.2, code=None)
    measured = open_bundle(with_engine).manifest.runtime_thresholds["int8"]["tensorrt"]
    monkeypatch.undo()
    shutil.rmtree(with_engine / "engines")
    cli("calibrate", with_engine, dataset, "--false-reject-rate", 0.2, code=None)
    assert open_bundle(with_engine).manifest.runtime_thresholds["int8"]["tensorrt"] == measured
    other = ("--false-reject-rate", 0.2, "--review-rate", 0.4)
    found = cli("calibrate", with_engine, dataset, *other, "--json", code=None).json
    assert found["not_measured_here"] == {"int8": ["tensorrt"]}
