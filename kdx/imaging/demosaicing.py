"""Full colour from a Bayer mosaic, by bilinear interpolation in whole numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_CHANNELS = {"R": 0, "G": 1, "B": 2}
_MOST_IN_SIXTEEN_BITS = (65535 - 2) // 4


def demosaic(mosaic: NDArray[Any], tile: str) -> NDArray[Any]:
    """Interpolate the two missing colours of each pixel bilinearly.

    A missing colour is the mean of the nearest samples of that colour: of two or four pixels, with
    halves rounded up. Beyond the border, the mosaic is mirrored about its outermost pixels, which
    keeps the pattern. Inside, this is OpenCV's ``cvtColor`` with ``COLOR_Bayer..2RGB``; it computes
    the outermost rows and columns otherwise, and names the tile by other pixels (``BayerRG`` is its
    ``BayerBG``).

    Args:
        mosaic: uint8 or uint16 ``(H, W)``, of at least 2 × 2 pixels.
        tile: The colours of the first two rows and columns: ``RGGB``, ``GRBG``, ``GBRG`` or
            ``BGGR``.

    Returns:
        RGB ``(H, W, 3)`` of the same type.
    """
    height, width = mosaic.shape
    # The sum of four samples and of what rounds it must not overflow.
    wide = np.uint16 if mosaic.dtype == np.uint8 or mosaic.max() <= _MOST_IN_SIXTEEN_BITS else np.uint32
    padded = np.pad(mosaic, 1, mode="reflect").astype(wide, copy=False)
    found = np.empty((height, width, 3), mosaic.dtype)
    for row, column in np.ndindex(2, 2):

        def samples(down: int, right: int, row: int = row, column: int = column) -> NDArray[Any]:
            """Return the neighbours of all pixels at this place of the tile."""
            rows = slice(1 + row + down, 1 + height + down, 2)
            return padded[rows, 1 + column + right : 1 + width + right : 2]

        here = found[row::2, column::2]
        colour, beside = tile[2 * row + column], tile[2 * row + 1 - column]
        here[..., _CHANNELS[colour]] = samples(0, 0)
        if colour == "G":
            above = tile[2 * (1 - row) + column]
            here[..., _CHANNELS[beside]] = (samples(0, -1) + samples(0, 1) + 1) >> 1
            here[..., _CHANNELS[above]] = (samples(-1, 0) + samples(1, 0) + 1) >> 1
        else:
            opposite = tile[2 * (1 - row) + 1 - column]
            cross = samples(0, -1) + samples(0, 1) + samples(-1, 0) + samples(1, 0)
            corners = samples(-1, -1) + samples(-1, 1) + samples(1, -1) + samples(1, 1)
            here[..., 1] = (cross + 2) >> 2
            here[..., _CHANNELS[opposite]] = (corners + 2) >> 2
    return found
