"""Frames are cut and their maps put together without a gap, a seam or a pixel that counts twice."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdx.errors import BackendError, OptionError
from kdx.imaging.tiling import Stitcher, Tiling, _places, plan_tiles
from kdx.runtime.backend import ClosesOnExit, Outputs
from kdx.runtime.tiled import Tiled, graph_backend
from tests.images import solar_cells

# Weights are float32 and sum up to 1 within a few of their roundings.
ROUNDING = 1e-6


def stitch(stitcher: Stitcher, maps: list[np.ndarray], batch: int = 3) -> np.ndarray:
    whole = stitcher.new_map()
    for first in range(0, len(maps), batch):
        stitcher.add(whole, first, np.stack(maps[first : first + batch]))
    return whole


# Where tiles lie


@settings(max_examples=300, deadline=None)
@given(
    tile=st.integers(16, 64),
    more=st.integers(0, 300),
    halo=st.integers(0, 12),
    ramp=st.integers(0, 8),
    step=st.sampled_from([1, 2, 4, 8]),
)
def test_tiles_cover_every_pixel_and_overlap_enough(tile, more, halo, ramp, step):
    frame, overlap = tile + more, 2 * halo + ramp
    try:
        plan = plan_tiles((frame, tile), (tile, tile), overlap=overlap, halo=halo, step=step)
    except OptionError:
        assert tile - max(step, (tile - overlap) // step * step) < overlap or overlap >= tile
        return
    plan.require_fits((tile, tile), (tile, tile))
    assert (plan.rows[0], plan.rows[-1], plan.columns) == (0, frame - tile, [0])
    assert all(0 < after - before <= tile - overlap for before, after in pairwise(plan.rows))
    assert all(start % step == 0 for start in plan.rows[:-1])
    # One fewer could not cover it.
    longest = (tile - overlap) // step * step or step
    assert len(plan.rows) == 1 + -(-more // longest)


def test_a_camera_frame_is_cut_as_expected():
    plan = plan_tiles((2048, 2448), (256, 256), overlap=80, halo=32, step=16)
    assert plan.count == 12 * 14
    assert {after - before for after, before in zip(plan.rows[1:], plan.rows, strict=False)} <= {160, 176}


@pytest.mark.parametrize(
    ("frame", "options", "said"),
    [
        ((200, 300), {}, "smaller than a tile"),
        ((512, 512), {"overlap": 256}, "overlap does not fit"),
        ((512, 512), {"overlap": 60}, "overlap does not fit"),
        ((512, 512), {"overlap": 250, "step": 32}, "overlap does not fit"),
        ((512, 512), {"batch": 0}, "tile batch"),
    ],
)
def test_what_does_not_fit_is_refused(frame, options, said):
    with pytest.raises(OptionError, match=said):
        plan_tiles(frame, (256, 256), **{"overlap": 80, "halo": 32, **options})


@pytest.mark.parametrize(
    "changed",
    [
        {"rows": [0, 100]},
        {"rows": [8, 64]},
        {"rows": []},
        {"rows": [0, 0, 64]},
        {"rows": [0, 64, 32]},
        {"halo": 20},
        {"overlap": 30},
        {"columns": [0, 1, 64]},
        {"frame": (129, 128)},
    ],
)
def test_a_plan_that_leaves_gaps_is_refused(changed):
    plan = {"frame": (128, 128), "rows": [0, 32, 64], "columns": [0, 32, 64], "overlap": 32, "halo": 16, **changed}
    with pytest.raises(OptionError, match="tiles"):
        Tiling(**plan).require_fits((64, 64), (32, 32))


def test_seams_show_only_where_tiles_meet():
    plan = plan_tiles((128, 64), (64, 64), overlap=24, halo=8, seam=0.0123)
    assert plan.shows_seams
    assert "maps are off by up to 1.2 % of their range where tiles meet" in plan.describe(64)
    assert not plan_tiles((128, 64), (64, 64), overlap=24, halo=8, seam=0.01).shows_seams
    assert not plan_tiles((64, 64), (64, 64), overlap=24, halo=8, seam=0.0123).shows_seams


# How maps are put together


def by_hand(plan: Tiling, tile: int, maps: list[np.ndarray]) -> np.ndarray:
    """Blend pixel by pixel: each tile's weight rises linearly after its halo, but not at the
    frame's edge."""
    ramp = max(1, plan.overlap - 2 * plan.halo)

    def weight(position: int, starts: list[int], index: int) -> float:
        inner = position - starts[index] + 0.5
        if not 0 < inner < tile:
            return 0.0
        rise = 1.0 if index == 0 else (inner - plan.halo) / ramp
        fall = 1.0 if index == len(starts) - 1 else (tile - inner - plan.halo) / ramp
        return max(0.0, min(1.0, rise, fall))

    whole = np.zeros(plan.frame)
    for y in range(plan.frame[0]):
        for x in range(plan.frame[1]):
            total = value = 0.0
            for number, map_ in enumerate(maps):
                row, column = divmod(number, len(plan.columns))
                one = weight(y, plan.rows, row) * weight(x, plan.columns, column)
                if one:
                    total += one
                    value += one * map_[y - plan.rows[row], x - plan.columns[column]]
            whole[y, x] = value / total
    return whole


