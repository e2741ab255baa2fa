"""``kdx report``: what it scores, draws and refuses. The page itself is tried in
test_report_page.py."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from html import unescape
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from kd_train.evaluation.evaluate import Evaluation, Scored
from kdx.bundle.open import open_bundle
from kdx.bundle.stored_threshold import ReviewBand
from kdx.errors import DataError
from kdx.folders.data_folder import TestImage, open_folder
from kdx.imaging.image_identity import Likeness, identify
from kdx.remarks import Remark
from kdx.workflows.calibration_images import CHOSEN_ON_DEFECTS
from kdx.workflows.report.curves import HEIGHT, LEFT, TOP, WIDTH, axis_of, curves_of, histogram
from kdx.workflows.report.intervals import intervals_of
from kdx.workflows.report.pictures import take_pictures, worst_first
from kdx.workflows.report.report_images import choose_images, sample


def scored_of(scores: dict[str, list[float]]) -> Scored:
    """Return images of each type with the scores given, without maps."""
    images = [
        TestImage(Path(f"{kind}/{i}.png"), kind, None) for kind, values in scores.items() for i in range(len(values))
    ]
    values = np.array([score for each in scores.values() for score in each])
    return Scored(images, values, np.zeros(len(values), bool), {}, None, {})


def result_of(scored: Scored) -> Evaluation:
    good = int((scored.types == "good").sum())
    nan = float("nan")
    return Evaluation(good, len(scored.images) - good, 1.0, nan, nan, None, None, {}, {})


@pytest.fixture
def report(cli, tmp_path):
    """Call kdx report without timing; return what it printed and the page's data."""

    def run(bundle, data, *options):
        target = tmp_path / "page.html"
        result = cli("report", bundle, data, "-o", target, "--no-latency", "--json", *options).json
        return result, data_of(target)

    return run


def data_of(page: Path) -> dict:
    (found,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL
    )
    return json.loads(found)


# Which images


def test_a_sample_keeps_rare_types_whole():
    images = [
        TestImage(Path(f"{kind}{i}"), kind, None)
        for kind, n in (("good", 90), ("dent", 3), ("crack", 40))
        for i in range(n)
    ]
    chosen = sample(images, 33)
    counts = {kind: sum(image.defect_type == kind for image in chosen) for kind in ("good", "dent", "crack")}
    assert counts == {"good": 15, "dent": 3, "crack": 15}
    assert chosen == sample(images, 33) == [image for image in images if image in chosen]
    assert sample(images, 200) == images


def test_images_that_were_trained_on_are_skipped(tiny_bundle, dataset, tmp_path):
    from kdx.bundle.open import open_bundle

    bundle = open_bundle(tiny_bundle)
    shutil.copytree(dataset / "train/good", tmp_path / "plain")
    material = choose_images(bundle, open_folder(tmp_path / "plain"), 100)
    assert (len(material.images), material.trained_on, material.is_test) == (6, 6, False)
    assert material.holds_calibration  # the same images, wherever they lie
    material.images[0].path.unlink()
    assert not choose_images(bundle, open_folder(tmp_path / "plain"), 100).holds_calibration
    for image in material.images[1:]:
        image.path.unlink()
    with pytest.raises(DataError, match="no images to report on") as error:
        choose_images(bundle, open_folder(tmp_path / "plain"), 100)
    assert error.value.received == "6 images, all of them trained on"


# What is drawn


def test_curves_of_a_perfect_detector_go_through_the_corner():
    scored = scored_of({"good": [1, 2, 3], "dent": [4, 5]})
    roc, pr, pro = curves_of(scored, result_of(scored))
    corner = f"{LEFT:.1f} {TOP:.1f}"
    assert roc.path.startswith(f"M{LEFT:.1f} {TOP + HEIGHT:.1f}")
    assert f"L{corner}" in roc.path
    assert pr.path.startswith(f"M{corner}")
    assert pr.path.endswith(f"H{LEFT + WIDTH:.1f}")
    assert "100.0 %" in pr.figure
    assert "no masks" in pro.missing


def test_precision_falls_in_steps_by_hand():
    # Falling: D G D. Recall ½ at precision 1, then 1 at ⅔; the area is ½ · 1 + ½ · ⅔.
    scored = scored_of({"good": [2], "dent": [3, 1]})
    pr = curves_of(scored, result_of(scored))[1]
    assert "83.3 %" in pr.figure
    assert f"V{TOP + HEIGHT / 3:.1f}H{LEFT + WIDTH:.1f}" in pr.path


