"""A threshold that contradicts the scores stored beside it is found when a bundle is opened."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import msgspec
import numpy as np
import pytest

from kdx.bundle.manifest import BY_HAND_SCHEMA, INDEX
from kdx.bundle.manifest_checks import require_consistent
from kdx.bundle.open import open_bundle
from kdx.bundle.store import write_manifest
from kdx.bundle.stored_threshold import ByHand, DefectChoice, ReviewBand
from kdx.bundle.threshold_checks import require_calibrated, require_given
from kdx.calibration.rates import best_split, quantile_with_interval, review_band, scores_to_keep
from kdx.errors import BundleError
from kdx.imaging.tiling import Tiling


def calibrated(like, count: int, rate: float, review: float | None = None):
    """Return a threshold as ``kdx calibrate`` stores it for so many good images."""
    values = np.random.default_rng(count).gamma(9.0, size=count)
    score, interval = quantile_with_interval(values, rate)
    return msgspec.structs.replace(
        like,
        score=score,
        false_reject_rate=rate,
        interval=interval,
        images=count,
        scores=scores_to_keep(values),
        review=None if review is None else review_band(values, review, score),
    )


@pytest.fixture(scope="module")
def threshold(tiny_bundle):
    return open_bundle(tiny_bundle).manifest.threshold


@pytest.mark.parametrize("count", [2, 8, 99, 100, 999, 1000, 1001, 1999, 2000, 12_345])
@pytest.mark.parametrize("rate", [0.5, 0.4, 0.1112, 0.01, 0.001])
def test_what_was_calibrated_is_accepted_and_no_other_rank(threshold, count, rate):
    if count + 1 < 1 / rate:
        return  # too few images for that rate
    found = calibrated(threshold, count, rate, review=min(0.9, 2.5 * rate))
    require_calibrated(found, Path("tile.kdx"))
    for other in (-1.0, found.scores[0] - 1, found.scores[-1] + 1):
        with pytest.raises(BundleError, match="its threshold does not fit its held-out scores"):
            require_calibrated(msgspec.structs.replace(found, score=other), Path("tile.kdx"))
        band = msgspec.structs.replace(found.review, score=other)
        with pytest.raises(BundleError, match="its review band does not fit"):
            require_calibrated(msgspec.structs.replace(found, review=band), Path("tile.kdx"))


@pytest.mark.parametrize("images", [0, 5, 19])
def test_more_scores_than_images_are_refused(threshold, images):
    found = msgspec.structs.replace(calibrated(threshold, 20, 0.2), score=1e9, images=images)
    with pytest.raises(BundleError, match="more held-out scores than there were images"):
        require_calibrated(found, Path("tile.kdx"))


@pytest.mark.parametrize("images", [-1, 2**31, 2**63, 2**70])
def test_numbers_of_images_that_the_c_library_cannot_hold_are_refused(bundle_copy, images):
    index = json.loads((bundle_copy / INDEX).read_text(encoding="utf-8"))
    index["threshold"]["images"] = images
    (bundle_copy / INDEX).write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(BundleError, match=r"images|out of range"):
        open_bundle(bundle_copy)


def test_scores_that_are_not_in_order_are_refused(threshold):
    found = calibrated(threshold, 20, 0.2)  # the threshold is the 17th of 20 scores
    edited = [99.0 if each == found.score else each for each in found.scores]  # as sed does
    with pytest.raises(BundleError, match="which are out of order"):
        require_calibrated(msgspec.structs.replace(found, score=99.0, scores=edited), Path("tile.kdx"))


def test_a_threshold_chosen_on_defects_rejects_as_many_good_images_as_it_says(threshold):
    good, defective = np.arange(1.0, 21.0), np.arange(18.0, 30.0)
    score = best_split(good, defective)
    choice = DefectChoice(images=12, misses=0, false_rejects=int((good > score).sum()), data_sha256="")
    found = msgspec.structs.replace(
        threshold, score=score, defects=choice, images=20, scores=scores_to_keep(good), review=None
    )
    require_calibrated(found, Path("tile.kdx"))
    with pytest.raises(BundleError, match="its threshold does not fit") as caught:
        require_calibrated(msgspec.structs.replace(found, score=99.0), Path("tile.kdx"))
    assert caught.value.expected == "one that 3 of 20 good images exceed"
    assert caught.value.received == "99, which 0 exceed"


def by_hand(like, score: float, review: float | None, given: tuple[float, float | None] = (0.8, 0.4), count: int = 9):
    """Return a threshold that a person set to ``given``, with another score and review band."""
    band = None if review is None else ReviewBand(score=review, false_reject_rate=0.0, interval=(None, None))
    record = ByHand(score=given[0], review_score=given[1], reason="to see", defects=None)
    scores = scores_to_keep(np.linspace(0.1, 0.3, count))
    return msgspec.structs.replace(
        like, score=score, review=band, by_hand=record, images=count, scores=scores, false_reject_rate=0.0
    )


@pytest.mark.parametrize("count", [9, 1001])  # of more than 1,000 images, no score is counted
@pytest.mark.parametrize(("score", "review"), [(0.81, 0.4), (0.8, 0.41), (0.88, 0.44), (0.8, None), (99.0, 98.0)])
def test_a_threshold_by_hand_is_the_number_that_was_given(threshold, count, score, review):
    require_given(by_hand(threshold, 0.8, 0.4, count=count), Path("tile.kdx"), is_scaled=False)
    edited = by_hand(threshold, score, review, count=count)
    require_calibrated(edited, Path("tile.kdx"))  # no good image exceeds it, as before
    with pytest.raises(BundleError, match="is not the number given") as caught:
        require_given(edited, Path("tile.kdx"), is_scaled=False)
    assert (caught.value.expected, f"{score:g}, " in caught.value.received) == ("0.8, a review band from 0.4", True)


@pytest.mark.parametrize(
    ("score", "review", "given", "fits"),
    [
        (0.88, 0.44, (0.8, 0.4), True),
        (0.88, 0.45, (0.8, 0.4), False),
        (0.89, 0.44, (0.8, 0.4), False),
        (0.88, None, (0.8, 0.4), False),
        (0.88, 0.44, (0.8, None), False),
        (0.88, None, (0.8, None), True),
        (0.0, -1.1, (0.0, -1.0), True),
        (0.1, -1.1, (0.0, -1.0), False),
        (1 / 3 * 1.0371, 1 / 7 * 1.0371, (1 / 3, 1 / 7), True),
    ],
)
def test_on_another_scale_a_threshold_by_hand_keeps_its_ratio_to_the_review_band(threshold, score, review, given, fits):
    found = by_hand(threshold, score, review, given)
    refused = pytest.raises(BundleError, match="is not the number given")
    with nullcontext() if fits else refused:
        require_given(found, Path("tile.kdx"), is_scaled=True)


@pytest.mark.parametrize("review", [None, 0.4])
def test_on_another_scale_a_threshold_by_hand_is_the_number_times_the_factor(threshold, review):
    low = None if review is None else 1.1 * review
    found = by_hand(threshold, 1.1 * 0.8, low, (0.8, review))
    record = msgspec.structs.replace(found.by_hand, factor=1.1)
    require_given(msgspec.structs.replace(found, by_hand=record), Path("tile.kdx"), is_scaled=True)
    for factor in (1.0, 1.11, float("nan")):
        record = msgspec.structs.replace(found.by_hand, factor=factor)
        edited = msgspec.structs.replace(found, by_hand=record)
        require_calibrated(edited, Path("tile.kdx"))  # as many good images exceed it
        with pytest.raises(BundleError, match="is not the number given") as caught:
            require_given(edited, Path("tile.kdx"), is_scaled=True)
        assert f"multiplied by {factor:g}" in caught.value.expected


@pytest.mark.parametrize("review", [None, 0.4])
def test_the_number_itself_does_not_fit_where_a_factor_is_recorded(threshold, review):
    found = by_hand(threshold, 0.8, review, (0.8, review))
    record = msgspec.structs.replace(found.by_hand, factor=1.1)
    found = msgspec.structs.replace(found, by_hand=record)
    require_given(found, Path("tile.kdx"), is_scaled=False)
    with pytest.raises(BundleError, match="is not the number given"):
        require_given(found, Path("tile.kdx"), is_scaled=True)


def test_a_bundle_whose_threshold_by_hand_was_edited_or_that_an_older_kdx_would_load_is_refused(bundle_copy):
    manifest = open_bundle(bundle_copy).manifest
    given = manifest.with_thresholds(by_hand(manifest.threshold, 0.8, 0.4), {})
    assert open_bundle(write_manifest(bundle_copy, given).path).manifest.schema == BY_HAND_SCHEMA
    write_manifest(bundle_copy, given.with_thresholds(by_hand(manifest.threshold, 0.81, 0.4)))
    with pytest.raises(BundleError, match="is not the number given"):
        open_bundle(bundle_copy)
    for schema in range(1, BY_HAND_SCHEMA):
        write_manifest(bundle_copy, msgspec.structs.replace(given, schema=schema))
        with pytest.raises(BundleError, match="its schema does not hold everything") as caught:
            open_bundle(bundle_copy)
        assert caught.value.received == f"schema {schema}"


def test_a_window_and_bands_need_their_schema_too(bundle_copy):
    manifest = open_bundle(bundle_copy).manifest
    spec = manifest.input
    cropped = msgspec.structs.replace(spec, crop=(0, 0, spec.width, spec.height))
    tiling = Tiling(frame=(spec.height, spec.width), rows=[0], columns=[0], overlap=0, halo=0, bands=True)
    for changed in ({"input": cropped}, {"tiling": tiling}):
        with pytest.raises(BundleError, match="its schema does not hold everything"):
            require_consistent(msgspec.structs.replace(manifest, **changed), bundle_copy)


def test_an_older_bundle_that_kept_no_scores_is_accepted(threshold):
    require_calibrated(msgspec.structs.replace(threshold, score=99.0, scores=[], review=None), Path("tile.kdx"))


@pytest.mark.parametrize("score", [99.0, -1.0, 1e-6])
def test_no_command_takes_an_edited_threshold(cli, bundle_copy, score):
    index = json.loads((bundle_copy / INDEX).read_text(encoding="utf-8"))
    was = index["threshold"]["score"]
    index["threshold"]["score"] = score
    (bundle_copy / INDEX).write_text(json.dumps(index), encoding="utf-8")
    for command in (
        ["predict", bundle_copy, bundle_copy / "golden"],
        ["verify", bundle_copy],
        ["inspect", bundle_copy],
    ):
        said = cli(*command, code=2).stderr
        assert "its threshold does not fit its held-out scores" in said
        assert f"expected: {was:.6g}, for a rate of 0.2" in said
        assert f"received: {score:.6g}" in said
    assert "does not fit its held-out scores" in cli("selftest", bundle_copy, code=1).stdout
