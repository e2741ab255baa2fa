"""The constant matrices of every resampling in kdx: image reduction, map upsampling, Gaussian blur.

All three are linear and separable, so each is one matrix per axis and an image operation is ``A_h X A_wᵀ``. The graph
holds these matrices as constants, and files of other sizes are brought to the network's size with the same ones, so
there is a single definition. Built in float64, used in float32.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


@functools.lru_cache(maxsize=16)  # a folder of many image sizes must not fill the memory
def antialias_matrix(size_in: int, size_out: int) -> Matrix:
    """Return the ``(size_out, size_in)`` matrix of an antialiased bilinear resize.

    A triangle filter whose support widens with the reduction (and is the plain bilinear one when enlarging): the same
    numbers as ``F.interpolate(mode="bilinear", antialias=True, align_corners=False)``.
    """
    scale = size_in / size_out
    support = max(scale, 1.0)
    centres = (np.arange(size_out) + 0.5) * scale
    # The filter's window in whole pixels, as in Pillow and ATen: pixels outside it have weight zero.
    first = np.maximum((centres - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centres + support + 0.5).astype(np.int64), size_in)
    columns = np.arange(size_in)
    weights = np.clip(1.0 - np.abs(columns[None, :] + 0.5 - centres[:, None]) / support, 0.0, None)
    inside = (columns[None, :] >= first[:, None]) & (columns[None, :] < last[:, None])
    weights = np.where(inside, weights, 0.0)
    return _frozen(weights / weights.sum(axis=1, keepdims=True))


@functools.lru_cache(maxsize=16)
def bilinear_matrix(size_in: int, size_out: int) -> Matrix:
    """Return the ``(size_out, size_in)`` matrix of ``F.interpolate(mode="bilinear", align_corners=False)``."""
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
def gaussian_matrix(size: int, sigma: float, truncate: float = 4.0) -> Matrix:
    """Return the ``(size, size)`` matrix of ``scipy.ndimage.gaussian_filter1d(mode="reflect")``; identity for sigma 0.

    Args:
        size: Length of the axis in pixels.
        sigma: Standard deviation in pixels.
        truncate: Radius of the kernel in standard deviations.
    """
    if sigma <= 0:
        return _frozen(np.eye(size))
    radius = int(truncate * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    kernel /= kernel.sum()
    matrix = np.zeros((size, size))
    rows = np.arange(size)
    for offset, weight in zip(offsets, kernel, strict=True):
        # Reflection about the edges of the outermost pixels (d c b a | a b c d | d c b a), period 2·size.
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
    rounded: NDArray[np.uint8] = np.clip(np.rint(resized), 0, 255).astype(np.uint8)
    return rounded


def _frozen(matrix: Matrix) -> Matrix:
    matrix.setflags(write=False)
    return matrix