def test_blending_is_what_it_says():
    rng = np.random.default_rng(0)
    plan = plan_tiles((37, 29), (16, 16), overlap=9, halo=3, step=1)
    maps = list(rng.random((plan.count, 16, 16), np.float32))
    ours = stitch(Stitcher(plan, (16, 16), (16, 16)), maps)
    # A product of normalised weights per axis is the normalised product.
    np.testing.assert_allclose(ours, by_hand(plan, 16, maps), atol=ROUNDING)


@pytest.mark.parametrize("overlap", [32, 33, 48], ids=["cut", "a pixel", "blended"])
def test_a_map_of_the_place_alone_comes_back(overlap):
    plan = plan_tiles((200, 250), (64, 64), overlap=overlap, halo=16)
    image = solar_cells(1, (200, 250), 1)[0, :, :, 0].astype(np.float32)
    stitcher = Stitcher(plan, (64, 64), (64, 64))
    maps = [tile[..., 0] for _, tiles in stitcher.batches(image[..., None], 5) for tile in tiles]
    np.testing.assert_allclose(stitch(stitcher, maps), image, rtol=ROUNDING)


def test_neighbours_that_disagree_meet_without_a_step():
    plan = plan_tiles((64, 200), (64, 64), overlap=48, halo=8)
    stitcher = Stitcher(plan, (64, 64), (64, 64))
    maps = [np.full((64, 64), float(number % 2), np.float32) for number in range(plan.count)]
    whole = stitch(stitcher, maps)
    # Over a ramp of 32 pixels, and no steeper where three tiles meet.
    assert np.abs(np.diff(whole, axis=1)).max() <= 2 / 32


def test_what_lies_in_the_halo_never_counts():
    plan = plan_tiles((64, 150), (64, 64), overlap=40, halo=16)
    maps = []
    for number in range(plan.count):
        one = np.zeros((64, 64), np.float32)
        if number > 0:
            one[:, :16] = 1e6
        if number < plan.count - 1:
            one[:, -16:] = 1e6
        maps.append(one)
    assert stitch(Stitcher(plan, (64, 64), (64, 64)), maps).max() == 0


def test_maps_smaller_than_their_tiles():
    plan = plan_tiles((128, 192), (64, 64), overlap=32, halo=8, step=4)
    stitcher = Stitcher(plan, (64, 64), (16, 16))
    image = solar_cells(1, (128, 192), 1)[0]
    maps = [
        tile[..., 0].reshape(16, 4, 16, 4).mean((1, 3)) for _, tiles in stitcher.batches(image, 4) for tile in tiles
    ]
    expected = image[..., 0].reshape(32, 4, 48, 4).mean((1, 3))
    np.testing.assert_allclose(stitch(stitcher, maps), expected, rtol=1e-5)


