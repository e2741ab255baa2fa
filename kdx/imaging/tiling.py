"""Cutting frames larger than a network's input into overlapping tiles, and blending their maps.

A network pads its input, so a map is inexact near the edges of its tile. That margin, the *halo*,
is discarded, except at the frame's own edges. Where the rest of two tiles overlaps, their maps are
blended linearly along each axis. ``embed/src/tiling.cpp`` cuts the same tiles and blends them in
the same order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Protocol

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from kdx.errors import OptionError

# The largest error of a tile's map outside the halo, as a share of the map's range.
SEAM_TOLERANCE = 0.01

_Start = Annotated[int, msgspec.Meta(ge=0)]
_Length = Annotated[int, msgspec.Meta(ge=1)]


class Tiling(msgspec.Struct, frozen=True, kw_only=True):
    """How a frame is cut into tiles, in pixels of the camera.

    Attributes:
        frame: The height and width of the frame.
        rows: The first pixel row of each row of tiles, ascending. The first is 0; the last tile
            ends with the frame.
        columns: The first pixel column of each column of tiles, ascending, like ``rows``.
        overlap: The smallest overlap of neighbouring tiles.
        halo: The width of the margin of each tile that is discarded, at most half the overlap.
        batch: The number of tiles that the graph processes at once, which bounds the memory.
        seam: The error of a tile's map at the inner edge of the halo, measured at export, as a
            share of its range.
        bands: Whether frames are read in bands of rows, because they may be too large for the
            memory; unset if not.
    """

    frame: tuple[_Length, _Length]
    rows: list[_Start]
    columns: list[_Start]
    overlap: _Start
    halo: _Start
    batch: _Length = 8
    seam: float = 0.0
    bands: bool | UnsetType = UNSET

    @property
    def count(self) -> int:
        """The number of tiles of a frame."""
        return len(self.rows) * len(self.columns)

    @property
    def shows_seams(self) -> bool:
        """Whether tiles meet whose maps differ by more than is tolerated."""
        return self.count > 1 and self.seam > SEAM_TOLERANCE

    def describe(self, tile: int) -> str:
        """Return a text with the tiles of a side, and what they cost."""
        height, width = self.frame
        cost = self.count * tile * tile / (height * width)
        return (
            f"{self.count} tiles of {tile} × {tile}, overlapping by {self.overlap} and more: {cost:.1f} times the "
            f"frame's pixels, {self.batch} tiles at once; {self.halo} pixels at their edges are not used, and maps are "
            f"off by up to {100 * self.seam:.1f} % of their range where tiles meet"
        )

    def require_fits(self, tile: tuple[int, int], map_size: tuple[int, int]) -> None:
        """Raise ``OptionError`` if the tiles do not cover the frame, or their maps do not fit."""
        if self.overlap < 2 * self.halo:
            raise OptionError(
                "the tiles overlap by less than is discarded of them",
                expected=f"an overlap of at least {2 * self.halo} pixels, twice the halo",
                received=f"{self.overlap} pixels",
            )
        for axis, starts in enumerate((self.rows, self.columns)):
            gaps = [after - before for before, after in pairwise(starts)]
            covers = bool(starts) and starts[0] == 0 and starts[-1] + tile[axis] == self.frame[axis]
            if not covers or any(not 0 < gap <= tile[axis] - 2 * self.halo for gap in gaps):
                raise OptionError("the tiles do not cover the frame", received=f"tiles of {tile[axis]} at {starts}")
            scale, rest = divmod(tile[axis], map_size[axis])
            if rest or any(value % scale for value in (*starts, self.halo, self.overlap, self.frame[axis])):
                raise OptionError(
                    "the tiles' maps do not fit together",
                    expected=f"multiples of {tile[axis] / map_size[axis]:g} pixels, which are one pixel of the map",
                    received=f"tiles of {tile[axis]} at {starts}, overlap {self.overlap}, map {map_size[axis]}",
                )


@dataclass(frozen=True)
class TileRequest:
    """The tiling that the user asked for.

    Attributes:
        frame: The height and width of the camera's frames; None for those of training.
        tile: The side of a tile, in the camera's pixels; None for that of training.
        overlap: The smallest overlap of neighbouring tiles, in the camera's pixels; None to measure
            the one needed.
        batch: The number of tiles that the graph processes at once; None for 8.
        bands: Whether frames are read in bands of rows, and may be too large for the memory.
    """

    frame: tuple[int, int] | None = None
    tile: int | None = None
    overlap: int | None = None
    batch: int | None = None
    bands: bool = False


def plan_tiles(
    frame: tuple[int, int],
    tile: tuple[int, int],
    *,
    overlap: int,
    halo: int,
    step: int = 1,
    batch: int = 8,
    seam: float = 0.0,
) -> Tiling:
    """Cover a frame evenly with the fewest tiles that overlap enough.

    Args:
        frame: The height and width of the frame.
        tile: The height and width of a tile.
        overlap: The smallest overlap of neighbouring tiles.
        halo: The width of the margin of each tile that is discarded.
        step: Tiles begin at multiples of this number of pixels, so that the network's strides fall
            on the same grid in all tiles; only the last tile of a row may begin elsewhere.
        batch: The number of tiles that the graph processes at once.
        seam: As for :class:`Tiling`.

    Raises:
        OptionError: The frame is smaller than a tile, or the overlap does not fit.
    """
    if frame[0] < tile[0] or frame[1] < tile[1]:
        raise OptionError(
            "the frame is smaller than a tile",
            expected=f"at least {tile[0]} × {tile[1]}",
            received=f"{frame[0]} × {frame[1]}",
            fix="use a smaller `tile`, or no tiles at all",
        )
    if not 2 * halo <= overlap < min(tile):
        raise OptionError(
            "the overlap does not fit",
            expected=f"at least {2 * halo} pixels, and less than a tile's {min(tile)}",
            received=f"{overlap} pixels",
            fix="use a larger `tile`",
        )
    if batch < 1:
        raise OptionError("invalid tile batch", expected="1 or more", received=str(batch))
    rows, columns = (_starts(*sizes, overlap, step) for sizes in zip(frame, tile, strict=True))
    return Tiling(frame=frame, rows=rows, columns=columns, overlap=overlap, halo=halo, batch=batch, seam=seam)


def _starts(frame: int, tile: int, overlap: int, step: int) -> list[int]:
    """Return the first pixel of each tile along an axis."""
    stride = max(step, (tile - overlap) // step * step)
    if tile - stride < overlap:
        raise OptionError(
            "the overlap does not fit",
            expected=f"an overlap of at most {tile - step} pixels: tiles begin every {step} pixels",
            received=str(overlap),
            fix="use a larger `tile`, or a smaller `overlap`",
        )
    last = frame - tile
    gaps = math.ceil(last / stride)
    # Evenly spaced and rounded up to a multiple of the step: each gap is above 0 and at most the
    # stride.
    return [*(-(-last * index // (gaps * step)) * step for index in range(gaps)), last]


class Frame(Protocol):
    """What tiles are cut from: an array ``(H, W, C)``, or a file whose rows are read on demand."""

    def __getitem__(self, part: tuple[slice, slice], /) -> NDArray[np.uint8]: ...


class Stitcher:
    """Cuts frames into tiles and blends the maps of the tiles; it is thread-safe.

    Args:
        tiling: How frames are cut.
        tile: The height and width of a tile.
        map_size: The height and width of a tile's map.
    """

    def __init__(self, tiling: Tiling, tile: tuple[int, int], map_size: tuple[int, int]) -> None:
        tiling.require_fits(tile, map_size)
        self.tiling = tiling
        self.tile = tile
        scales = [length // small for length, small in zip(tile, map_size, strict=True)]
        self.map_size = (tiling.frame[0] // scales[0], tiling.frame[1] // scales[1])
        self._places = [
            _places([start // scale for start in starts], small, tiling.overlap // scale, tiling.halo // scale)
            for starts, small, scale in zip((tiling.rows, tiling.columns), map_size, scales, strict=True)
        ]

    def batches(self, frame: Frame, most: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield batches of the tiles ``(B, h, w, C)`` of a frame ``(H, W, C)``, row by row.

        Each batch comes with the number of its first tile.
        """
        corners = [(row, column) for row in self.tiling.rows for column in self.tiling.columns]
        height, width = self.tile
        for first in range(0, len(corners), most):
            part = corners[first : first + most]
            yield first, np.stack([frame[r : r + height, c : c + width] for r, c in part])

    @property
    def rows(self) -> list[slice]:
        """The rows of the frame's map that each row of tiles is added to."""
        return [place.outside for place in self._places[0]]

    def new_map(self) -> NDArray[np.float32]:
        """Return an empty map of a frame, to which the maps of tiles are added."""
        return np.zeros(self.map_size, np.float32)

    def add(self, whole: NDArray[np.float32], number: int, maps: NDArray[np.float32], first_row: int = 0) -> None:
        """Add maps ``(B, h, w)`` to a frame's map: those of the tiles from ``number`` on.

        Args:
            whole: The rows of the frame's map from ``first_row`` on.
            number: The number of the first tile.
            maps: The maps of the tiles.
            first_row: The first row of the frame's map that is there.
        """
        for offset, one in enumerate(maps):
            row, column = divmod(number + offset, len(self.tiling.columns))
            down, across = self._places[0][row], self._places[1][column]
            used = one[down.inside, across.inside]
            rows = slice(down.outside.start - first_row, down.outside.stop - first_row)
            whole[rows, across.outside] += used * down.weights[:, None] * across.weights[None, :]


