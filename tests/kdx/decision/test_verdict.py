"""Verdicts: the same from run and bundle, never silently good, and drawn for each image."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

import kdx
from kdx.bundle.open import open_bundle
from kdx.decision.rule import DecisionRule
from kdx.decision.verdict import Decision, decide
from kdx.errors import BackendError
from kdx.monitoring.verdict_log import read_log
from kdx.runtime.detector import Detector

# One answer, however it is run


def test_run_and_bundle_agree(cli, tiny_run, tiny_bundle, dataset):
    run, bundle = (cli("evaluate", path, dataset, "--json").json for path in (tiny_run, tiny_bundle))
    assert run["scores"].keys() == bundle["scores"].keys()
    for name, score in run["scores"].items():
        assert bundle["scores"][name] == pytest.approx(score, rel=1e-4)
    assert bundle["image_auroc"] == pytest.approx(run["image_auroc"], abs=1e-6)
    assert bundle["pixel_auroc"] == pytest.approx(run["pixel_auroc"], abs=1e-3)
    assert bundle["pro"] == pytest.approx(run["pro"], abs=1e-3)


def test_predict_gives_the_scores_of_evaluate(cli, tiny_bundle, dataset):
    evaluated = cli("evaluate", tiny_bundle, dataset, "--json").json["scores"]
    for record in cli("predict", tiny_bundle, dataset / "test/good", "--json").lines:
        name = record["image"].removeprefix(f"{dataset.as_posix()}/")
        assert record["score"] == pytest.approx(evaluated[name], rel=1e-5)


def test_rates_are_those_of_the_threshold(cli, tiny_bundle, dataset):
    result = cli("evaluate", tiny_bundle, dataset, "--json").json
    threshold = open_bundle(tiny_bundle).manifest.threshold.score
    rejected = [score > threshold for name, score in result["scores"].items() if "good" in name]
    detected = [score > threshold for name, score in result["scores"].items() if "scratch" in name]
    assert result["false_reject_rate"] == sum(rejected) / 4
    assert result["detection_rate"] == sum(detected) / 4


def test_without_a_threshold_nothing_is_good(cli, raw_bundle, dataset, frame):
    result = cli("predict", raw_bundle, dataset / "test/good", "--json")
    assert {record["verdict"] for record in result.lines} == {"undecided"}
    assert {record["margin"] for record in result.lines} == {None}
    assert "not calibrated" in result.stderr
    with kdx.load(raw_bundle) as detector:
        verdict = detector(frame)
    assert verdict.decision is Decision.UNDECIDED
    assert not verdict.is_good


def test_a_run_has_no_threshold(tiny_run, frame):
    with kdx.load(tiny_run) as detector:
        assert detector(frame).decision is Decision.UNDECIDED


@pytest.mark.parametrize("score", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_not_finite_is_never_good(score):
    assert decide(score, 1.0) is Decision.UNDECIDED


def test_the_threshold_itself_is_good():
    assert decide(1.0, 1.0) is Decision.GOOD
    assert decide(np.nextafter(1.0, 2.0), 1.0) is Decision.DEFECTIVE


def test_between_two_thresholds_somebody_looks(cli, tiny_bundle, dataset, tmp_path):
    assert decide(0.5, 1.0, (), 0.5) is Decision.GOOD
    assert decide(np.nextafter(0.5, 1.0), 1.0, (), 0.5) is Decision.REVIEW
    assert decide(1.0, 1.0, (), 0.5) is Decision.REVIEW
    assert decide(1.5, 1.0, (), 0.5) is Decision.DEFECTIVE
    bundle = shutil.copytree(tiny_bundle, tmp_path / "tile.kdx")
    options = ("--false-reject-rate", 0.2, "--backend", "onnxruntime-cpu")
    shown = cli("calibrate", bundle, dataset, *options, "--review-rate", 0.5).stdout
    threshold = open_bundle(bundle).manifest.threshold
    assert f"review from {threshold.review.score:.6g}, which 50 % of good parts exceed" in shown
    assert threshold.scores[0] < threshold.review.score < threshold.score
    with kdx.load(bundle, backend="onnxruntime-cpu") as detector:
        verdicts = [detector(kdx.read_image(path, detector.input)) for path in sorted((dataset / "test").glob("*/*"))]
    for verdict in verdicts:
        assert verdict.is_good == (verdict.score <= threshold.review.score)
        assert (verdict.decision is Decision.DEFECTIVE) == (verdict.score > threshold.score)
    shares = cli("evaluate", bundle, dataset, "--backend", "onnxruntime-cpu", "--json").json["bands"]
    decisions = {"accept": Decision.GOOD, "review": Decision.REVIEW, "reject": Decision.DEFECTIVE}
    for kind, part in (("good", verdicts[:4]), ("defective", verdicts[4:])):
        by_hand = {name: sum(verdict.decision is one for verdict in part) / 4 for name, one in decisions.items()}
        assert shares[kind] == pytest.approx(by_hand)
    assert "good images: accepted " in cli("evaluate", bundle, dataset, "--backend", "onnxruntime-cpu").stdout
    for rate in (0.2, 0.1, 1.0, 0.25):  # the last one chooses the same of 6 scores as 0.2: no score would be between
        assert "review rate" in cli("calibrate", bundle, dataset, *options, "--review-rate", rate, code=2).stderr
    # Without it, the band goes.
    cli("calibrate", bundle, dataset, *options)
    assert open_bundle(bundle).manifest.threshold.review is None
    assert cli("evaluate", bundle, dataset, "--backend", "onnxruntime-cpu", "--json").json["bands"] is None


def test_how_many_images_bound_a_threshold(cli, tiny_bundle, dataset, tmp_path):
    from scipy.stats import binom

    from kdx.calibration.rates import images_to_bound

    for rate in (0.2, 0.01, 0.001):
        n = images_to_bound(rate)
        # All n below the quantile: at most half of the 5 % that the interval may miss; with one
        # image fewer, more.
        assert binom.pmf(n, n, 1 - rate) <= 0.025 < binom.pmf(n - 1, n - 1, 1 - rate)
    bundle = shutil.copytree(tiny_bundle, tmp_path / "tile.kdx")
    shown = cli("calibrate", bundle, dataset, "--false-reject-rate", 0.2, "--backend", "onnxruntime-cpu").stdout
    assert "6 good images cannot bound it from above; for 20 % it takes about 17" in shown


def test_nan_from_a_backend_is_undecided(tiny_bundle, frame):
    from kdx.runtime.backend import Outputs

    class Broken:
        name = "broken"

        def run(self, images):
            return Outputs(
                np.full((len(images), 2, 2), np.nan, np.float32), np.full((len(images), 1), np.nan, np.float32)
            )

    detector = Detector(Broken(), open_bundle(tiny_bundle).manifest.input, DecisionRule(threshold=1.0), max_batch=4)
    assert not detector(frame).is_good
    assert detector(frame).decision is Decision.UNDECIDED


def test_a_batch_that_fails_midway_is_neither_returned_nor_logged_nor_counted(
    tiny_bundle, frame, tmp_path, monkeypatch
):
    prometheus = pytest.importorskip("prometheus_client")
    registry, log = prometheus.CollectorRegistry(), tmp_path / "line.log"
    with kdx.load(tiny_bundle, backend="onnxruntime-cpu", log=log, metrics=registry) as detector:
        count = detector.max_batch + 3
        run, sizes = detector.backend.run, []

        def fail_at_the_second(batch):
            sizes.append(len(batch))
            if len(sizes) == 2:
                raise BackendError("gone")
            return run(batch)

        with monkeypatch.context() as patched:
            patched.setattr(detector.backend, "run", fail_at_the_second)
            with pytest.raises(BackendError, match="gone"):
                detector.batch([frame] * count)
        assert sizes == [detector.max_batch, 3]
        assert len(detector.batch([frame] * count)) == count
    assert len(read_log(log).scores) == count
    assert (read_log(log).milliseconds > 0).all()
    labels = {"bundle": tiny_bundle.name, "precision": "fp32", "runtime": "onnxruntime"}
    assert registry.get_sample_value("kdx_verdict_seconds_count", labels) == count


# Heat maps


def test_overlay_writes_a_picture_for_each_image(cli, tiny_bundle, dataset, tmp_path):
    images = sorted((dataset / "test/scratch").iterdir())
    cli("predict", tiny_bundle, *images, "--overlay", tmp_path / "maps")
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == [path.name for path in images]
    for path in (tmp_path / "maps").iterdir():
        picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
        half = picture[40:, : picture.shape[1] // 2], picture[40:, -(picture.shape[1] // 2) :]
        assert half[0].std() > 5  # the image
        assert half[1].std() > 5
        assert np.abs(half[0][:, :300] - half[1][:, :300]).max() > 20  # the heat shows


def test_same_names_in_two_folders_do_not_overwrite_each_other(cli, tiny_bundle, dataset, tmp_path):
    sources = [dataset / "test/good/012.png", dataset / "test/good/013.png", dataset / "test/scratch/016.png"]
    paths = [tmp_path / name / "good" / "x.png" for name in ("a", "b")] + [tmp_path / "c" / "x.png"]
    for source, path in zip(sources, paths, strict=True):
        path.parent.mkdir(parents=True)
        shutil.copy(source, path)
    records = cli("predict", tiny_bundle, *paths, "--overlay", tmp_path / "maps", "--json").lines
    written = {record["overlay"] for record in records}
    assert len(written) == 3
    assert {str(path) for path in (tmp_path / "maps").iterdir()} == written


def test_heat_maps_never_replace_the_images(cli, tiny_bundle, dataset_copy):
    folder = dataset_copy / "test/good"
    before = {path: path.read_bytes() for path in folder.iterdir()}
    cli("predict", tiny_bundle, folder, "--overlay", folder, code=None)
    assert {path: path.read_bytes() for path in before} == before


def test_verdicts_before_a_damaged_image_are_shown(cli, tiny_bundle, dataset, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    result = cli("predict", tiny_bundle, dataset / "test/good/012.png", tmp_path / "bad.png", code=2)
    assert "012.png" in result.stdout
    assert "bad.png" in result.stderr


def test_a_backend_that_does_not_load_is_named(tiny_bundle, monkeypatch):
    from kdx.runtime import backend_table

    def broken(name):
        raise ImportError("DLL load failed")

    monkeypatch.setattr(backend_table, "import_module", broken)
    with pytest.raises(kdx.KdxError, match="installed but cannot be loaded: DLL load failed"):
        kdx.load(tiny_bundle)


def test_torch_does_not_run_bundles(tiny_bundle):
    with pytest.raises(kdx.KdxError, match="runs run folders, not bundles"):
        kdx.load(tiny_bundle, backend="torch")


def test_a_verdict_is_no_truth_value():
    """``if detector(frame):`` would pass defective parts."""
    verdict = kdx.Verdict(Decision.DEFECTIVE, 2.0, 1.0, np.zeros((2, 2), np.float32))
    with pytest.raises(TypeError, match=r"use verdict\.is_good"):
        bool(verdict)
    assert verdict.is_good is False