def test_pro_ends_at_its_limit():
    scored = scored_of({"good": [1.0], "dent": [2.0]})
    mask = np.zeros((10, 10), bool)
    mask[2:4, 2:4] = True
    scored.maps[1] = mask.astype(np.float32)
    pro = curves_of(
        Scored(scored.images, scored.scores, scored.has_faults, scored.maps, {1: mask}, {}), result_of(scored)
    )[2]
    assert pro.path.endswith(f"L{LEFT + WIDTH:.1f} {TOP:.1f}")
    assert pro.ticks == pytest.approx([0, 0.15, 0.3])


def test_without_one_class_there_are_no_curves():
    scored = scored_of({"good": [1.0, 2.0]})
    assert [curve.path for curve in curves_of(scored, result_of(scored))] == ["", "", ""]
    assert "no defective images" in curves_of(scored, result_of(scored))[0].missing


def test_scores_over_a_wide_range_are_read_on_a_logarithmic_axis():
    axis = axis_of(np.array([0.01, 1.0]))
    assert axis.is_log
    assert axis.position(np.array([0.1]))[0] == pytest.approx(0.5)
    assert [value for value, _ in axis.ticks()] == pytest.approx([0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1])
    flat = axis_of(np.array([-1.0, 1.0]))
    assert not flat.is_log
    assert flat.position(np.array([0.0]))[0] == pytest.approx(0.5)
    assert axis_of(np.array([3.0])).position(np.array([3.0]))[0] == pytest.approx(0.5)


def test_the_histogram_shows_each_kind_as_a_share_of_itself():
    paths = histogram(np.array([0.0, 0.0, 0.5, 0.999]), np.array([False, False, False, True]))
    heights = [float(value) for value in re.findall(r"v([-\d.]+)h", paths["good"])]
    assert heights == pytest.approx([-95 * 2 / 3, -95 / 3], abs=0.06)  # upwards
    assert re.findall(r"v([-\d.]+)h", paths["defective"]) == ["95.0"]


def test_the_worst_come_first_in_turns():
    scored = scored_of({"good": [1, 9, 5], "dent": [7, 2]})
    assert worst_first(scored) == [1, 4, 2, 3, 0]


def test_pictures_stay_within_their_bytes(tiny_bundle, dataset):
    import kdx
    from kd_train.evaluation.evaluate import score_images

    folder = open_folder(dataset)
    with kdx.load(tiny_bundle, backend="onnxruntime-cpu") as detector:
        scored = score_images(detector, folder.test)
        every = take_pictures(detector, scored, dataset)
        sizes = [len(p.image) + len(p.heat) + len(p.mask) for p in every]
        assert len(every) == 8
        assert len(take_pictures(detector, scored, dataset, most_bytes=sum(sizes[:3]))) == 3
    shown = every[1]  # the defective image that scores lowest
    assert shown.mask.startswith("data:image/png;base64,")
    at = np.unravel_index(scored.maps[shown.index].argmax(), (64, 64))
    assert shown.peak == pytest.approx(((at[1] + 0.5) / 64, (at[0] + 0.5) / 64))


# The command


def test_the_figures_are_those_of_evaluate(cli, report, tiny_bundle, dataset):
    result, data = report(tiny_bundle, dataset)
    evaluated = cli("evaluate", tiny_bundle, dataset, "--json").json
    assert result["evaluation"] == evaluated
    assert result["certificate"]["passed"] is True
    assert result["notes"] == []
    assert [each["kind"] for each in evaluated["remarks"]] == ["not_separated"]  # the tiny detector finds nothing
    assert [image[0] for image in data["images"]] == list(evaluated["scores"].values())
    assert data["holdsCalibration"] is True
    assert len(data["settable"]) == 6
    assert len(data["pictures"]) == result["pictures"] == 8


def test_a_report_counts_the_images_that_chose_the_threshold(report, bundle_copy, dataset, dataset_copy):
    held_out = choose_images(open_bundle(bundle_copy), open_folder(dataset), 100)
    assert held_out.calibrated_on == 6
    plain = dataset_copy / "plain"
    plain.mkdir()
    trained = open_bundle(bundle_copy).training_images()
    chose = [p for p in (dataset / "train/good").iterdir() if trained.likeness(identify(p)) is not Likeness.SAME]
    for path in chose[:5]:
        shutil.copy(path, plain)
    shutil.copy(dataset / "test/good/012.png", plain)
    result, data = report(bundle_copy, plain)
    (said,) = [each for each in result["evaluation"]["remarks"] if each["kind"] == "calibrated_on"]
    assert said["text"] == "of 6 good images chose the threshold, so false rejects are too low"
    assert (said["count"], data["holdsCalibration"], data["calibratedOn"]) == (5, False, 5)
    assert data["intervals"]["good"]["rejected"] == result["evaluation"]["false_reject_interval"]
    (plain / "012.png").unlink()
    result, data = report(bundle_copy, plain, "--force")
    assert result["evaluation"]["false_reject_rate"] is None
    assert data["intervals"] == {"good": None, "defective": None}


