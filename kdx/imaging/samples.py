"""Reading image files as input of a graph: resized, or one tile of each large frame."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from kdx.imaging.images import InputSpec, read_header, read_image
from kdx.imaging.tiling import Tiling, plan_tiles

T = TypeVar("T")


def evenly(items: Sequence[T], most: int) -> list[T]:
    """Return up to ``most`` of some things, evenly spread from the first to the last."""
    if len(items) <= most:
        return list(items)
    return [items[round(index * (len(items) - 1) / max(1, most - 1))] for index in range(most)]


def read_sample(path: Path, spec: InputSpec, tiling: Tiling | None = None, place: float = 0.0) -> NDArray[np.uint8]:
    """Read an image as uint8 ``(H, W, C)`` of the graph's input, also from another camera.

    Where the networks see a window, an image that has not the frame's size is what the window
    shows. Where frames are cut into tiles, a tile is cut from an image of any size, at the image's
    own scale; an image that is smaller than a tile is enlarged to one.

    Args:
        path: The file.
        spec: The input that the graph accepts.
        tiling: How large frames are cut into tiles, or None.
        place: The tile of the image, as a share from 0 to below 1 of all its tiles.

    Raises:
        ImageError: The file cannot be read.
    """
    plan = None if tiling is None else plan_of(path, spec, tiling)
    if plan is not None:
        whole = read_image(path, msgspec.structs.replace(spec, height=plan.frame[0], width=plan.frame[1]))
        down, across = divmod(int(place * plan.count), len(plan.columns))
        row, column = plan.rows[down], plan.columns[across]
        return np.ascontiguousarray(whole[row : row + spec.height, column : column + spec.width])
    any_size = msgspec.structs.replace(spec, fixed_size=False)
    if spec.crop is UNSET or read_header(path)[:2] == (spec.width, spec.height):
        return read_image(path, any_size)
    inside = msgspec.structs.replace(any_size, height=spec.crop[3], width=spec.crop[2], crop=UNSET)
    return _surrounded(read_image(path, inside), spec)


def are_frames(samples: Iterable[NDArray[np.uint8]], spec: InputSpec, tiling: Tiling | None) -> bool:
    """Whether samples are frames of the camera, not tiles, or windows of unknown surroundings.

    Args:
        samples: What :func:`read_sample` returned, uint8 ``(H, W, C)``.
        spec: The input that the graph accepts.
        tiling: How large frames are cut into tiles, or None.
    """
    if tiling is not None or spec.crop is UNSET:
        return tiling is None
    x, y, width, height = spec.crop
    windows = ((sample, sample[y : y + height, x : x + width]) for sample in samples)
    return not any(np.array_equal(sample, _surrounded(window, spec)) for sample, window in windows)


def _surrounded(window: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.uint8]:
    """Return a frame of which only the window is known: the rest repeats its edges."""
    assert spec.crop is not UNSET
    x, y, width, height = spec.crop
    return np.pad(window, ((y, spec.height - y - height), (x, spec.width - x - width), (0, 0)), mode="edge")


def plan_of(path: Path, spec: InputSpec, tiling: Tiling) -> Tiling | None:
    """Return how tiles are cut from an image; None if it is smaller than a tile.

    A frame is cut as the detector cuts it, and an image of another size, such as a piece of a
    frame, into as few tiles as cover it.

    Args:
        path: The file.
        spec: A tile.
        tiling: How frames are cut.

    Raises:
        ImageError: The file cannot be read.
    """
    header = read_header(path)
    size, tile = (header.height, header.width), (spec.height, spec.width)
    if size == tiling.frame:
        return tiling
    if size[0] < tile[0] or size[1] < tile[1]:
        return None
    return plan_tiles(size, tile, overlap=0, halo=0)
