"""Conformal p-values, and scores in units of the threshold, wherever verdicts are written."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

import kdx
from kdx.bundle.open import open_bundle
from kdx.calibration.by_hand import GivenThreshold
from kdx.calibration.rates import scores_to_keep
from kdx.decision.good_scores import GoodScores
from kdx.decision.verdict import Decision, Verdict
from kdx.workflows.calibrate import CalibrationRequest, calibrate_folder
from tests.images import DEFECTS, published_folder

ORT = ("--backend", "onnxruntime-cpu")


@pytest.fixture(scope="module")
def stored(tiny_bundle):
    return open_bundle(tiny_bundle).manifest.threshold


def held_out(stored, scores, images: int | None = None) -> GoodScores | None:
    count = len(scores) if images is None else images
    return GoodScores.of(msgspec.structs.replace(stored, scores=[float(each) for each in scores], images=count))


def test_the_p_value_is_the_share_of_good_images_that_score_as_high(stored):
    four = held_out(stored, [1, 2, 2, 5])
    found = [four.p_value(score) for score in (0, 1, 1.5, 2, 3, 5, 6)]
    assert found == pytest.approx([1, 1, 0.8, 0.8, 0.4, 0.4, 0.2])
    assert [four.p_value(score) for score in (np.nan, np.inf, -np.inf)] == [None] * 3


def test_quantiles_of_very_many_images_give_the_largest_value_that_they_allow(stored):
    assert [held_out(stored, [1, 5, 9], 9).p_value(score) for score in (5, 6, 10)] == [0.9, 0.5, 0.1]
    values = np.random.default_rng(0).gamma(9.0, size=4321)
    kept = held_out(stored, scores_to_keep(values), 4321)
    for score in np.quantile(values, np.linspace(0, 1, 50)):
        exact = (1 + (values >= score).sum()) / 4322
        assert exact <= kept.p_value(score) <= exact + 5 / 4322  # a kept score is at most 5 ranks away


def test_good_parts_have_small_p_values_as_seldom_as_promised(stored):
    generator = np.random.default_rng(1)
    draws = generator.normal(size=(2000, 20))
    found = [held_out(stored, np.sort(row[:19])).p_value(row[19]) for row in draws]
    for level in (0.05, 0.1, 0.5):
        assert np.mean(np.array(found) <= level) == pytest.approx(level, abs=0.03)


@pytest.mark.parametrize("scores", [[], [1.0, 2.0, 3.0]])
def test_without_scores_there_is_none(stored, scores):
    assert held_out(stored, scores, images=2) is None


@pytest.mark.parametrize(("threshold", "relative"), [(2.0, 0.5), (0.25, 4.0), (None, None), (0.0, None), (-1.0, None)])
def test_scores_are_in_units_of_a_threshold_above_0(threshold, relative):
    verdict = Verdict(Decision.GOOD, 1.0, threshold, np.zeros((2, 2), np.float32))
    assert verdict.relative_score == relative
    assert verdict.margin == (None if relative is None else relative - 1)


@pytest.mark.parametrize("data_set", DEFECTS)
def test_real_images_have_the_p_values_of_their_calibration(tiny_bundle, cli, tmp_path, data_set):
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "tile.kdx"))
    good, defects = published_folder(tmp_path / "images", data_set, good=20, defective=4)
    calibrate_folder(bundle, good, CalibrationRequest(0.2, backend="onnxruntime-cpu"))
    lines = cli("predict", bundle, good, defects, *ORT, "--json").lines
    scores = np.array([line["score"] for line in lines])
    of_good = scores[:20]
    for line in lines:
        assert line["p_value"] == pytest.approx((1 + (of_good >= line["score"]).sum()) / 21)
        assert (line["relative_score"], line["held_out_images"]) == (line["score"] / line["threshold"], 20)
        assert (line["verdict"] == "defective") == (line["relative_score"] > 1)
    shown = cli("predict", bundle, defects, *ORT).stdout
    assert "from 20 held-out good images; the least that they can show is 0.048" in shown
    # A number by hand changes the unit, and not the p-values.
    number = float(np.median(of_good))
    request = CalibrationRequest(backend="onnxruntime-cpu", by_hand=GivenThreshold(number, None, "to see"))
    calibrate_folder(bundle, good, request)
    for before, now in zip(lines, cli("predict", bundle, good, defects, *ORT, "--json").lines, strict=True):
        assert (now["p_value"], now["relative_score"]) == (before["p_value"], now["score"] / number)


def test_a_bundle_of_an_older_kdx_has_none_and_says_so(bundle_copy, dataset, cli):
    opened = open_bundle(bundle_copy)
    opened.with_thresholds(msgspec.structs.replace(opened.manifest.threshold, scores=[]))
    (line,) = cli("predict", bundle_copy, dataset / "test/good/012.png", *ORT, "--json").lines
    assert (line["p_value"], line["held_out_images"]) == (None, 0)
    assert line["relative_score"] == line["score"] / line["threshold"]
    shown = cli("predict", bundle_copy, dataset / "test/good/012.png", *ORT).stdout
    assert "no p-values: the calibration is of an older kdx, which kept no scores; calibrate again" in shown


def test_other_regions_and_bundles_without_a_threshold_have_none(tiny_bundle, raw_bundle, frame):
    mask = np.full(frame.shape[:2], 255, np.uint8)
    mask[:, :20] = 0
    with kdx.load(tiny_bundle, "onnxruntime-cpu", 1, precision="fp32") as detector:
        assert detector(frame).p_value is not None
        verdict = detector(frame, roi=mask)
        assert (verdict.p_value, verdict.held_out_images, verdict.relative_score) == (None, 0, None)
    with kdx.load(raw_bundle, "onnxruntime-cpu", 1) as detector:
        assert (detector(frame).p_value, detector(frame).held_out_images) == (None, 0)
