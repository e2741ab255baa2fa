"""Evaluating a run or a bundle on a folder: figures, and remarks on what makes them doubtful."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from kd_train.evaluation.evaluate import Evaluation
from kdx.bundle.open import open_bundle
from kdx.decision.verdict import Decision
from kdx.errors import BundleError, DataError
from kdx.imaging.images import read_image
from kdx.loading.load import load
from kdx.verification.backend_choice import other_precisions
from kdx.workflows.evaluate import EvaluationRequest, evaluate_folder


def kinds(result: Evaluation) -> set[str]:
    return {each.kind for each in result.remarks}


@pytest.mark.parametrize("of", ["tiny_run", "tiny_bundle"])
def test_images_that_were_trained_on_are_noticed_in_runs_and_bundles(of, request, dataset_copy):
    detector = request.getfixturevalue(of)
    clean, category = evaluate_folder(detector, dataset_copy, EvaluationRequest())
    assert category is None
    assert (clean.good, clean.defective) == (4, 4)
    shutil.copy(dataset_copy / "train/good/000.png", dataset_copy / "test/good/copy.png")
    seen, _ = evaluate_folder(detector, dataset_copy, EvaluationRequest())
    assert seen.good == 5
    assert len(kinds(seen) - kinds(clean)) >= 1


@pytest.mark.parametrize("of", ["tiny_run", "tiny_bundle"])
def test_defects_that_are_not_found_are_said_of_runs_and_bundles(of, request, dataset_copy):
    for path in dataset_copy.glob("test/scratch/*.png"):  # defects that no detector could see
        shutil.copy(dataset_copy / "test/good" / f"{int(path.stem) - 4:03d}.png", path)
    result, _ = evaluate_folder(request.getfixturevalue(of), dataset_copy, EvaluationRequest())
    assert {"not_separated", "good_and_defective"} <= kinds(result)


def test_images_that_the_line_does_not_decide_by_their_score_are_named(tiny_bundle, dataset_copy):
    request = EvaluationRequest(backend="onnxruntime-cpu")
    assert "no_part" not in kinds(evaluate_folder(tiny_bundle, dataset_copy, request)[0])
    dark = dataset_copy / "test/good/lamp-off.png"
    Image.new("L", (64, 64)).save(dark)
    result, _ = evaluate_folder(tiny_bundle, dataset_copy, request)
    with load(tiny_bundle, "onnxruntime-cpu") as detector:
        assert detector(read_image(dark, detector.input)).decision is Decision.UNDECIDED
        assert result.scores["test/good/lamp-off.png"] <= detector.threshold
    (said,) = [each for each in result.remarks if each.kind == "no_part"]
    assert (said.count, said.first) == (1, (str(dark),))


def test_good_images_alone_give_false_rejects_with_their_interval(cli, tiny_bundle, dataset_copy, cells, monkeypatch):
    good = {path.name: path for path in dataset_copy.glob("test/good/*.png")}
    shutil.rmtree(dataset_copy / "test/scratch")
    shutil.rmtree(dataset_copy / "ground_truth")
    score_of = cli("evaluate", tiny_bundle, dataset_copy, "--backend", "onnxruntime-cpu", "--json").json["scores"]
    assert len(score_of) == len(good) == 4
    between = sorted(score_of.values())[1:3]

    def with_threshold(*args):
        detector = load(*args)
        detector.threshold = sum(between) / 2
        return detector

    monkeypatch.setattr("kdx.workflows.evaluate.load", with_threshold)
    request = EvaluationRequest(backend="onnxruntime-cpu")
    for folder in (dataset_copy, dataset_copy / "test/good"):  # a layout with test/good, and a plain folder
        result, _ = evaluate_folder(tiny_bundle, folder, request)
        assert (result.good, result.defective, result.false_reject_rate) == (4, 0, 0.5)
        # Clopper and Pearson, 2 of 4: the roots of P(at least 2) and P(at most 2) = 0.025.
        assert result.false_reject_interval == pytest.approx((0.0676, 0.9324), abs=1e-4)
        assert math.isnan(result.image_auroc)
        assert result.detection_rate is None
    said = cli("evaluate", tiny_bundle, dataset_copy, "--backend", "onnxruntime-cpu").stdout
    assert "good images alone: AUROC, PRO and the detection rate need defective ones" in said
    assert "no masks were found" not in said
    assert "false rejects: 50.0 % of 4 good images (95 % confidence interval: 6.8 to 93.2 %)" in said
    trained, _ = evaluate_folder(tiny_bundle, cells, request)
    assert trained.good == 16


def test_what_is_missing_may_have_been_a_run_or_a_bundle(tmp_path, dataset):
    with pytest.raises(BundleError, match="there is no run folder or bundle") as caught:
        evaluate_folder(tmp_path / "none", dataset, EvaluationRequest())
    assert caught.value.fix == "make a run with kdx train, or a bundle with kdx export"


def test_good_images_alone_say_nothing_of_a_detector_without_a_threshold(raw_bundle, dataset_copy):
    with pytest.raises(DataError, match="holds good images alone"):
        evaluate_folder(raw_bundle, dataset_copy / "test/good", EvaluationRequest(backend="onnxruntime-cpu"))
    for folder in (dataset_copy / "test/good", dataset_copy / "test"):  # only defective images, and none at all
        shutil.rmtree(folder)
        with pytest.raises(DataError, match="both good and defective"):
            evaluate_folder(raw_bundle, dataset_copy, EvaluationRequest(backend="onnxruntime-cpu"))


def test_the_images_of_the_calibration_are_no_measurement_of_it(bundle_copy, cells, dataset, tmp_path, cli):
    parts = Path(shutil.copytree(cells, tmp_path / "parts"))
    cli("calibrate", bundle_copy, parts, "--false-reject-rate", 0.2, "--backend", "onnxruntime-cpu")
    shutil.copy(next(parts.iterdir()), parts / "copy.png")
    shutil.copy(dataset / "train/good/000.png", parts / "trained-on.png")
    request = EvaluationRequest(backend="onnxruntime-cpu")
    result = evaluate_folder(bundle_copy, parts, request)[0]
    (said,) = [each for each in result.remarks if each.kind == "calibrated_on"]
    assert said.count == 17  # with the copy
    assert said.text.startswith("of 18 good images chose the threshold, so false rejects are not measured")
    assert (result.false_reject_rate, result.false_reject_interval) == (None, None)
    shown = cli("evaluate", bundle_copy, parts, "--backend", "onnxruntime-cpu").stdout
    assert "false rejects" not in shown.split("are what the threshold was chosen for")[-1]


def test_images_that_cannot_be_read_chose_no_threshold(bundle_copy, cells, tmp_path, cli):
    parts = Path(shutil.copytree(cells, tmp_path / "parts"))
    cut = (parts / "00.png").read_bytes()
    (parts / "cut.png").write_bytes(cut[: len(cut) // 2])
    options = ("--false-reject-rate", 0.2, "--backend", "onnxruntime-cpu", "--max-bad-images", 1)
    cli("calibrate", bundle_copy, parts, *options)
    request = EvaluationRequest(backend="onnxruntime-cpu", max_bad_images=1)
    result = evaluate_folder(bundle_copy, parts, request)[0]
    (said,) = [each for each in result.remarks if each.kind == "calibrated_on"]
    assert (said.count, result.good) == (16, 16)
    assert said.text.startswith("of 16 good images")


def test_good_images_that_chose_the_threshold_are_counted(bundle_copy, cells, dataset, tmp_path, cli):
    parts = Path(shutil.copytree(cells, tmp_path / "parts"))
    options = ("--false-reject-rate", 0.2, "--review-rate", 0.4, "--backend", "onnxruntime-cpu")
    cli("calibrate", bundle_copy, parts, *options)
    request = EvaluationRequest(backend="onnxruntime-cpu")

    def evaluated() -> tuple[Evaluation, str]:
        result = evaluate_folder(bundle_copy, parts, request)[0]
        (said,) = [str(each) for each in result.remarks if each.kind == "calibrated_on"]
        return result, said

    (parts / "00.png").unlink()  # all that remain chose the threshold
    result, said = evaluated()
    assert said.startswith("15 of 15 good images chose the threshold, so false rejects are not measured")
    assert (result.false_reject_rate, result.false_reject_interval) == (None, None)
    assert result.bands is not None
    assert "good" not in result.bands
    Image.open(parts / "01.png").save(parts / "01.bmp")  # a copy in another format
    (parts / "01.png").unlink()
    shutil.copy(dataset / "test/good/012.png", parts / "new.png")
    result, said = evaluated()
    assert said.startswith("15 of 16 good images chose the threshold, so false rejects are too low")
    assert result.false_reject_rate is not None
    cli("calibrate", bundle_copy, parts, "--threshold", 0.4, "--reason", "as on line 2")  # images chose nothing
    assert "calibrated_on" not in kinds(evaluate_folder(bundle_copy, parts, request)[0])


def test_defective_images_that_chose_the_threshold_are_counted(bundle_copy, cells, dataset, cli):
    cli("calibrate", bundle_copy, cells, "--with-defects", dataset / "test/scratch", "--backend", "onnxruntime-cpu")
    result = evaluate_folder(bundle_copy, dataset, EvaluationRequest(backend="onnxruntime-cpu"))[0]
    (said,) = [str(each) for each in result.remarks if each.kind == "calibrated_on_defects"]
    assert said.startswith("4 of 4 defective images chose the threshold, so too many are detected at it")
    assert "calibrated_on" not in kinds(result)


def test_a_calibration_without_hashes_says_what_it_cannot_know(bundle_copy, dataset):
    opened = open_bundle(bundle_copy)
    opened.with_thresholds(opened.manifest.threshold)  # as earlier releases did
    result = evaluate_folder(bundle_copy, dataset, EvaluationRequest(backend="onnxruntime-cpu"))[0]
    (said,) = [each for each in result.remarks if each.kind == "calibration_unknown"]
    assert said.count == result.good == 4


@pytest.mark.parametrize(
    ("precisions", "measured", "others"),
    [
        (["fp32"], "fp32", []),
        (["fp32", "fp16"], "fp32", []),
        (["fp32", "int8"], "fp32", ["int8"]),
        (["fp32", "bf16", "int8"], "int8", ["fp32", "bf16"]),
    ],
)
def test_precisions_that_may_decide_and_were_not_measured_are_named(precisions, measured, others) -> None:
    bundle = SimpleNamespace(manifest=SimpleNamespace(precisions=precisions))
    assert [name for each in other_precisions(bundle, measured) for name in each.first] == others
