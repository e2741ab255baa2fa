"""Thresholds that a person sets: stored with the reason, said wherever they are shown, and counted
on the images of the calibration."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from scipy.stats import binomtest

import kdx
from kdx.bundle.manifest import BY_HAND_SCHEMA, INDEX, SCHEMA
from kdx.bundle.open import open_bundle
from kdx.calibration.by_hand import Consequences, GivenThreshold, consequences, given_threshold, require_reachable
from kdx.calibration.rates import share_interval
from kdx.errors import BundleError, OptionError
from kdx.workflows.calibrate import CalibrationRequest, calibrate_folder
from tests.images import DEFECTS, published_folder

ORT = ("--backend", "onnxruntime-cpu")
REASON = "the customer accepts stains below 2 mm [line 3]"


def scores_of(bundle: Path, folder: Path) -> np.ndarray:
    with kdx.load(bundle, "onnxruntime-cpu", 1, precision="fp32") as detector:
        return np.array([detector(kdx.read_image(path, detector.input)).score for path in sorted(folder.iterdir())])


@pytest.fixture(scope="module", params=DEFECTS)
def real(request, tmp_path_factory, tiny_bundle) -> tuple[str, Path, Path, Path]:
    """A published data set's name, a bundle that tests may calibrate, and folders of good and of
    defective images."""
    folder = tmp_path_factory.mktemp(request.param)
    good, defects = published_folder(folder, request.param, good=20, defective=8)
    return request.param, Path(shutil.copytree(tiny_bundle, folder / "tile.kdx")), good, defects


def test_what_the_number_would_have_meant_is_said_wherever_it_is_shown(real, cli, tmp_path):
    data_set, bundle, good, defects = real
    scores, of_defects = np.sort(scores_of(bundle, good)), scores_of(bundle, defects)
    number, review = float(scores[16:18].mean()), float(scores[11:13].mean())
    options = ("--threshold", number, "--review", review, "--reason", REASON, "--with-defects", defects, *ORT)
    said = cli("calibrate", bundle, good, *options, "--json").json
    misses = int((of_defects <= number).sum())
    found = said["by_hand"]
    assert (found["good"], found["false_rejects"], found["to_review"]) == (20, 3, 5)
    assert (found["defective"], found["misses"]) == (8, misses)
    for interval, events, trials in (("false_rejects_interval", 3, 20), ("misses_interval", misses, 8)):
        expected = binomtest(events, trials).proportion_ci(0.95, "exact")
        assert found[interval] == pytest.approx([expected.low, expected.high])
    stored = open_bundle(bundle).manifest.threshold
    assert (stored.score, stored.review.score, stored.pixel) == (number, review, number)
    assert (stored.by_hand.reason, stored.by_hand.score, stored.by_hand.review_score) == (REASON, number, review)
    assert (stored.interval, stored.review.interval) == ((None, None), (None, None))
    with kdx.load(bundle, "onnxruntime-cpu", 1, precision="fp32") as detector:
        assert (detector.threshold, detector.review_threshold) == (number, review)
        assert detector.threshold_by_hand == REASON
    shown = [cli("calibrate", bundle, good, *options).stdout, cli("inspect", bundle).stdout]
    if data_set == "magnetic_tile":
        cli("report", bundle, good, "-o", tmp_path / "report.html", "--no-latency", *ORT)
        shown.append((tmp_path / "report.html").read_text(encoding="utf-8"))
    for text in shown:
        assert f"set by hand: {REASON}; rejects 3 of 20 held-out good images (15 %, 95 % interval 3.2 to 38 %)" in text
        assert f"puts 5 aside for review, misses {misses} of 8 defective images" in text
    assert f"threshold {number:.6g}, set by hand: {REASON}" in cli("verify", bundle, *ORT).stdout
    assert cli("verify", bundle, *ORT, "--json").json["threshold_by_hand"] == REASON
    assert f"threshold set by hand: {REASON}" in cli("predict", bundle, good, *ORT).stdout
    lines = cli("predict", bundle, good, *ORT, "--json").lines
    assert {line["threshold_by_hand"] for line in lines} == {REASON}
    assert sum(line["verdict"] == "defective" for line in lines) == 3
    # A rate takes it away.
    cli("calibrate", bundle, good, "--false-reject-rate", 0.2, *ORT)
    assert "by_hand" not in (bundle / INDEX).read_text(encoding="utf-8")


@pytest.mark.parametrize(("number", "rejected"), [(8.0, 0), (0.0, 20)])
def test_numbers_beyond_all_scores_are_counted_too(real, number, rejected):
    _, bundle, good, _ = real
    request = CalibrationRequest(backend="onnxruntime-cpu", by_hand=GivenThreshold(number, None, "to see"))
    threshold = calibrate_folder(bundle, good, request).exact.threshold
    assert (threshold.score, threshold.false_rejects) == (number, rejected)
    assert consequences(threshold).false_rejects_interval == share_interval(rejected, 20)
    assert open_bundle(bundle).manifest.threshold == threshold


@pytest.mark.parametrize("options", [("--threshold", -3), ("--threshold", 9), ("--threshold", 1, "--review", -1)])
def test_a_number_that_no_score_can_reach_is_refused(bundle_copy, cells, cli, options):
    before = (bundle_copy / INDEX).read_bytes()
    error = cli("calibrate", bundle_copy, cells, *options, "--reason", REASON, "--json", code=2).json["error"]
    assert "no score of this bundle can reach" in error["message"]
    # A product of three halves of squared distances of unit vectors, each of which is 0 to 2.
    assert error["expected"] == "0 to 8.02346"
    assert (bundle_copy / INDEX).read_bytes() == before


def test_the_range_of_scores_follows_the_declaration(bundle_copy):
    manifest = open_bundle(bundle_copy).manifest
    summed = msgspec.structs.replace(manifest, pair_spec={**manifest.pair_spec, "score": "sum"})
    given = GivenThreshold(100.0, None, REASON)
    require_reachable(given, summed, per_position=False)
    require_reachable(given, manifest, per_position=True)  # a level map widens the range
    weighted = msgspec.structs.replace(manifest.provenance, border_weights=[(20.0, 1.0)])
    require_reachable(given, msgspec.structs.replace(manifest, provenance=weighted), per_position=False)
    for is_leveled in (False, True):
        with pytest.raises(OptionError, match="no score of this bundle can reach"):
            require_reachable(GivenThreshold(-1.0, None, REASON), summed, per_position=is_leveled)


@pytest.mark.parametrize(
    ("rejected", "said"), [(20, "100 %, 95 % interval 83 to 100 %"), (3, "15 %, 95 % interval 3.2 to 38 %")]
)
def test_shares_are_said_in_plain_decimals(rejected, said):
    found = Consequences(
        good=20, false_rejects=rejected, false_rejects_interval=share_interval(rejected, 20), to_review=0,
        defective=0, misses=0, misses_interval=None,
    )  # fmt: skip
    assert found.describe() == f"rejects {rejected} of 20 held-out good images ({said})"


def test_a_server_is_told_too(bundle_copy, cells, cli, tmp_path):
    pytest.importorskip("kd_export", reason="model repositories are written with the training packages")
    reason = 'a "quoted" reason \\ with a backslash'
    request = CalibrationRequest(backend="onnxruntime-cpu", by_hand=GivenThreshold(0.4, None, reason))
    calibrate_folder(bundle_copy, cells, request)
    cli("triton", bundle_copy, "-o", tmp_path / "models", "--backend", "onnxruntime", "--precision", "fp32")
    (config,) = (tmp_path / "models").rglob("config.pbtxt")
    assert json.dumps(reason) in config.read_text(encoding="utf-8")


def test_earlier_releases_are_told_that_they_are_too_old(bundle_copy, cells, cli):
    request = CalibrationRequest(backend="onnxruntime-cpu", by_hand=GivenThreshold(0.4, None, "to see"))
    calibrate_folder(bundle_copy, cells, request)
    assert open_bundle(bundle_copy).manifest.schema == BY_HAND_SCHEMA
    calibrate_folder(bundle_copy, cells, CalibrationRequest(0.1, backend="onnxruntime-cpu"))
    assert open_bundle(bundle_copy).manifest.schema == SCHEMA


@pytest.mark.parametrize("per_position", [True, False])
def test_a_number_for_scores_on_another_scale_is_refused(bundle_copy, cells, per_position):
    calibrate_folder(bundle_copy, cells, CalibrationRequest(0.2, backend="onnxruntime-cpu", per_position=per_position))
    before = (bundle_copy / INDEX).read_bytes()
    by_hand = GivenThreshold(2.5, None, "a bit stricter")
    request = CalibrationRequest(backend="onnxruntime-cpu", by_hand=by_hand, per_position=not per_position)
    with pytest.raises(OptionError, match="on another scale than the scores"):
        calibrate_folder(bundle_copy, cells, request)
    assert (bundle_copy / INDEX).read_bytes() == before


@pytest.mark.parametrize("change", [("score", -1.0), ("score", 1e9), ("review", 1e9)])
def test_a_number_that_was_edited_contradicts_the_count(bundle_copy, cells, change):
    scores = scores_of(bundle_copy, cells)
    low, middle = (float(np.quantile(scores, share)) for share in (0.3, 0.6))
    request = CalibrationRequest(backend="onnxruntime-cpu", by_hand=GivenThreshold(middle, low, "to see"))
    calibrate_folder(bundle_copy, cells, request)
    index = json.loads((bundle_copy / INDEX).read_text(encoding="utf-8"))
    name, value = change
    part = index["threshold"] if name == "score" else index["threshold"]["review"]
    part["score"] = value
    (bundle_copy / INDEX).write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(BundleError, match="does not fit its held-out scores") as caught:
        open_bundle(bundle_copy)
    assert "good images exceed" in caught.value.expected


def test_other_scores_get_the_number_on_their_own_scale():
    exact = np.array([0.0, 1.0, 2.0, 4.0])
    given = GivenThreshold(10.0, 5.0, "to see")
    assert given.on_scale_of(exact, None) is given
    assert given.on_scale_of(1.1 * exact, exact) == GivenThreshold(
        pytest.approx(11), pytest.approx(5.5), "to see", pytest.approx(1.1)
    )
    assert given.on_scale_of(exact, np.zeros(4)) is given  # no ratio to go by


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((float("nan"), None, "why"), "`threshold` is not a finite number"),
        ((float("inf"), None, "why"), "`threshold` is not a finite number"),
        ((1.0, float("nan"), "why"), "`review` is not a finite number"),
        ((1.0, 2.0, "why"), "the review band is empty"),
        ((1.0, 1.0, "why"), "the review band is empty"),
        ((1.0, None, None), "needs a reason"),
        ((1.0, None, " \n "), "needs a reason"),
        ((1.0, None, "x" * 501), "needs a reason"),
        ((None, 0.5, None), "`review` belongs to a threshold that is set by hand"),
        ((None, None, "why"), "`reason` belongs to a threshold that is set by hand"),
    ],
)
def test_what_is_no_threshold_is_refused(given, said):
    with pytest.raises(OptionError) as caught:
        given_threshold(*given)
    assert said in caught.value.message
    assert caught.value.fix or caught.value.expected


def test_a_reason_is_one_line():
    assert given_threshold(1, None, " two\nlines\t of it ").reason == "two lines of it"
    assert given_threshold(None, None, None) is None


def test_the_command_names_its_flags(cli, tiny_bundle, dataset):
    before = open_bundle(tiny_bundle).manifest.threshold
    said = {
        ("--threshold", "nan", "--reason", "why"): "--threshold is not a finite number",
        ("--threshold", 0.4): "say why it is this number: --reason TEXT",
        ("--review", 0.3): "add --threshold SCORE",
        ("--threshold", 0.4, "--reason", "why", "--review", 0.5): "--review below the threshold of 0.4",
        ("--threshold", 0.4, "--reason", "why", "--false-reject-rate", 0.1): "--threshold is not chosen by a rate",
        ("--threshold", 0.4, "--reason", "why", "--review-rate", 0.1): "--threshold is not chosen by a rate",
    }
    for options, text in said.items():
        assert text in cli("calibrate", tiny_bundle, dataset, *options, *ORT, code=2).stderr
    assert open_bundle(tiny_bundle).manifest.threshold == before