def dense_weights(starts: list[int], length: int, overlap: int, halo: int) -> np.ndarray:
    """Return the weight of each tile at each pixel of a line of the frame's map, ``(T, W)``."""
    ramp = max(1, overlap - 2 * halo)
    raw = np.zeros((len(starts), starts[-1] + length))
    for index, start in enumerate(starts):
        inner = np.arange(length) + 0.5
        rise = np.ones(length) if index == 0 else np.clip((inner - halo) / ramp, 0, 1)
        fall = np.ones(length) if index == len(starts) - 1 else np.clip((length - halo - inner) / ramp, 0, 1)
        raw[index, start : start + length] = np.minimum(rise, fall)
    return (raw / raw.sum(axis=0)).astype(np.float32)


@pytest.mark.parametrize(
    ("frame", "overlap", "halo", "step"),
    [(64, 0, 0, 1), (200, 0, 0, 1), (1000, 47, 7, 1), (999, 32, 16, 8), (700, 56, 3, 4)],
)
def test_weights_are_to_the_bit_those_of_all_tiles_at_once(frame, overlap, halo, step):
    starts = plan_tiles((frame, 64), (64, 64), overlap=overlap, halo=halo, step=step).rows
    expected = dense_weights(starts, 64, overlap, halo)
    for place, start, dense in zip(_places(starts, 64, overlap, halo), starts, expected, strict=True):
        (used,) = np.nonzero(dense)
        assert (place.outside.start, place.outside.stop) == (used[0], used[-1] + 1)
        assert (place.inside.start, place.inside.stop) == (used[0] - start, used[-1] + 1 - start)
        assert place.weights.tobytes() == dense[place.outside].tobytes()


def test_the_memory_of_weights_grows_with_a_frame_and_not_with_its_square():
    plan = plan_tiles((16384, 64), (64, 64), overlap=24, halo=8, step=8)
    tracemalloc.start()
    try:
        Stitcher(plan, (64, 64), (64, 64))
        assert tracemalloc.get_traced_memory()[1] < 1 << 21  # a float64 of each tile and pixel took 50 MiB
    finally:
        tracemalloc.stop()


# What runs them


class Local(ClosesOnExit):
    """A graph whose map is the image: what is cut and joined right comes back."""

    name = "local"

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.closed = False

    def run(self, images):
        self.batches.append(len(images))
        maps = images[..., 0].astype(np.float32)
        maps[images[..., 0] == 255] = np.nan
        return Outputs(maps, maps.max(axis=(1, 2))[:, None])

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def tiled():
    plan = plan_tiles((100, 140), (64, 64), overlap=24, halo=8, batch=4)
    return Tiled(Local(), Stitcher(plan, (64, 64), (64, 64)))


def test_a_frame_goes_through_in_batches_and_its_score_is_its_maximum(tiled):
    frames = np.minimum(solar_cells(2, (100, 140), 1), 254)
    outputs = tiled.run(frames)
    np.testing.assert_allclose(outputs.maps, frames[..., 0], rtol=ROUNDING)
    assert outputs.scores[:, 0].tolist() == outputs.maps.max(axis=(1, 2)).tolist()
    assert outputs.scores.shape == (2, 1)
    assert tiled.graph.batches == [4, 2, 4, 2]


def test_a_value_that_is_no_number_reaches_the_score(tiled):
    frame = np.zeros((1, 100, 140, 1), np.uint8)
    frame[0, 50, 70] = 255
    assert np.isnan(tiled.run(frame).scores).all()


@pytest.mark.parametrize("shape", [(1, 64, 64, 1), (0, 100, 140, 1), (100, 140, 1)])
def test_other_frames_are_refused(tiled, shape):
    with pytest.raises(BackendError, match="another size than the one that the tiles were planned for"):
        tiled.run(np.zeros(shape, np.uint8))


def test_batches_are_no_larger_than_an_engine_takes():
    graph = Local()
    graph.max_batch = 2
    plan = plan_tiles((100, 140), (64, 64), overlap=24, halo=8, batch=4)
    Tiled(graph, Stitcher(plan, (64, 64), (64, 64))).run(np.zeros((1, 100, 140, 1), np.uint8))
    assert graph.batches == [2, 2, 2]


def test_closing_closes_the_graph(tiled):
    graph = graph_backend(tiled)
    assert isinstance(graph, Local)
    with tiled:
        pass
    assert graph.closed
    assert graph_backend(graph) is graph
