"""The C library applies review bands, regions of interest and level maps as Python does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import kdx
from kdx.bundle.manifest import LEVEL
from kdx.bundle.open import open_bundle
from kdx.bundle.store import write_manifest
from kdx.calibration.by_hand import GivenThreshold
from kdx.decision.good_scores import GoodScores
from kdx.errors import BundleError
from kdx.workflows.calibrate import CalibrationRequest, calibrate_folder
from tests.embed.build import DECISIONS, CallError, Detector, missing
from tests.frames import FRAME, write_frames
from tests.images import DEFECTS, published_folder

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

ROI_SET, ROI_CHANGED = 1, 2


def test_the_review_band_is_pythons(library, bundle, tmp_path):
    copy = Path(shutil.copytree(bundle, tmp_path / "tile.kdx"))
    opened = open_bundle(copy)
    images, scores = opened.golden().images, np.sort(opened.golden().scores[:, 0])
    # A third of the golden images on either side of the band, and no score on an edge of it.
    low, high = (float((scores[at - 1] + scores[at]) / 2) for at in (len(scores) // 3, 2 * len(scores) // 3))
    index = json.loads((copy / "bundle.json").read_text(encoding="utf-8"))
    band = {"score": low, "false_reject_rate": 0.5, "interval": [None, None]}
    index["threshold"] |= {"score": high, "review": band, "scores": []}
    (copy / "bundle.json").write_text(json.dumps(index), encoding="utf-8")
    with (
        kdx.load(copy, backend="openvino", threads=1, precision="fp32") as expected,
        Detector(library, copy, "fp32") as detector,
    ):
        assert detector.takes.review_threshold == expected.review_threshold == low
        theirs = [expected(image).decision.value for image in images]
        assert [DECISIONS[detector(image)[0].decision] for image in images] == theirs
    assert set(theirs) == {"good", "review", "defective"}


@pytest.mark.parametrize("data_set", DEFECTS)
def test_p_values_and_relative_scores_of_real_images_are_pythons(library, bundle, tmp_path, data_set):
    copy = Path(shutil.copytree(bundle, tmp_path / "tile.kdx"))
    good, defects = published_folder(tmp_path / "images", data_set, good=20, defective=5)
    calibrate_folder(copy, good, CalibrationRequest(0.2, backend="openvino"))
    held_out = GoodScores.of(open_bundle(copy).manifest.threshold)
    with (
        kdx.load(copy, backend="openvino", threads=1, precision="fp32") as expected,
        Detector(library, copy, "fp32") as detector,
    ):
        for path in (*sorted(good.iterdir()), *sorted(defects.iterdir())):
            image = kdx.read_image(path, expected.input)
            ours, theirs = detector(image)[0], expected(image)
            assert (ours.p_value, ours.held_out_images) == (held_out.p_value(ours.score), 20)
            # Scores may differ in their last digits, so that an equal one ranks on either side.
            assert ours.p_value == pytest.approx(theirs.p_value, abs=1.5 / 21)
            assert ours.relative_score == ours.score / ours.threshold == pytest.approx(theirs.relative_score, rel=1e-4)
        mask = np.full(image.shape[:2], 255, np.uint8)
        mask[:, :20] = 0
        other = detector(image, mask)[0]
        assert (np.isnan(other.p_value), np.isnan(other.relative_score), other.held_out_images) == (True, True, 0)
    index = json.loads((copy / "bundle.json").read_text(encoding="utf-8"))
    index["threshold"] |= {"score": -1.0, "scores": []}  # as an older kdx would store it, and no unit
    (copy / "bundle.json").write_text(json.dumps(index), encoding="utf-8")
    with Detector(library, copy, "fp32") as detector:
        old = detector(image)[0]
        assert (np.isnan(old.p_value), np.isnan(old.relative_score), np.isnan(old.margin)) == (True,) * 3
        assert DECISIONS[old.decision] == "defective"


def test_a_threshold_by_hand_is_pythons(library, bundle, dataset, tmp_path):
    copy = Path(shutil.copytree(bundle, tmp_path / "tile.kdx"))
    golden = np.sort(open_bundle(copy).golden().scores[:, 0])
    number, review = (float((golden[at - 1] + golden[at]) / 2) for at in (len(golden) // 2, len(golden) // 4))
    request = CalibrationRequest(backend="openvino", by_hand=GivenThreshold(number, review, "stains may pass µ"))
    calibrate_folder(copy, dataset, request)
    with (
        kdx.load(copy, backend="openvino", threads=1, precision="fp32") as expected,
        Detector(library, copy, "fp32") as detector,
    ):
        takes = detector.takes
        assert (takes.threshold, takes.review_threshold) == (number, review)
        assert (expected.threshold, expected.review_threshold) == (number, review)
        assert takes.threshold_by_hand.decode() == expected.threshold_by_hand == "stains may pass µ"
        assert takes.said == b""
    index = json.loads((copy / "bundle.json").read_text(encoding="utf-8"))
    for edited in (index["threshold"], index["threshold"]["review"]):
        was, edited["score"] = edited["score"], -1.0
        (copy / "bundle.json").write_text(json.dumps(index), encoding="utf-8")
        with pytest.raises(CallError, match="a threshold does not fit its held-out scores"):
            Detector(library, copy, "fp32")
        edited["score"] = was
    with Detector(library, bundle, "fp32") as detector:
        assert detector.takes.threshold_by_hand == b""


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_region_of_interest_is_pythons(library, bundle, dataset, tmp_path, cli, precision):
    copy = Path(shutil.copytree(bundle, tmp_path / "tile.kdx"))
    images = open_bundle(copy).golden().images
    mask = np.full(images[0].shape[:2], 255, np.uint8)
    mask[:, : mask.shape[1] // 3] = mask[41, 50] = 0
    Image.fromarray(mask).save(tmp_path / "roi.png")
    cli("roi", copy, "--set", tmp_path / "roi.png")
    with Detector(library, copy, precision) as detector:  # the threshold is of whole images
        assert detector.takes.roi == ROI_CHANGED
        assert np.isnan(detector.takes.threshold)
        assert DECISIONS[detector(images[0])[0].decision] == "undecided"
        report = detector.selftest()
        assert (report.passed, b"region of interest was changed" in report.said) == (0, True)
    cli("calibrate", copy, dataset, "--false-reject-rate", 0.2)
    other = np.ascontiguousarray(mask[::-1])
    with (
        kdx.load(copy, backend="openvino", threads=1, precision=precision) as expected,
        Detector(library, copy, precision) as detector,
    ):
        assert (detector.takes.roi, detector.takes.threshold) == (ROI_SET, expected.threshold)
        for image in images:
            for roi in (None, mask, other):
                (ours, anomaly_map), theirs = detector(image, roi), expected(image, roi=roi)
                assert ours.score == pytest.approx(theirs.score, rel=1e-5)
                np.testing.assert_allclose(anomaly_map, theirs.anomaly_map, rtol=1e-5, atol=1e-5 * theirs.score)
                assert DECISIONS[ours.decision] == theirs.decision.value
                assert (theirs.decision is kdx.Decision.UNDECIDED) == (roi is other)
        report = detector.selftest()
        assert (report.passed, report.flips, report.said) == (1, 0, b"")
        for wrong, said in (
            (mask // 2, "other values"),
            (mask * 0, "includes nothing"),
            (mask | 255, "excludes nothing"),
        ):
            with pytest.raises(CallError, match=said):
                detector(images[0], wrong)
        with pytest.raises(CallError, match="does not accept"):
            detector(images[0], mask[1:])


@pytest.mark.slow
def test_the_region_of_interest_of_large_frames_is_of_frames(library, tiled, large_frames, tmp_path, cli):
    bundle = Path(shutil.copytree(tiled / "tile.kdx", tmp_path / "tile.kdx"))
    mask = np.full(FRAME, 255, np.uint8)
    mask[:, 90:] = 0  # the scratches
    Image.fromarray(mask).save(tmp_path / "roi.png")
    cli("roi", bundle, "--set", tmp_path / "roi.png")
    cli("calibrate", bundle, large_frames, "--false-reject-rate", 0.2)
    assert cli("verify", bundle, "--json").json["passed"] is True
    with (
        kdx.load(bundle, backend="openvino", threads=1, precision="fp32") as expected,
        kdx.load(tiled / "tile.kdx", backend="openvino", threads=1, precision="fp32") as whole,
        Detector(library, bundle, "fp32") as detector,
    ):
        assert detector.takes.roi == ROI_SET
        for name in ("test/good/000.png", "test/scratch/000.png"):
            frame = kdx.read_image(large_frames / name, expected.input)
            (ours, anomaly_map), theirs = detector(frame), expected(frame)
            assert theirs.score == whole(frame).anomaly_map[expected.roi.counted].max() == theirs.anomaly_map.max()
            assert ours.score == pytest.approx(theirs.score, rel=1e-5)
            assert DECISIONS[ours.decision] == theirs.decision.value
            np.testing.assert_allclose(anomaly_map, theirs.anomaly_map, atol=1e-5 * theirs.score)
        report = detector.selftest()
        assert report.passed, report.said


@pytest.fixture(scope="module")
def levelled(bundle, cells, tmp_path_factory, cli) -> Path:
    """A bundle with a region of interest, calibrated per position in every precision."""
    copy = Path(shutil.copytree(bundle, tmp_path_factory.mktemp("levelled") / "tile.kdx"))
    mask = np.full(open_bundle(copy).golden().images[0].shape[:2], 255, np.uint8)
    mask[:, : mask.shape[1] // 3] = 0
    Image.fromarray(mask).save(copy.parent / "roi.png")
    cli("roi", copy, "--set", copy.parent / "roi.png")
    cli("calibrate", copy, cells, "--per-position", "--false-reject-rate", 0.2)
    return copy


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_normalisation_per_position_is_pythons(library, levelled, precision):
    opened = open_bundle(levelled)
    with (
        kdx.load(levelled, backend="openvino", threads=1, precision=precision) as expected,
        Detector(library, levelled, precision) as detector,
    ):
        own = opened.manifest.threshold_of(precision, "openvino")
        assert np.isnan(detector.takes.threshold) if own is None else detector.takes.threshold == own.score
        assert own is None or own.level == opened.manifest.threshold.level
        for image in opened.golden().images:
            (ours, anomaly_map), theirs = detector(image), expected(image)
            assert ours.score == pytest.approx(theirs.score, rel=1e-5)
            np.testing.assert_allclose(anomaly_map, theirs.anomaly_map, rtol=1e-5, atol=1e-5 * theirs.score)
            assert DECISIONS[ours.decision] == theirs.decision.value
        report = detector.selftest()
        assert (report.passed, report.flips, report.said) == (1, 0 if own else -1, b"")


def test_a_level_map_needs_no_known_distance(library, levelled, tmp_path):
    copy = Path(shutil.copytree(levelled, tmp_path / "tile.kdx"))
    index = json.loads((copy / "bundle.json").read_text(encoding="utf-8"))
    del index["pair_spec"]["score"]  # the default: max
    index["pair_spec"]["maps"][0]["taps"][0]["distance"] = "manhattan"
    (copy / "bundle.json").write_text(json.dumps(index), encoding="utf-8")
    frame = open_bundle(levelled).golden().images[0]
    with Detector(library, levelled, "fp32") as expected, Detector(library, copy, "fp32") as detector:
        assert detector(frame)[0].score == expected(frame)[0].score
    with kdx.load(copy, "openvino", 1, precision="fp32") as detector:
        assert detector(frame).score == pytest.approx(kdx.load(levelled, "openvino", 1, precision="fp32")(frame).score)


@pytest.mark.slow
def test_the_level_of_large_frames_is_of_frames(library, tiled, tmp_path, cli):
    bundle = Path(shutil.copytree(tiled / "tile.kdx", tmp_path / "tile.kdx"))
    write_frames(tmp_path / "frames", {"trained": 34, "good": 12})
    cli("calibrate", bundle, tmp_path / "frames/good", "--per-position", "--false-reject-rate", 0.2)
    with (
        kdx.load(bundle, backend="openvino", threads=1, precision="fp32") as expected,
        Detector(library, bundle, "fp32") as detector,
    ):
        for path in sorted((tmp_path / "frames/good").iterdir())[:2]:
            frame = kdx.read_image(path, expected.input)
            (ours, anomaly_map), theirs = detector(frame), expected(frame)
            assert ours.score == pytest.approx(theirs.score, rel=1e-5)
            assert DECISIONS[ours.decision] == theirs.decision.value
            np.testing.assert_allclose(anomaly_map, theirs.anomaly_map, rtol=1e-5, atol=1e-5 * theirs.score)
        report = detector.selftest()
        assert (report.passed, report.flips) == (1, -1), report.said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (None, "position_level.npy"),
        (lambda level: level[1:], "does not fit the map"),
        (lambda level: level.reshape(-1), "does not fit the map"),
        (lambda level: level * 0, "finite values above 0"),
        (lambda level: -level, "finite values above 0"),
        (lambda level: level * np.float32(np.nan), "finite values above 0"),
        (lambda level: level.astype(np.float64), "does not hold float32"),
    ],
)
def test_invalid_level_maps_are_refused_as_by_python(library, levelled, tmp_path, change, said):
    copy = Path(shutil.copytree(levelled, tmp_path / "tile.kdx"))
    manifest = open_bundle(copy).manifest
    if change is None:
        (copy / LEVEL).unlink()
    else:
        np.save(copy / LEVEL, change(np.load(copy / LEVEL)))
        write_manifest(copy, manifest)
    with pytest.raises(BundleError):
        open_bundle(copy)
    with pytest.raises(CallError, match=said):
        Detector(library, copy)


def test_a_threshold_of_another_level_decides_nothing(library, levelled, tmp_path):
    copy = Path(shutil.copytree(levelled, tmp_path / "tile.kdx"))
    manifest = open_bundle(copy).manifest
    np.save(copy / LEVEL, np.load(copy / LEVEL) * np.float32(1.5))
    write_manifest(copy, manifest)
    with Detector(library, copy, "fp32") as detector:
        assert np.isnan(detector.takes.threshold)
        assert DECISIONS[detector(open_bundle(copy).golden().images[0])[0].decision] == "undecided"
        assert b"the level map was changed" in detector.selftest().said
