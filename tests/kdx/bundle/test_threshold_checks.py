"""A threshold that contradicts the scores stored beside it is found when a bundle is opened."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from kdx.bundle.manifest import INDEX
from kdx.bundle.open import open_bundle
from kdx.bundle.stored_threshold import DefectChoice
from kdx.bundle.threshold_checks import require_calibrated
from kdx.calibration.rates import best_split, quantile_with_interval, review_band, scores_to_keep
from kdx.errors import BundleError


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
    found = calibrated(threshold, count, rate, review=min(0.9, 1.5 * rate))
    require_calibrated(found, Path("tile.kdx"))
    for other in (-1.0, found.scores[0] - 1, found.scores[-1] + 1):
        with pytest.raises(BundleError, match="its threshold does not fit its held-out scores"):
            require_calibrated(msgspec.structs.replace(found, score=other), Path("tile.kdx"))
        band = msgspec.structs.replace(found.review, score=other)
        with pytest.raises(BundleError, match="its review band does not fit"):
            require_calibrated(msgspec.structs.replace(found, review=band), Path("tile.kdx"))


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