def test_intervals_are_of_what_the_bundle_decides(tiny_bundle):
    from scipy.stats import beta

    scored = scored_of({"good": [0.1, 0.2, 0.6, 0.9], "scratch": [0.3, 0.6, 0.9, 0.95, 0.99]})
    faults = np.zeros(9, bool)
    faults[[0, 4]] = True  # a good and a defective frame that show no part
    scored = dataclasses.replace(scored, has_faults=faults)
    result = dataclasses.replace(result_of(scored), false_reject_rate=0.25)
    band = ReviewBand(score=0.5, false_reject_rate=0.5, interval=(None, None))
    threshold = msgspec.structs.replace(open_bundle(tiny_bundle).manifest.threshold, score=0.8, review=band)
    found = intervals_of(scored, result, threshold)

    def exact(events: int, trials: int) -> tuple[float, float]:  # Clopper and Pearson (1934)
        low = beta.ppf(0.025, events, trials - events + 1) if events else 0.0
        return pytest.approx((low, beta.ppf(0.975, events + 1, trials - events) if events < trials else 1.0))

    assert found["good"] == {"rejected": exact(1, 4), "others": exact(2, 4), "accepted": exact(1, 4)}
    assert found["defective"] == {"rejected": exact(3, 5), "others": exact(2, 5), "accepted": exact(0, 5)}
    assert intervals_of(scored, result, None) == {"good": None, "defective": None}
    remarks = (Remark(kind=CHOSEN_ON_DEFECTS, text="", count=1, first=()),)
    chosen = intervals_of(scored, dataclasses.replace(result, remarks=remarks), threshold)
    assert (chosen["good"]["rejected"], chosen["defective"]) == (exact(1, 4), None)


