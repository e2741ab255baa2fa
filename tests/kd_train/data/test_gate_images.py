"""Which defects are drawn on which of a few good images."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from kd_train.data.gate_images import DrawnDefects
from kd_train.data.synthetic import KINDS


def test_streams_draw_other_defects():
    """INT8's scales must not be fitted on the very defects on which its gate judges them."""
    good = [np.full((32, 32, 3), 40 * index, np.uint8) for index in range(1, 4)]
    gate, again, scales = (list(DrawnDefects(good, 0, None, stream)) for stream in (0, 0, 1))
    assert len(gate) == len(scales) == 9
    assert all(np.array_equal(*pair) for pair in zip(gate, again, strict=True))
    assert not any(np.array_equal(*pair) for pair in zip(gate, scales, strict=True))


@pytest.mark.parametrize("count", range(2, 13))
def test_few_images_each_have_every_kind_of_defect(monkeypatch, count):
    monkeypatch.setattr("kd_train.data.gate_images.draw_within", lambda draw, image, *_: ((draw, image), None))
    drawn = defaultdict(list)
    for draw, image in DrawnDefects(range(count), 0):
        drawn[image].append(draw)
    assert len(drawn) == count
    assert all(len(found) == len(KINDS) and set(found) == set(KINDS.values()) for found in drawn.values())
