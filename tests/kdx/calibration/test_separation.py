"""A detector that does not find the defects is named, and one that does is not."""

from __future__ import annotations

import numpy as np
import pytest

from kdx.calibration.separation import separation_remarks


def test_scores_of_chance_are_named_and_separated_ones_are_not():
    generator = np.random.default_rng(0)
    good, defective = generator.normal(size=200), generator.normal(size=25)
    (found,) = separation_remarks(good, defective)
    assert (found.kind, found.count) == ("not_separated", 25)
    assert "do not score significantly higher than 200 good ones" in found.text
    assert separation_remarks(good, defective + 2) == []
    (lower,) = separation_remarks(good, defective - 2)  # worse than chance
    assert "(p = 1)" in lower.text


@pytest.mark.parametrize(("good", "defective"), [(3, 2), (1, 18), (1, 1), (0, 9), (9, 0)])
def test_so_few_images_that_no_scores_could_pass_say_nothing(good, defective):
    assert separation_remarks(np.arange(good, dtype=float) + 9, np.arange(defective, dtype=float)) == []


def test_the_p_value_is_that_of_all_orders_of_the_scores():
    # Of the 20 ways to place 3 of 6 scores, one is as high as this, and two as high as the other.
    assert separation_remarks(np.array([1.0, 2, 3]), np.array([4.0, 5, 6])) == []  # p = 1/20
    (found,) = separation_remarks(np.array([1.0, 2, 4]), np.array([3.0, 5, 6]))
    assert "(p = 0.1)" in found.text