def test_latencies_are_measured_unless_skipped(cli, tiny_bundle, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("kdx.workflows.report.gather._RUNS", 20)
    page = tmp_path / "page.html"
    result = cli("report", tiny_bundle, dataset, "-o", page, "--json", "--threads", 1).json
    assert {r["name"] for r in result["latency"]} >= {"onnxruntime-cpu"}
    assert all(r["p99_ms"] >= r["p50_ms"] > 0 for r in result["latency"])
    assert f"{result['latency'][0]['p99_ms']:.2f}" in page.read_text(encoding="utf-8")


def test_an_uncalibrated_bundle_promises_nothing(report, raw_bundle, dataset):
    result, data = report(raw_bundle, dataset)
    assert "not calibrated" in result["notes"][0]
    assert data["calibrated"] is None
    assert data["settable"] == []
    assert data["start"] == max(image[0] for image in data["images"] if image[1] == 0)


@pytest.mark.slow
def test_a_calibration_that_kept_no_scores(report, bundle_copy, dataset):
    index = json.loads((bundle_copy / "bundle.json").read_text(encoding="utf-8"))
    index["threshold"]["scores"] = []
    (bundle_copy / "bundle.json").write_text(json.dumps(index), encoding="utf-8")
    assert report(bundle_copy, dataset)[1]["settable"] == []


def test_good_images_alone_and_a_folder_that_is_no_test_split(report, tiny_bundle, dataset_copy, tmp_path):
    shutil.rmtree(dataset_copy / "test/scratch")
    result, data = report(tiny_bundle, dataset_copy)
    assert "no defective images" in " ".join(result["notes"])
    assert data["types"] == ["good"]
    shutil.copytree(dataset_copy / "test/good", tmp_path / "new")
    result, data = report(tiny_bundle, tmp_path / "new", "--force")
    assert "not test images" in " ".join(result["notes"])
    assert data["command"].endswith("HELD_OUT_GOOD_IMAGES")  # not those that the threshold is from


def test_defective_images_alone(report, tiny_bundle, dataset_copy):
    shutil.rmtree(dataset_copy / "test/good")
    result, _ = report(tiny_bundle, dataset_copy)
    assert "There are no good images" in " ".join(result["notes"])


def test_without_masks_nothing_is_said_of_pixels(report, tiny_bundle, dataset_copy):
    shutil.rmtree(dataset_copy / "ground_truth")
    result, data = report(tiny_bundle, dataset_copy)
    assert "no masks" in result["notes"][0]
    assert result["evaluation"]["pro"] is None
    assert {picture["mask"] for picture in data["pictures"]} == {""}


def test_a_sample_of_too_many_images_is_said(report, tiny_bundle, dataset, monkeypatch):
    monkeypatch.setattr("kdx.workflows.report.gather._MOST_PIXELS", 2 * 64 * 64)
    result, data = report(tiny_bundle, dataset, "--max-images", 5)
    assert (result["sampled"], result["images_found"], len(data["images"])) == (True, 8, 5)
    assert "A sample of 5 of 8 images" in result["notes"][0]
    assert "sample of 2 of these images" in result["notes"][1]


def test_unreadable_images_are_named_or_stop_it(cli, report, tiny_bundle, dataset_copy, tmp_path):
    (dataset_copy / "test/good/012.png").write_bytes(b"<b>no image</b>")
    stderr = cli("report", tiny_bundle, dataset_copy, "-o", tmp_path / "x.html", "--no-latency", code=2).stderr
    assert "012.png' is not a readable image" in stderr
    assert not (tmp_path / "x.html").exists()
    result, data = report(tiny_bundle, dataset_copy, "--max-bad-images", 1)
    assert len(result["evaluation"]["bad_images"]) == 1
    assert len(data["images"]) == 7
    assert "012.png' is not a readable image" in unescape((tmp_path / "page.html").read_text(encoding="utf-8"))


def left_half(size: tuple[int, int], target: Path) -> Path:
    mask = Image.new("L", size)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    mask.save(target)
    return target


@pytest.mark.slow
def test_large_frames_in_a_region_of_interest(cli, report, tiled, large_frames, tmp_path):
    bundle = Path(shutil.copytree(tiled / "tile.kdx", tmp_path / "frames.kdx"))
    size = Image.open(next((large_frames / "test/good").iterdir())).size
    cli("roi", bundle, "--set", left_half(size, tmp_path / "left.png"))
    result, data = report(bundle, large_frames)
    assert result["evaluation"] == cli("evaluate", bundle, large_frames, "--json").json
    assert all(picture["peak"][0] < 0.5 for picture in data["pictures"])


@pytest.mark.slow
def test_a_region_of_interest_after_the_calibration(cli, report, bundle_copy, dataset, tmp_path):
    cli("roi", bundle_copy, "--set", left_half((64, 64), tmp_path / "left.png"))
    result, data = report(bundle_copy, dataset)
    assert "was changed after the calibration" in result["notes"][0]
    assert "50 % of the image" in result["notes"][1]
    assert data["calibrated"] is None


@pytest.mark.slow
def test_a_threshold_that_defects_chose_is_said(report, bundle_copy, dataset):
    index = json.loads((bundle_copy / "bundle.json").read_text(encoding="utf-8"))
    index["threshold"]["defects"] = {"images": 4, "misses": 1, "false_rejects": 0, "data_sha256": "0" * 64}
    (bundle_copy / "bundle.json").write_text(json.dumps(index), encoding="utf-8")
    assert "chosen on 4 defective images" in report(bundle_copy, dataset)[0]["notes"][0]


def test_an_output_that_exists_or_cannot_be_written(cli, tiny_bundle, dataset, tmp_path, monkeypatch):
    page = tmp_path / "page.html"
    page.write_text("mine", encoding="utf-8")
    assert "exists already" in cli("report", tiny_bundle, dataset, "-o", page, code=2).stderr
    assert page.read_text(encoding="utf-8") == "mine"
    assert "is a folder" in cli("report", tiny_bundle, dataset, "-o", tmp_path, "--force", code=2).stderr
    access = os.access
    monkeypatch.setattr("kdx.storage.files.os.access", lambda path, mode: mode != os.W_OK and access(path, mode))
    assert "cannot be written" in cli("report", tiny_bundle, dataset, "-o", tmp_path / "new/p.html", code=2).stderr


def test_a_run_is_not_a_bundle(cli, tiny_run, dataset, tmp_path):
    assert "is not a bundle" in cli("report", tiny_run, dataset, "-o", tmp_path / "p.html", code=2).stderr


def test_a_data_set_that_fits_no_camera(cli, raw_bundle, tmp_path):
    (tmp_path / "good").mkdir()
    Image.new("CMYK", (64, 64)).save(tmp_path / "good/x.jpg")
    assert "unsupported kind" in cli("report", raw_bundle, tmp_path, "-o", tmp_path / "p.html", code=2).stderr
