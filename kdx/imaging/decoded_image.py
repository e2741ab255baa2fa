"""An image as a detector takes it, and what is doubtful about it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdx.imaging.value_range import NarrowRangeWarning, ValueRange


class GreyConversionWarning(UserWarning):
    """A colour image was converted to grey, because the detector is mono."""

    def __init__(self) -> None:
        # All files of a camera get the same text: Python shows each text once.
        super().__init__("colour is converted to grey for this mono detector, which does not judge it")


class DecodedImage(NamedTuple):
    """An image as a detector takes it.

    Attributes:
        pixels: uint8 ``(height, width, channels)`` in the order of the detector's input.
        value_range: The values of 16-bit grey; None for 8 bits.
        loses_colour: Whether the image shows colour, and the detector is mono.
    """

    pixels: NDArray[np.uint8]
    value_range: ValueRange | None = None
    loses_colour: bool = False

    def doubts(self, path: Path | None = None) -> list[UserWarning]:
        """Return what is doubtful about the image, in the file of that name."""
        doubts: list[UserWarning] = []
        if self.value_range is not None and self.value_range.is_narrow:
            doubts.append(NarrowRangeWarning(self.value_range, path))
        if self.loses_colour:
            doubts.append(GreyConversionWarning())
        return doubts

    def warn(self, path: Path | None) -> None:
        """Warn the caller's caller of what is doubtful."""
        for doubt in self.doubts(path):
            warnings.warn(doubt, stacklevel=3)


def loses_colour(rgb: NDArray[Any]) -> bool:
    """Return whether the channels of an image ``(H, W, 3)`` differ, so that grey says less."""
    return bool((rgb != rgb[..., :1]).any())
