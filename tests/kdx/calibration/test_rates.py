"""Thresholds from scores: what a rate promises, and how many images it takes."""

from __future__ import annotations

import numpy as np
import pytest

from kdx.bundle.stored_threshold import Threshold
from kdx.calibration.rates import quantile_with_interval, review_band, settable_thresholds
from kdx.errors import DataError, OptionError


def test_the_threshold_is_the_score_that_conformal_prediction_names() -> None:
    # n = 99, rate 1 %: k = ceil(100 · 0.99) = 99, the largest score.
    scores = np.random.default_rng(0).permutation(np.arange(1.0, 100.0))
    assert quantile_with_interval(scores, 0.01)[0] == 99.0
    # n = 199, rate 10 %: k = 180.
    assert quantile_with_interval(np.arange(1.0, 200.0), 0.1)[0] == 180.0


def test_too_few_images_name_the_number_needed() -> None:
    with pytest.raises(DataError, match="too few held-out good images") as error:
        quantile_with_interval(np.arange(98.0), 0.01, trained_on=400)
    assert error.value.expected == "at least 99"
    assert "98" in error.value.received
    assert "400" in error.value.received


def test_too_few_images_say_how_many_were_copies() -> None:
    with pytest.raises(DataError) as error:
        quantile_with_interval(np.ones(1), 0.01, copies=119)
    assert error.value.received == "1 held-out good image (119 copies do not count)"
    with pytest.raises(DataError) as error:
        quantile_with_interval(np.ones(2), 0.01, trained_on=6, copies=1)
    assert error.value.received == (
        "2 held-out good images (1 copy does not count, 6 more were trained on and do not count)"
    )


def test_too_few_images_say_why_others_show_no_part() -> None:
    faults = {"a.png": ["black", "uniform"], "b.png": ["white"]}
    with pytest.raises(DataError) as error:
        quantile_with_interval(np.ones(1), 0.01, faults=faults)
    assert error.value.received == "1 held-out good image (2 show no part: 'a.png' is black and uniform)"


def test_the_smallest_rate_is_no_bug() -> None:
    with pytest.raises(DataError, match=r"expected: at least 1000000000000000000"):
        quantile_with_interval(np.ones(100), 5e-324)


def test_the_rate_that_the_error_proposes_is_possible() -> None:
    for count in (1, 7, 58, 98):
        with pytest.raises(DataError) as error:
            quantile_with_interval(np.arange(float(count)), 0.001)
        proposed = float(error.value.fix.rpartition("=")[2].rstrip("`"))
        assert quantile_with_interval(np.arange(float(count)), proposed)[0] == count - 1


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_false_rejects_stay_below_the_rate_and_the_interval_covers_the_quantile(rate) -> None:
    # Over many calibrations: the mean share of further good images above the threshold is at most
    # the rate, and the true quantile lies in the interval at least 95 % of the time; both within
    # three standard errors of 400 trials.
    generator = np.random.default_rng(1)
    rejected, covered, trials = [], 0, 400
    true_quantile = 1 - rate  # of uniform scores
    for _ in range(trials):
        threshold, (low, high) = quantile_with_interval(generator.random(150), rate)
        rejected.append(1 - threshold)
        covered += (low is None or low <= true_quantile) and (high is None or true_quantile <= high)
    assert np.mean(rejected) <= rate + 3 * np.std(rejected) / np.sqrt(trials)
    assert covered / trials >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / trials)


@pytest.mark.parametrize(("images", "kept"), [(1, 1), (6, 6), (152, 152), (1000, 1000), (2503, 1000)])
def test_every_settable_threshold_comes_from_the_rate_beside_it(images, kept) -> None:
    scores = np.sort(np.random.default_rng(0).random(images))
    chosen = scores[np.linspace(0, images - 1, kept).round().astype(int)]
    threshold = Threshold(
        score=0.0, false_reject_rate=0.1, interval=(None, None), confidence=0.95, images=images, data_sha256="",
        graph_sha256="", created="", scores=chosen.tolist(),
    )  # fmt: skip
    found = settable_thresholds(threshold)
    assert [score for score, _, _ in found] == chosen.tolist()
    for score, rate, expected in found:
        assert quantile_with_interval(scores, rate)[0] == score
        # At most so many of n + 1 exchangeable scores exceed it.
        assert expected == pytest.approx((scores >= score).sum() / (images + 1))
        assert expected <= rate + 1e-12


def test_an_end_that_the_images_cannot_bound_is_none() -> None:
    threshold, (low, high) = quantile_with_interval(np.arange(1.0, 101.0), 0.01)
    assert threshold == 100.0
    assert low is not None
    assert high is None


@pytest.mark.parametrize(("scores", "least"), [(np.arange(6.0), 0.3), (np.array([0.0, 1, 2, 5, 5, 5]), 0.6)])
def test_a_review_band_without_scores_is_refused_with_the_rate_that_has_some(scores, least) -> None:
    with pytest.raises(OptionError, match="the review band would be empty") as error:
        review_band(scores, 0.25, threshold=5.0)
    assert error.value.expected == f"a review rate of at least {least:g} with 6 held-out good images"
    assert review_band(scores, least, threshold=5.0).score < 5.0
    with pytest.raises(OptionError, match="empty") as error:
        review_band(scores + 5, 0.9, threshold=5.0)
    assert "which none of 6 held-out good images does" in error.value.expected
