"""BF16 and INT8 from the command line: gated twice, with thresholds of their own."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

import kdx
from kd_export.precision import precision_graphs as variants
from kd_export.precision.gate import GateReport
from kd_train.training.run_images import training_files
from kdx.bundle.open import open_bundle
from kdx.runtime.backend_table import find_backend, require_backends
from kdx.storage.files import sha256_file
from kdx.verification.tolerances import LIMITS, Limits
from tests.conftest import write_dataset

HAS_BF16 = find_backend("openvino").offers("bf16")
needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason="OpenVINO is not installed, or this CPU has no BF16")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> Path:
    """Labelled images whose scores are far apart.

    Those of the miniature's scratches are not after two epochs: any rounding changes their order.
    """
    root = write_dataset(tmp_path_factory.mktemp("labelled") / "cells", masks=False)
    rng = np.random.default_rng(0)
    for path in (root / "test/scratch").glob("*.png"):
        with Image.open(path) as image:
            size = image.size[::-1]
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(path)
    return root


@pytest.fixture(scope="module")
def int8_bundle(tiny_run, dataset, labelled, tmp_path_factory, cli) -> Path:
    bundle = tmp_path_factory.mktemp("int8") / "tile.kdx"
    precisions = "fp32,bf16,int8" if HAS_BF16 else "fp32,int8"
    cli("export", tiny_run, "-o", bundle, "--precision", precisions, "--evaluation-data", labelled)
    cli("calibrate", bundle, dataset, "--false-reject-rate", 0.2)
    return bundle


@pytest.mark.slow
def test_the_bundle_holds_a_gated_int8_graph_with_its_own_threshold(int8_bundle, cli) -> None:
    manifest = open_bundle(int8_bundle).manifest
    variant = manifest.variants["int8"]
    assert variant.convolutions > 10
    assert {judged.runtime for judged in variant.judged} >= {"onnxruntime-cpu"}
    assert all(abs(judged.auroc - judged.auroc_reference) <= LIMITS["int8"].auroc for judged in variant.judged)
    exact, own = manifest.threshold_of("fp32"), manifest.runtime_thresholds["int8"]
    assert set(own) == {info.runtime for info in require_backends() if info.offers("int8")}
    for threshold in own.values():
        assert threshold.score != exact.score
        assert threshold.graph_sha256 == sha256_file(int8_bundle / "model.int8.onnx")
        assert threshold.data_sha256 == exact.data_sha256
    certificate = cli("verify", int8_bundle, "--json").json
    assert certificate["passed"]
    compared = [c for c in certificate["comparisons"] if c["precision"] == "int8"]
    assert compared
    assert all(c["flips"] == 0 and c["map_max"] > 1e-4 for c in compared), "nothing was quantised"


def test_a_detector_decides_at_its_precisions_threshold(int8_bundle) -> None:
    manifest = open_bundle(int8_bundle).manifest
    for precision in ("fp32", "int8"):
        with kdx.load(int8_bundle, backend="onnxruntime-cpu", precision=precision) as detector:
            assert detector.threshold == manifest.threshold_of(precision, "onnxruntime").score


def test_int8_without_a_threshold_is_never_chosen(int8_bundle, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("KDX_CACHE_DIR", str(tmp_path / "cache"))
    bundle = Path(shutil.copytree(int8_bundle, tmp_path / "tile.kdx"))
    opened = open_bundle(bundle)
    index = msgspec.json.encode(msgspec.structs.replace(opened.manifest, runtime_thresholds={}))
    (bundle / "bundle.json").write_bytes(index)
    with kdx.load(bundle, threads=1) as detector:
        assert detector.threshold == opened.manifest.threshold.score


@pytest.mark.slow
def test_a_variant_that_the_gate_refuses_is_not_written(tiny_run, tmp_path, cli, monkeypatch) -> None:
    refused = GateReport(
        precision="int8", passed=False, kept=[], quantised=0, attempts=3, judgements=[], reason="3 of 9 pairs turned"
    )
    monkeypatch.setattr(variants.Gate, "pass_int8", lambda self, graph, progress: (None, refused))
    result = cli("export", tiny_run, "-o", tmp_path / "tile.kdx", "--precision", "fp32,int8", code=1)
    assert "no int8: 3 of 9" in result.stdout
    # The FP32 bundle is whole and stands.
    assert open_bundle(tmp_path / "tile.kdx").manifest.precisions == ["fp32"]
    assert not (tmp_path / "tile.kdx/model.int8.onnx").exists()


@pytest.mark.slow
def test_a_variant_that_passes_its_gate_and_fails_the_certificate_is_left_out(tiny_run, tmp_path, cli, monkeypatch):
    from kdx.verification import golden as module

    compare = module.compare_batch

    def at_batches(backend, golden, batch, thresholds, precision, *others):
        compared = compare(backend, golden, batch, thresholds, precision, *others)
        is_wrong = precision == "int8" and batch > 1
        return msgspec.structs.replace(compared, passed=False, score_max=0.9) if is_wrong else compared

    monkeypatch.setattr(module, "compare_batch", at_batches)
    bundle = tmp_path / "tile.kdx"
    record = cli("export", tiny_run, "-o", bundle, "--precision", "fp32,int8", "--json", code=1).json
    assert re.search(r"int8, batch \d+: scores off by 0.9, .*; allowed: scores within 0.35", record["refused"]["int8"])
    assert record["certificate"]["passed"]
    assert list(record["certificate"]["graph_sha256"]) == ["fp32"]
    assert {compared["precision"] for compared in record["certificate"]["comparisons"]} == {"fp32"}
    assert not (bundle / "model.int8.onnx").exists()
    manifest = open_bundle(bundle).manifest
    assert not manifest.variants
    assert "model.int8.onnx" not in manifest.files


@pytest.mark.slow
def test_training_images_that_are_not_there_are_asked_for(tiny_run, tmp_path, cli, make_dataset, dataset) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    options = ("export", run, "-o", tmp_path / "b.kdx", "--precision", "fp32,int8")
    empty = make_dataset(tmp_path / "others", train=1)
    for image in (empty / "train/good").iterdir():
        image.write_bytes((dataset / "test/good/012.png").read_bytes())
    said = cli(*options, "--calibration-data", empty, code=1).stdout
    assert "no int8: it is judged on images that were held out of training" in said
    assert "--calibration-data" in said
    assert open_bundle(tmp_path / "b.kdx").manifest.precisions == ["fp32"]


def test_calibration_takes_images_that_were_trained_on(tiny_run) -> None:
    from kd_train.training.run_folder import Run

    run = Run(tiny_run)
    files = training_files(run, most=4)
    assert len(files) == 4
    assert {sha256_file(file) for file in files} <= set(run.config.train_images.values())
    assert len(training_files(run)) == len(run.config.train_images)


def test_a_backend_that_runs_no_int8_leaves_its_threshold_to_another(int8_bundle, dataset, tmp_path, cli, monkeypatch):
    from kdx.runtime.backend_table import BACKENDS, BackendInfo

    plain = BACKENDS["onnxruntime-cpu"]
    fields = {"purpose": "", "install": "", "package": plain.package, "factory": plain.factory}
    monkeypatch.setitem(BACKENDS, "plain", BackendInfo(name="plain", precisions=("fp32",), **fields))
    bundle = Path(shutil.copytree(int8_bundle, tmp_path / "tile.kdx"))
    options = ("--false-reject-rate", 0.25, "--backend", "plain")
    found = cli("calibrate", bundle, dataset, *options, "--json").json
    assert set(found["runtime_thresholds"]["int8"]) >= {"onnxruntime"}
    with pytest.raises(kdx.KdxError, match="'plain' runs no int8 graphs"):
        kdx.load(bundle, backend="plain", precision="int8")


@needs_bf16
def test_bf16_is_the_fp32_graph_with_its_own_threshold(int8_bundle) -> None:
    opened = open_bundle(int8_bundle)
    assert opened.graph_of("bf16") == opened.graph
    assert [judged.runtime for judged in opened.manifest.variants["bf16"].judged] == ["openvino"]
    own, exact = opened.manifest.threshold_of("bf16", "openvino"), opened.manifest.threshold_of("fp32")
    assert own.score != exact.score
    assert own.graph_sha256 == exact.graph_sha256
    image = opened.golden().images[0]
    scores = {}
    for precision in ("fp32", "bf16"):
        with kdx.load(int8_bundle, backend="openvino", threads=1, precision=precision) as detector:
            scores[precision] = detector(image).score
            assert detector.threshold == opened.manifest.threshold_of(precision, "openvino").score
    assert 0 < abs(scores["bf16"] / scores["fp32"] - 1) < LIMITS["bf16"].score


@pytest.mark.slow
@needs_bf16
def test_a_machine_without_bf16_passes_over_it(int8_bundle, tiny_run, dataset, tmp_path, cli, monkeypatch) -> None:
    monkeypatch.setenv("KDX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("kdx.runtime.openvino.compilation.offers_bf16", lambda: False)
    bundle = Path(shutil.copytree(int8_bundle, tmp_path / "tile.kdx"))
    certificate = cli("verify", bundle, "--json").json
    assert {c["precision"] for c in certificate["comparisons"]} == {"fp32", "int8"}
    before = open_bundle(bundle).manifest
    cli("calibrate", bundle, dataset, "--false-reject-rate", 0.2)
    after = open_bundle(bundle).manifest
    assert after.runtime_thresholds["bf16"] == before.runtime_thresholds["bf16"], "of the same images and rate"
    missing = cli("calibrate", bundle, dataset, "--false-reject-rate", 0.25, "--json").json["not_measured_here"]
    assert missing == {"bf16": ["openvino"]}
    after = open_bundle(bundle).manifest
    assert "bf16" not in after.runtime_thresholds, "a threshold at another rate is not this calibration's"
    assert after.runtime_thresholds["int8"] != before.runtime_thresholds["int8"]
    with pytest.raises(kdx.KdxError, match="no backend on this machine runs bf16"):
        kdx.load(bundle, precision="bf16")
    with pytest.raises(kdx.KdxError, match="this CPU does not support BF16"):
        kdx.load(bundle, backend="openvino", precision="bf16")
    options = ("export", tiny_run, "-o", tmp_path / "other.kdx", "--precision", "fp32,bf16")
    assert "no bf16: it is judged where it runs" in cli(*options, code=1).stdout
    assert open_bundle(tmp_path / "other.kdx").manifest.precisions == ["fp32"]


@pytest.mark.slow
def test_a_variant_that_fails_at_its_threshold_gets_none(int8_bundle, dataset, tmp_path, cli, monkeypatch) -> None:
    """The gate's second time: on the machine and with the thresholds that will decide."""
    bundle = Path(shutil.copytree(int8_bundle, tmp_path / "tile.kdx"))
    monkeypatch.setitem(LIMITS, "int8", Limits(margin=0.0, score=1e-9))
    result = cli("calibrate", bundle, dataset, "--false-reject-rate", 0.25, "--backend", "onnxruntime-cpu", code=1)
    assert re.search("int8 has no threshold in onnxruntime: .*a golden score moved by", result.stdout)
    manifest = open_bundle(bundle).manifest
    assert not manifest.own_thresholds("int8")
    assert manifest.threshold.false_reject_rate == 0.25
    options = ("--false-reject-rate", 0.25, "--backend", "onnxruntime-cpu", "--json")
    assert set(cli("calibrate", bundle, dataset, *options, code=1).json["refused"]) == {"int8"}
    with kdx.load(bundle, threads=1) as detector:
        assert detector.precision != "int8"
        assert detector.threshold is not None


@pytest.mark.slow
@pytest.mark.usefixtures("short_search")
def test_labelled_images_must_be_separated_as_before(tiny_run, dataset, tmp_path, cli, monkeypatch) -> None:
    monkeypatch.setitem(LIMITS, "int8", Limits(margin=1.0, score=1e9, auroc=-1.0))
    options = ("--precision", "fp32,int8", "--evaluation-data", dataset)
    assert "image AUROC" in cli("export", tiny_run, "-o", tmp_path / "tile.kdx", *options, code=1).stdout