class _Place(msgspec.Struct, frozen=True):
    """The used part of a tile along one axis, in the tile's and the frame's map."""

    inside: slice
    outside: slice
    weights: NDArray[np.float32]


def _places(starts: list[int], length: int, overlap: int, halo: int) -> list[_Place]:
    """Return the place of every tile along an axis, in map pixels; the weights add up to 1."""
    ramp = max(1, overlap - 2 * halo)
    inner = np.arange(length) + 0.5

    def raw(index: int) -> NDArray[np.float64]:
        rise = np.ones(length) if index == 0 else np.clip((inner - halo) / ramp, 0, 1)
        fall = np.ones(length) if index == len(starts) - 1 else np.clip((length - halo - inner) / ramp, 0, 1)
        return np.minimum(rise, fall)

    # A line of the frame's map at most: all tiles by the whole line would take gigabytes.
    sums = np.zeros(starts[-1] + length)
    for index, start in enumerate(starts):
        sums[start : start + length] += raw(index)
    places = []
    for index, start in enumerate(starts):
        weights = raw(index)
        used = np.flatnonzero(weights)
        low, high = int(used[0]), int(used[-1]) + 1
        part = (weights[low:high] / sums[start + low : start + high]).astype(np.float32)
        places.append(_Place(slice(low, high), slice(start + low, start + high), part))
    return places
