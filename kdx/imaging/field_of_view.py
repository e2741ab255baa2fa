"""The part of a camera's frame that the networks see, and that a map covers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from kdx.errors import OptionError

# The first column, the first row, the width and the height of a window, in pixels of the frame.
Crop: TypeAlias = tuple[int, int, int, int]
SHORTEST_SIDE = 8


@dataclass(frozen=True)
class FieldOfView:
    """The part of a frame that a map covers.

    Attributes:
        share: The share of each side, centred, of the window, or of the frame where there is none;
            below 1 for methods that crop.
        crop: The window of the frame; None for the whole frame.
    """

    share: float = 1.0
    crop: Crop | None = None

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Return left, top, right and bottom of the part, in pixels of a frame of this size."""
        x, y, across, down = self.crop or (0, 0, width, height)
        left, top = across * (1 - self.share) / 2, down * (1 - self.share) / 2
        return x + left, y + top, x + across - left, y + down - top

    def scaled(self, frame: tuple[int, int], size: tuple[int, int]) -> FieldOfView:
        """Return the part in a picture of a frame, which was resized.

        Args:
            frame: The width and height of the frame.
            size: The width and height of the picture.
        """
        if self.crop is None:
            return self
        x, y, width, height = self.crop
        across, down = size[0] / frame[0], size[1] / frame[1]
        left, top = round(x * across), round(y * down)
        right, bottom = round((x + width) * across), round((y + height) * down)
        return FieldOfView(self.share, (left, top, max(1, right - left), max(1, bottom - top)))


WHOLE = FieldOfView()


def parse_crop(text: str) -> Crop:
    """Read the window of a frame, ``X,Y,WIDTH,HEIGHT``.

    Raises:
        OptionError: The text is no window.
    """
    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError as error:
        raise OptionError("`crop` is not a window", expected="X,Y,WIDTH,HEIGHT", received=repr(text)) from error
    return x, y, width, height


def require_inside(crop: object, frame: tuple[int, int]) -> Crop:
    """Return a window if it lies inside of a frame.

    Args:
        crop: The window that the user gave.
        frame: The height and width of the frame.

    Raises:
        OptionError: The window is not four whole numbers, is empty, or is not inside of the frame.
    """
    if not isinstance(crop, (tuple, list)) or [type(part) for part in crop] != [int] * 4:
        raise OptionError("`crop` is not a window", expected="(x, y, width, height)", received=repr(crop))
    x, y, width, height = crop
    if width < SHORTEST_SIDE or height < SHORTEST_SIDE:
        raise OptionError(
            "the window `crop` is too small",
            expected=f"{SHORTEST_SIDE} pixels a side, or more",
            received=f"{width} × {height} pixels",
        )
    if x < 0 or y < 0 or x + width > frame[1] or y + height > frame[0]:
        raise OptionError(
            "the window `crop` is not inside of the frame",
            expected=f"inside of {frame[1]} × {frame[0]} pixels",
            received=f"columns {x} to {x + width}, rows {y} to {y + height}",
        )
    return x, y, width, height
