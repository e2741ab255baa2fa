"""Which defects are drawn on which of a few good images."""

from __future__ import annotations

from collections import defaultdict

import pytest

from kd_train.data.gate_images import DrawnDefects
from kd_train.data.synthetic import KINDS


@pytest.mark.parametrize("count", range(2, 13))
def test_few_images_each_have_every_kind_of_defect(monkeypatch, count):
    monkeypatch.setattr("kd_train.data.gate_images.draw_within", lambda draw, image, *_: ((draw, image), None))
    drawn = defaultdict(list)
    for draw, image in DrawnDefects(range(count), 0):
        drawn[image].append(draw)
    assert len(drawn) == count
    assert all(len(found) == len(KINDS) and set(found) == set(KINDS.values()) for found in drawn.values())
