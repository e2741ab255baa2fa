"""From every tap's distances to map and score in one launch: upsample, combine, blur, maximum.

A program makes one tile of the map. It upsamples the taps by looking up four neighbours, for the
tile and as far around it as the blur reaches, combines them, and blurs by two products with the
tile's parts of the constant matrices, which are dense: ``G_h P G_wᵀ``. Sums are computed as
products are, though ``G U`` could be one matrix, so that there is one kernel to get right. What is
recomputed around a tile (fourfold at sigma 4) costs less than a launch and a trip through memory.

The score needs every tile. The last program to finish an image reduces what all of them left, in a
fixed order, so the same input gives the same score to the last bit, as a sum by atomic additions
would not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from kd_export.graph.distance import EPSILON
from kernels.launch import Launch

TILE = 32
# Of the surroundings of a tile, held at once: all of them up to sigma 4 (32 + 2 · 16).
BLOCK = 64
# What each tile leaves: maximum, minimum, sum, sum of squares.
STATISTICS = 4

NO_SCORE, OWN_SCORE, PRODUCT_OF_SCORES = range(3)
_NO_SCORE, _PRODUCT_OF_SCORES = tl.constexpr(NO_SCORE), tl.constexpr(PRODUCT_OF_SCORES)


@triton.jit
def _upsampled(
    distances, tables, image, rows, columns, size: tl.constexpr, tap: tl.constexpr, height: tl.constexpr,
    width: tl.constexpr, first: tl.constexpr,
):  # fmt: skip
    """Return one tap's distances, upsampled, at some rows and columns; anything outside."""
    low_rows, row_fractions, low_columns, column_fractions = tables
    top = tl.load(low_rows + tap * size[0] + rows, mask=rows < size[0], other=0)
    below = tl.load(row_fractions + tap * size[0] + rows, mask=rows < size[0], other=0.0)[:, None]
    left = tl.load(low_columns + tap * size[1] + columns, mask=columns < size[1], other=0)[None, :]
    beside = tl.load(column_fractions + tap * size[1] + columns, mask=columns < size[1], other=0.0)[None, :]
    right = tl.minimum(left + 1, width - 1)
    start = distances + first * tl.num_programs(2) + image * height * width
    upper = start + (top * width)[:, None]
    lower = start + (tl.minimum(top + 1, height - 1) * width)[:, None]
    at_top = tl.load(upper + left) * (1.0 - beside) + tl.load(upper + right) * beside
    at_bottom = tl.load(lower + left) * (1.0 - beside) + tl.load(lower + right) * beside
    return at_top * (1.0 - below) + at_bottom * below


@triton.jit
def _combined(
    distances, factor_map, factor, tables, image, rows, columns, size: tl.constexpr, taps: tl.constexpr,
    is_product: tl.constexpr,
):  # fmt: skip
    """Return the taps, upsampled and combined, at some rows and columns; finite outside."""
    for tap in tl.static_range(len(taps)):
        part = _upsampled(distances, tables, image, rows, columns, size, tap, taps[tap][0], taps[tap][1], taps[tap][2])
        if not is_product:
            part = part * taps[tap][3]
        if tap == 0:
            combined = part
        elif is_product:
            combined = combined * part
        else:
            combined = combined + part
    if factor_map is not None:
        inside = (rows < size[0])[:, None] & (columns < size[1])[None, :]
        pixels = image.to(tl.int64) * size[0] * size[1] + rows[:, None] * size[1] + columns[None, :]
        combined = combined * (tl.load(factor_map + pixels, mask=inside, other=0.0) * factor)
    return combined


