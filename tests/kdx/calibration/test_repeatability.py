"""The figures of a type-1 study, on scores that are known."""

from __future__ import annotations

import numpy as np
import pytest

from kdx.calibration.repeatability import apart, repeatability
from kdx.decision.verdict import Decision
from kdx.errors import DataError

GOOD, DEFECTIVE = Decision.GOOD, Decision.DEFECTIVE


def study(scores, threshold: float = 2.0, good=()):
    values = np.array(scores, float)
    return repeatability(values, [DEFECTIVE if each > threshold else GOOD for each in values], threshold, good)


def test_the_figures_are_those_of_the_formulas():
    # Deviations of 0.1 from 1: the sum of squares is 0.1, and with n - 1 = 9 the variance 1/90.
    found = study([0.9, 1.1] * 5, good=[0.0, 1.0, 2.0])
    sigma = (0.1 / 9) ** 0.5
    assert (found.images, found.mean, found.sigma) == (10, pytest.approx(1), pytest.approx(sigma))
    assert (found.range, found.smallest, found.largest) == (pytest.approx(0.2), 0.9, 1.1)
    assert found.cg == pytest.approx(0.2 * 2.0 / (6 * sigma))
    assert found.margin == pytest.approx(1.0)
    assert found.margin_in_sigmas == pytest.approx(1 / sigma)
    assert found.decision_capability == pytest.approx(1 / (3 * sigma))
    # The quantiles of chi-squared with 9 degrees of freedom, from tables.
    assert found.sigma_interval == pytest.approx((sigma * (9 / 19.0228) ** 0.5, sigma * (9 / 2.70039) ** 0.5), rel=1e-5)
    assert (found.verdicts, found.changed) == ({"good": 10}, 0)
    assert (found.sigma_of_good, found.is_mixed) == (pytest.approx(1.0), False)


def test_the_interval_holds_the_standard_deviation_as_often_as_it_says():
    generator = np.random.default_rng(0)
    intervals = [study(row).sigma_interval for row in generator.normal(1, 0.3, size=(1000, 12))]
    assert np.mean([low <= 0.3 <= high for low, high in intervals]) == pytest.approx(0.95, abs=0.02)


def test_verdicts_that_change_are_counted():
    found = study([1.9] * 9 + [2.1] * 3)
    assert (found.verdicts, found.changed) == ({"good": 9, "defective": 3}, 3)
    assert found.margin == pytest.approx(2 - found.mean)
    assert study([2.9, 3.1] * 5).margin < 0  # a defective part


@pytest.mark.parametrize("threshold", [0.0, -1.0])
def test_a_threshold_that_is_no_tolerance_gives_no_cg(threshold):
    found = study([0.9, 1.1] * 5, threshold)
    assert found.cg is None
    assert found.margin_in_sigmas == pytest.approx((1 - threshold) / found.sigma)


@pytest.mark.parametrize(("score", "count"), [(1.0, 10), (0.1, 50), (0.123456, 30)])
def test_scores_that_are_all_the_same_have_no_ratio(score, count):
    found = study([score] * count)
    assert (found.sigma, found.cg, found.margin_in_sigmas, found.decision_capability) == (0, None, None, None)


def test_too_few_images_are_no_study():
    with pytest.raises(DataError, match="too few images of the part") as caught:
        study([1.0] * 9)
    assert (caught.value.received, "50" in caught.value.expected) == ("9", True)


@pytest.mark.parametrize(("factor", "mixed"), [(0.5, False), (1.0, True), (3.0, True)])
def test_a_spread_as_of_different_parts_is_named(factor, mixed):
    scores = np.array([0.9, 1.1] * 5)
    good = 1 + (scores - 1) / factor
    assert study(scores, good=good).is_mixed is mixed
    assert study(scores).is_mixed is False  # nothing to compare with


def test_scores_far_from_the_others_lie_apart():
    scores = np.random.default_rng(1).normal(1, 0.01, 50)
    assert not apart(scores).any()
    scores[[7, 30]] = 1.2, 0.5
    assert np.flatnonzero(apart(scores)).tolist() == [7, 30]
    assert np.flatnonzero(apart(np.array([1.0] * 20 + [1.5]))).tolist() == [20]
    assert not apart(np.ones(10)).any()
