"""Outlines of regions as polygons, for labelling tools."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kdx.decision.map_files import MapPlace
from kdx.decision.regions import NEIGHBOURS, Region
from kdx.decision.verdict import above

_Pair: TypeAlias = tuple[int, int]  # rows and columns
_EAST: _Pair = (0, 1)
# For each neighbour of a pixel: where the edge beside it begins and leads, with the pixel on its
# right. They go clockwise around the pixel.
_EDGES: dict[_Pair, tuple[_Pair, _Pair]] = {
    (-1, 0): ((0, 0), _EAST),
    (0, 1): ((0, 1), (1, 0)),
    (1, 0): ((1, 1), (0, -1)),
    (0, -1): ((1, 0), (-1, 0)),
}


def outlines_of(
    regions: Sequence[Region], anomaly_map: NDArray[np.float32], pixel_threshold: float, place: MapPlace
) -> list[list[list[float]]]:
    """Return the polygons of each region, ``[x, y, x, y, ...]`` in pixels of the image.

    They follow the edges of the map's pixels. Parts of a region that touch at a corner only are
    polygons of their own. Holes are filled, except those that are open at a corner.

    Args:
        regions: Regions of the map, as :func:`kdx.decision.regions.find_regions` returns them.
        anomaly_map: The map, float32 ``(h, w)``.
        pixel_threshold: The value that all values of a region exceed.
        place: The part of the image that the map covers.
    """
    # To import SciPy takes as long as the rest of a process that scores; most need no regions.
    from scipy.ndimage import find_objects, label

    labels, _ = label(above(anomaly_map, pixel_threshold), NEIGHBOURS)
    parts = find_objects(labels)
    (left, top, _, _), (down, across) = place.box, place.steps(anomaly_map.shape)
    found = []
    for region in regions:
        number = labels[int((region.peak_row - top) / down), int((region.peak_column - left) / across)]
        rows, columns = parts[number - 1]
        corner = left + columns.start * across, top + rows.start * down
        loops = _outer_loops(labels[rows, columns] == number)
        points = (np.array(loop)[:, ::-1] * (across, down) + corner for loop in loops)
        found.append([each.ravel().round(3).tolist() for each in points])
    return found


def _outer_loops(inside: NDArray[np.bool_]) -> Iterator[list[_Pair]]:
    """Yield the corners of each outer outline, clockwise."""
    steps = _steps(inside)
    for start in sorted(steps):
        if start not in steps:
            continue
        # From the first corner, an outer outline leads along the top of a pixel, and the outline of
        # a hole along the side of one.
        is_outer = steps[start] == [_EAST]
        loop = _loop(steps, start)
        if is_outer:
            yield loop


def _steps(inside: NDArray[np.bool_]) -> dict[_Pair, list[_Pair]]:
    """Return the directions of the edges that begin at each corner."""
    (height, width), padded = inside.shape, np.pad(inside, 1)
    steps: dict[_Pair, list[_Pair]] = {}
    for (row, column), (start, step) in _EDGES.items():
        beside = padded[1 + row : 1 + row + height, 1 + column : 1 + column + width]
        for corner in (np.argwhere(inside & ~beside) + start).tolist():
            steps.setdefault(tuple(corner), []).append(step)
    return steps


def _loop(steps: dict[_Pair, list[_Pair]], start: _Pair) -> list[_Pair]:
    """Remove the edges from a corner until they are back there; return the corners among them."""
    loop: list[_Pair] = []
    corner, heading = start, (0, 0)
    while not loop or corner != start:
        to_the_right = (heading[1], -heading[0])
        # Where two pixels touch at a corner, turning right stays at the same pixel.
        step = to_the_right if to_the_right in steps[corner] else steps[corner][0]
        steps[corner].remove(step)
        if not steps[corner]:
            del steps[corner]
        if step != heading:
            loop.append(corner)
        corner, heading = (corner[0] + step[0], corner[1] + step[1]), step
    return loop
