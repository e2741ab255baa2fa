"""Which of many images stand for all of them, and what of an image the graph takes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdx.imaging.images import InputSpec
from kdx.imaging.samples import evenly, plan_of, read_sample
from kdx.imaging.tiling import plan_tiles


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


TILE = InputSpec(height=64, width=64, channels=1)
TILING = plan_tiles((96, 160), (64, 64), overlap=16, halo=8)


def noise(path: Path, size: tuple[int, int]) -> np.ndarray:
    pixels = np.random.default_rng(size).integers(0, 256, size).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.mark.parametrize(("size", "tiles"), [((96, 160), 6), ((150, 130), 9), ((64, 100), 2), ((64, 64), 1)])
def test_tiles_are_cut_from_an_image_of_any_size_at_its_own_scale(tmp_path, size, tiles) -> None:
    path = tmp_path / "piece.png"
    pixels = noise(path, size)
    plan = plan_of(path, TILE, TILING)
    assert plan.count == tiles
    corners = [(row, column) for row in plan.rows for column in plan.columns]
    for index, (row, column) in enumerate(corners):
        found = read_sample(path, TILE, TILING, (index + 0.5) / len(corners))
        assert (found[..., 0] == pixels[row : row + 64, column : column + 64]).all()


def test_an_image_that_is_smaller_than_a_tile_is_enlarged_to_one(tmp_path) -> None:
    noise(tmp_path / "small.png", (60, 100))
    assert plan_of(tmp_path / "small.png", TILE, TILING) is None
    assert read_sample(tmp_path / "small.png", TILE, TILING, 0.5).shape == (64, 64, 1)
