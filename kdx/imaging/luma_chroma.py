"""RGB from luma and two colour differences (Y'CbCr), in whole numbers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Coefficients are multiples of 2**-20, and sums fit into 32 bits. A result differs from that of the
# exact equation only where this lies within 0.0002 of the middle between two values.
_SHIFT = 20


class LumaChroma(NamedTuple):
    """A standard by which luma and colour differences stand for RGB.

    Attributes:
        red: The share of red in luma.
        blue: The share of blue in luma.
        is_full: Whether the values take all 256 levels; else luma takes 16 to 235, and the colour
            differences 16 to 240.
    """

    red: float
    blue: float
    is_full: bool

    def coefficients(self) -> tuple[int, int, int, int, int]:
        """Return what is multiplied, in units of 2**-20.

        The factors are those of luma, of Cr in red, of Cb in green, of Cr in green, and of Cb in
        blue.
        """
        luma, chroma = (1.0, 1.0) if self.is_full else (255 / 219, 255 / 224)
        green = 1 - self.red - self.blue
        factors = (
            luma,
            2 * (1 - self.red) * chroma,
            -2 * (1 - self.blue) * self.blue / green * chroma,
            -2 * (1 - self.red) * self.red / green * chroma,
            2 * (1 - self.blue) * chroma,
        )
        luma_, red, green_blue, green_red, blue = (round(factor * (1 << _SHIFT)) for factor in factors)
        return luma_, red, green_blue, green_red, blue


# The names and equations are those of the Pixel Format Naming Convention 2.4, section 8.2.
FULL = LumaChroma(0.299, 0.114, is_full=True)
BT601 = LumaChroma(0.299, 0.114, is_full=False)
BT709 = LumaChroma(0.2126, 0.0722, is_full=False)


def rgb_of(luma: NDArray[np.uint8], cb: NDArray[np.uint8], cr: NDArray[np.uint8], by: LumaChroma) -> NDArray[np.uint8]:
    """Convert to full-range RGB, rounded, and limited to 0 and 255.

    Args:
        luma: ``(H, W)``.
        cb: The difference from blue, of the same shape; 128 is no difference.
        cr: The difference from red, likewise.
        by: The standard.

    Returns:
        uint8 ``(H, W, 3)``.
    """
    factor, red, green_blue, green_red, blue = by.coefficients()
    half = 1 << (_SHIFT - 1)
    grey = (luma.astype(np.int32) - (0 if by.is_full else 16)) * np.int32(factor) + half
    b, r = cb.astype(np.int32) - 128, cr.astype(np.int32) - 128
    found = np.empty((*luma.shape, 3), np.uint8)
    for channel, value in enumerate((grey + r * red, grey + b * green_blue + r * green_red, grey + b * blue)):
        found[..., channel] = np.clip(value >> _SHIFT, 0, 255)
    return found
