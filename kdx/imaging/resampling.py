"""All resampling in kdx: image reduction, map upsampling, Gaussian blur, mask reduction.

The first three are linear and separable, so each is one matrix per axis, applied as ``A_h X A_wᵀ``.
The graph holds these matrices or factors of them as constants, and files of other sizes are resized
with the same matrices, so there is one definition. They are built in float64 and used in float32.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from kdx.imaging.field_of_view import WHOLE, FieldOfView

Matrix = NDArray[np.float64]

# A cell of the map that ends where a pixel begins does not touch it, in spite of rounding.
_TOUCHES = 1e-6
# The radius of a blur's kernel in standard deviations, as in SciPy.
_RADIUS = 4.0


@functools.lru_cache(maxsize=16)  # bounded, because a folder may hold images of many sizes
def antialias_matrix(size_in: int, size_out: int) -> Matrix:
    """Return the ``(size_out, size_in)`` matrix of an antialiased bilinear resize.

    It is a triangle filter whose support grows with the reduction, and plain bilinear interpolation
    for enlarging. The weights equal those of ``F.interpolate(mode="bilinear", antialias=True,
    align_corners=False)``.
    """
    scale = size_in / size_out
    support = max(scale, 1.0)
    centres = (np.arange(size_out) + 0.5) * scale
    # The filter's window in whole pixels, as in Pillow and ATen; pixels outside it have the weight
    # 0.
    first = np.maximum((centres - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centres + support + 0.5).astype(np.int64), size_in)
    columns = np.arange(size_in)
    weights = np.clip(1.0 - np.abs(columns[None, :] + 0.5 - centres[:, None]) / support, 0.0, None)
    inside = (columns[None, :] >= first[:, None]) & (columns[None, :] < last[:, None])
    weights = np.where(inside, weights, 0.0)
    return _frozen(weights / weights.sum(axis=1, keepdims=True))


@functools.lru_cache(maxsize=16)
def bilinear_matrix(size_in: int, size_out: int) -> Matrix:
    """Return the ``(size_out, size_in)`` matrix of bilinear interpolation.

    It equals ``F.interpolate(mode="bilinear", align_corners=False)``.
    """
    source = np.clip((np.arange(size_out) + 0.5) * (size_in / size_out) - 0.5, 0.0, None)
    low = np.minimum(np.floor(source).astype(np.int64), size_in - 1)
    high = np.minimum(low + 1, size_in - 1)
    fraction = source - low
    matrix = np.zeros((size_out, size_in))
    rows = np.arange(size_out)
    np.add.at(matrix, (rows, low), 1.0 - fraction)
    np.add.at(matrix, (rows, high), fraction)
    return _frozen(matrix)


@functools.lru_cache(maxsize=16)
def gaussian_matrix(size: int, sigma: float) -> Matrix:
    """Return the ``(size, size)`` matrix of a Gaussian blur; the identity for sigma 0.

    It equals ``scipy.ndimage.gaussian_filter1d(mode="reflect")``.

    Args:
        size: The length of the axis, in pixels.
        sigma: The standard deviation, in pixels.
    """
    if sigma <= 0:
        return _frozen(np.eye(size))
    radius = int(_RADIUS * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    kernel /= kernel.sum()
    matrix = np.zeros((size, size))
    rows = np.arange(size)
    for offset, weight in zip(offsets, kernel, strict=True):
        # Reflection at the edges of the outermost pixels (d c b a | a b c d | d c b a), with the
        # period 2·size.
        column = np.mod(rows + offset, 2 * size)
        np.add.at(matrix, (rows, np.where(column < size, column, 2 * size - 1 - column)), weight)
    return _frozen(matrix)


def resize_image(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize a ``(H, W, C)`` uint8 image with :func:`antialias_matrix`, rounded to uint8."""
    if image.shape[:2] == (height, width):
        return image
    rows = antialias_matrix(image.shape[0], height).astype(np.float32)
    columns = antialias_matrix(image.shape[1], width).astype(np.float32)
    resized = np.einsum("yh,hwc,xw->yxc", rows, image.astype(np.float32), columns, optimize=True)
    # The product's rows need not be contiguous, and backends take no other images.
    rounded: NDArray[np.uint8] = np.clip(np.rint(resized), 0, 255).astype(np.uint8, order="C")
    return rounded


def any_within(pixels: NDArray[np.bool_], size: tuple[int, int], view: FieldOfView = WHOLE) -> NDArray[np.bool_]:
    """Return for each cell of a map whether any pixel that it covers, wholly or in part, is True.

    The map's ``h × w`` cells evenly divide the field of view; a map may be finer than the image.
    Each pixel of that part which is True makes at least one cell True.

    Args:
        pixels: The pixels, bool ``(H, W)``.
        size: The height and width of the map.
        view: The part of the image that the map covers.

    Returns:
        The cells, bool ``(h, w)``.
    """
    height, width = pixels.shape
    left, top, right, bottom = view.box(width, height)
    first, last = covered_pixels(size[0], height, (top, bottom))
    start, end = covered_pixels(size[1], width, (left, right))
    # The number of True pixels above and to the left of each corner; four of these give that of a
    # rectangle.
    corners = np.zeros((height + 1, width + 1), np.int64)
    corners[1:, 1:] = pixels.cumsum(axis=0).cumsum(axis=1)
    below, above = corners[last], corners[first]
    found: NDArray[np.bool_] = below[:, end] - below[:, start] - above[:, end] + above[:, start] > 0
    return found


def covered_pixels(count: int, length: int, ends: tuple[float, float]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the first pixel that each cell of a map touches, and the one after the last.

    Args:
        count: The number of cells.
        length: The number of pixels.
        ends: Where the first cell begins and the last one ends.
    """
    edges = ends[0] + np.arange(count + 1) * ((ends[1] - ends[0]) / count)
    first = np.clip(np.floor(edges[:-1] + _TOUCHES), 0, length - 1).astype(np.intp)
    last = np.clip(np.ceil(edges[1:] - _TOUCHES), 1, length).astype(np.intp)
    return first, last


def _frozen(matrix: Matrix) -> Matrix:
    matrix.setflags(write=False)
    return matrix
