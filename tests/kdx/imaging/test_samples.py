"""Which of many images stand for all of them."""

from __future__ import annotations

from itertools import pairwise

import pytest

from kdx.imaging.samples import evenly


@pytest.mark.parametrize(
    ("count", "most"), [(1, 1), (5, 1), (5, 8), (8, 8), (200, 200), (201, 200), (1000, 200), (65, 64)]
)
def test_as_many_as_may_be_are_taken_evenly_spread(count, most) -> None:
    """A fixed step would take 101 of 201 where 200 may be taken."""
    found = evenly(range(count), most)
    assert len(found) == min(count, most) == len(set(found))
    assert found[0] == 0
    assert most == 1 or found[-1] == count - 1
    gaps = {later - earlier for earlier, later in pairwise(found)}
    assert not gaps or max(gaps) - min(gaps) <= 1
