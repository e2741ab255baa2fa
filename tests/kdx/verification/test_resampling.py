"""The bootstrap over frames, compared with plain loops and with scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from kdx.verification import resampling
from kdx.verification.resampling import RESAMPLES, aurocs, draws, interval, shares, thresholds, thresholds_of_others


@pytest.mark.parametrize("digits", [1, 6])
def test_areas_of_resamples_are_scikit_learns_of_repeated_images(digits) -> None:
    rng = np.random.default_rng(digits)
    good, defects = rng.normal(0, 1, 20).round(digits), rng.normal(1, 1, 45).round(digits)  # with and without ties
    good_drawn, defects_drawn = next(draws(20, 45))
    found = aurocs(good, defects, good_drawn, defects_drawn)
    for area, *counts in list(zip(found, good_drawn, defects_drawn, strict=True))[:30]:
        scores = np.concatenate([np.repeat(good, counts[0].astype(int)), np.repeat(defects, counts[1].astype(int))])
        assert area == pytest.approx(roc_auc_score(np.repeat([0, 1], [20, 45]), scores), abs=1e-12)


@pytest.mark.parametrize("above", [0, 1, 2, 5])
def test_thresholds_are_those_of_a_plain_loop(above) -> None:
    scores = np.random.default_rng(above).normal(size=9).round(1)  # with ties
    (drawn,) = next(draws(9))
    drawn = np.concatenate([drawn[:60], [[9.0, *[0.0] * 8]]])  # all others undrawn
    all_of, others = thresholds(scores, drawn, above), thresholds_of_others(scores, drawn, above)
    for row, counts in enumerate(drawn.astype(int)):
        assert all_of[row] == np.sort(np.repeat(scores, counts))[-1 - above]
        for thing in range(9):
            rest = np.sort(np.repeat(np.delete(scores, thing), np.delete(counts, thing)))
            assert others[row, thing] == (rest[-1 - above] if len(rest) > above else -np.inf)


def test_as_many_are_drawn_as_there_are_from_each_set_separately() -> None:
    first, second = (np.concatenate(each) for each in zip(*draws(10, 10), strict=True))
    assert first.shape == (RESAMPLES, 10)
    assert (first.sum(1) == 10).all()
    assert (second.sum(1) == 10).all()
    assert abs(np.corrcoef(first[:, 0], second[:, 0])[0, 1]) < 5 / np.sqrt(RESAMPLES)


def test_resamples_are_the_same_each_time() -> None:
    np.testing.assert_array_equal(next(draws(9))[0], next(draws(9))[0])


def test_an_interval_is_the_bootstraps_of_a_plain_loop() -> None:
    """Both are of random resamples: their ends agree to a fraction of the interval's width."""
    rng = np.random.default_rng(3)
    marked = rng.random(30) < 0.4
    found = interval(shares(np.broadcast_to(marked, drawn.shape), drawn) for (drawn,) in draws(30))
    expected = np.quantile([marked[rng.integers(0, 30, 30)].mean() for _ in range(RESAMPLES)], [0.025, 0.975])
    np.testing.assert_allclose(found, expected, atol=0.1 * np.ptp(expected))


def test_resamples_without_a_defect_do_not_count() -> None:
    good, defects = np.array([0.1, 0.2, 0.3]), np.array([0.5])
    good_drawn, drawn = np.array([[3.0, 0, 0], [0, 3.0, 0]]), np.array([[0.0], [2.0]])
    found = aurocs(good, defects, good_drawn, drawn)
    np.testing.assert_array_equal(found, [np.nan, 1.0])
    np.testing.assert_array_equal(shares(np.ones((2, 1), bool), drawn), [np.nan, 1.0])
    assert interval([found]) == (1.0, 1.0)


@pytest.mark.parametrize(("frames", "least"), [(12, 0.85), (40, 0.9)])
def test_intervals_cover_the_difference_of_further_images(frames, least, monkeypatch) -> None:
    """Two detectors whose areas differ, on images with three defects each; three standard errors
    off."""
    monkeypatch.setattr(resampling, "RESAMPLES", 500)
    rng = np.random.default_rng(frames)

    def drawn(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
        part = rng.normal(0, 1, count)  # what a good image and its defects have in common
        return [
            (part + rng.normal(0, 0.5, count), np.tile(part, 3) + rng.normal(shift, 1, 3 * count))
            for shift in (1.5, 1.2)
        ]

    truth = np.subtract(*(float((defects[:, None] > good).mean()) for good, defects in drawn(1500)))
    count, covered = 150, 0
    for _ in range(count):
        first, second = drawn(frames)
        low, high = interval(
            aurocs(*first, of_frames, np.tile(of_frames, 3)) - aurocs(*second, of_frames, np.tile(of_frames, 3))
            for (of_frames,) in draws(frames)
        )
        covered += low <= truth <= high
    assert covered / count >= least - 3 * np.sqrt(least * (1 - least) / count)
    assert covered < count, "an interval that covers always is too wide"