@triton.jit
def _blurred(
    distances, factor_map, factor, tables, bands, image, tile_y, tile_x, size: tl.constexpr, taps: tl.constexpr,
    is_product: tl.constexpr, reach: tl.constexpr, tile: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Return a tile of the blurred combination."""
    row_bands, first_rows, column_bands, first_columns = bands
    within = tl.arange(0, tile)
    near = tl.arange(0, block)
    rows = tl.load(first_rows + tile_y) + near
    columns = tl.load(first_columns + tile_x) + near
    row_band = row_bands + (tile_y * tile + within)[:, None] * reach[0] + near[None, :]
    column_band = column_bands + (tile_x * tile + within)[None, :] * reach[1] + near[:, None]
    result = tl.zeros((tile, tile), tl.float32)
    for x in range(0, reach[1], block):
        blurred = tl.zeros((tile, block), tl.float32)
        for y in range(0, reach[0], block):
            combined = _combined(
                distances, factor_map, factor, tables, image, rows + y, columns + x, size, taps, is_product
            )
            # TF32 would leave ten bits of a product of distances.
            blurred = tl.dot(tl.load(row_band + y), combined, blurred, input_precision="ieee")
        result = tl.dot(blurred, tl.load(column_band + x), result, input_precision="ieee")
    return result


@triton.jit
def _write_statistics(statistics, tile_index, result, inside, tiles: tl.constexpr):
    """Leave a tile's maximum, minimum, sum and sum of squares."""
    tl.store(statistics + tile_index, tl.max(tl.where(inside, result, -float("inf"))))
    tl.store(statistics + tile_index + tiles, tl.min(tl.where(inside, result, float("inf"))))
    tl.store(statistics + tile_index + 2 * tiles, tl.sum(tl.where(inside, result, 0.0)))
    tl.store(statistics + tile_index + 3 * tiles, tl.sum(tl.where(inside, result * result, 0.0)))


@triton.jit
def _read_score(statistics, is_sum: tl.constexpr, tiles: tl.constexpr, block: tl.constexpr):
    """Return an image's score from what its tiles left."""
    index = tl.arange(0, block)
    inside = index < tiles
    # Other programs of this launch may have written them: the first-level cache does not know of
    # that.
    total = tl.sum(tl.load(statistics + index + 2 * tiles, mask=inside, other=0.0, cache_modifier=".cg"))
    if is_sum:
        return total
    maximum = tl.max(tl.load(statistics + index, mask=inside, other=-float("inf"), cache_modifier=".cg"))
    # A maximum passes over NaN, a sum does not; a fault must reach the score.
    return tl.where(total == total, maximum, total)


@triton.jit
def _read_factor(statistics, epsilon: tl.constexpr, tiles: tl.constexpr, block: tl.constexpr):
    """Return a map's normalisation and weight (MixedTeacher Eq. 11; ``Confirmed`` of the tail)."""
    index = tl.arange(0, block)
    inside = index < tiles
    maximum = tl.max(tl.load(statistics + index, mask=inside, other=-float("inf")))
    minimum = tl.min(tl.load(statistics + index + tiles, mask=inside, other=float("inf")))
    squares = tl.sum(tl.load(statistics + index + 3 * tiles, mask=inside, other=0.0))
    return (maximum - minimum) * tl.rsqrt(squares + epsilon)


@triton.jit
def map_kernel(
    distances, factor_map, other_statistics, tables, bands, anomaly_map, statistics, finished, score,
    size: tl.constexpr, taps: tl.constexpr, is_product: tl.constexpr, reach: tl.constexpr, score_rule: tl.constexpr,
    score_is_sum: tl.constexpr, epsilon: tl.constexpr, tiles: tl.constexpr, block_tiles: tl.constexpr,
    tile: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Axes 0 and 1 are the tiles of the map, columns first; axis 2 is the batch."""
    tile_x = tl.program_id(0)
    tile_y = tl.program_id(1)
    image = tl.program_id(2)
    factor = 1.0
    if factor_map is not None:
        factor = _read_factor(other_statistics + image * 4 * tiles, epsilon, tiles, block_tiles)
    rows = tile_y * tile + tl.arange(0, tile)
    columns = tile_x * tile + tl.arange(0, tile)
    if bands is None:
        result = _combined(distances, factor_map, factor, tables, image, rows, columns, size, taps, is_product)
    else:
        result = _blurred(
            distances, factor_map, factor, tables, bands, image, tile_y, tile_x, size, taps, is_product, reach, tile,
            block,
        )  # fmt: skip
    inside = (rows < size[0])[:, None] & (columns < size[1])[None, :]
    if anomaly_map is not None:
        pixels = image.to(tl.int64) * size[0] * size[1] + rows[:, None] * size[1] + columns[None, :]
        tl.store(anomaly_map + pixels, result, mask=inside)
    own = statistics + image * 4 * tiles
    _write_statistics(own, tile_y * tl.num_programs(0) + tile_x, result, inside, tiles)
    if score_rule != _NO_SCORE:
        # All stores of this program come before its count, and the last to count sees those of all
        # the others.
        tl.debug_barrier()
        before = tl.atomic_add(finished + image, 1, sem="acq_rel")
        if before == tiles - 1:
            value = _read_score(own, score_is_sum, tiles, block_tiles)
            if score_rule == _PRODUCT_OF_SCORES:
                value *= _read_score(other_statistics + image * 4 * tiles, score_is_sum, tiles, block_tiles)
            tl.store(score + image, value)


@dataclass(frozen=True)
class MapPlan:
    """What is constant of a map.

    Attributes:
        size: Its height and width.
        taps: Of each tap: height, width, where it begins among one image's positions, and its
            weight in a sum.
        is_product: Whether the taps are multiplied.
        reach: How many rows and columns a tile's blur reads, in whole blocks; (0, 0) without blur.
    """

    size: tuple[int, int]
    taps: tuple[tuple[int, int, int, float], ...]
    is_product: bool
    reach: tuple[int, int]

    @property
    def tiles(self) -> tuple[int, int]:
        """Tiles down and across."""
        return triton.cdiv(self.size[0], TILE), triton.cdiv(self.size[1], TILE)


@dataclass(frozen=True)
class MapOutputs:
    """What a map's launch writes.

    Attributes:
        anomaly_map: FP32 ``(N, H, W)``, or None where nobody reads it.
        statistics: FP32 ``(N, STATISTICS, tiles)``.
        finished: int32 ``(N,)``, zero before the launch that makes the score; it counts tiles.
        score: FP32 ``(N, 1)``.
    """

    anomaly_map: Tensor | None
    statistics: Tensor
    finished: Tensor
    score: Tensor


def map_launch(
    plan: MapPlan,
    distances: Tensor,
    tables: tuple[Tensor, ...],
    bands: tuple[Tensor, ...] | None,
    outputs: MapOutputs,
    *,
    confirmed_by: MapOutputs | None = None,
    score_rule: int = NO_SCORE,
    score_of: MapOutputs | None = None,
    score_is_sum: bool = False,
) -> Launch:
    """Return the launch that makes one map.

    Args:
        plan: The map.
        distances: Every tap's, as :func:`kernels.distance.distance_launch` leaves them.
        tables: Where each row and column of the map lies in each tap:
            :func:`kernels.tables.bilinear_tables`.
        bands: The blur: :func:`kernels.tables.blur_bands` of the rows and of the columns; None for
            none.
        outputs: What it writes.
        confirmed_by: The map that multiplies this one before the blur (``Join.CONFIRMED``).
        score_rule: ``NO_SCORE``, ``OWN_SCORE`` or ``PRODUCT_OF_SCORES``.
        score_of: The map whose score is multiplied.
        score_is_sum: Whether the score is the map's sum; otherwise its maximum.
    """
    tiles = plan.tiles[0] * plan.tiles[1]
    other = confirmed_by or score_of
    constants: dict[str, Any] = {
        "size": plan.size,
        "taps": plan.taps,
        "is_product": plan.is_product,
        "reach": plan.reach,
        "score_rule": score_rule,
        "score_is_sum": score_is_sum,
        "epsilon": EPSILON,
        "tiles": tiles,
        "block_tiles": triton.next_power_of_2(tiles),
        "tile": TILE,
        "block": BLOCK,
    }
    arguments = (
        distances,
        confirmed_by.anomaly_map if confirmed_by else None,
        other.statistics if other else None,
        tables,
        bands,
        outputs.anomaly_map,
        outputs.statistics,
        outputs.finished,
        outputs.score,
    )
    grid = (plan.tiles[1], plan.tiles[0], outputs.score.shape[0])
    return Launch(map_kernel, grid, arguments, constants, warps=8 if bands else 4)
