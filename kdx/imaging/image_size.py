"""The size at which networks see images: the side of a square, or height and width."""

from __future__ import annotations

from typing import TypeAlias

from kdx.errors import OptionError

# A square is written as its side alone, so that every size is written in one way.
ImageSize: TypeAlias = int | tuple[int, int]

FORM = "HEIGHTxWIDTH, e.g. 256x1024"


def size_of(sides: tuple[int, int]) -> ImageSize:
    """Return a height and width as an image size: one number if they are equal."""
    height, width = sides
    return height if height == width else (height, width)


def both_sides(size: ImageSize) -> tuple[int, int]:
    """Return the height and width of an image size."""
    return (size, size) if isinstance(size, int) else size


def say_size(size: ImageSize) -> str:
    """Return an image size as options and folders' names write it, height first."""
    return str(size) if isinstance(size, int) else f"{size[0]}x{size[1]}"


def show_size(size: ImageSize) -> str:
    """Return an image size for readers: ``256²`` or ``256 × 1024``, height first."""
    return f"{size}²" if isinstance(size, int) else f"{size[0]} × {size[1]}"


def require_size(name: str, value: object) -> ImageSize:
    """Return the size that a parameter of Python has: a whole number, or two, the height first.

    Raises:
        OptionError: It is neither.
    """
    sides = (value, value) if isinstance(value, int) else value
    if isinstance(sides, (tuple, list)) and [type(side) for side in sides] == [int, int]:
        return size_of((sides[0], sides[1]))
    raise OptionError(
        f"`{name}` is not a size", expected="the side of a square, or (height, width)", received=repr(value)
    )


def parse_size(name: str, text: str, *, squares: bool = True) -> ImageSize:
    """Read ``HEIGHTxWIDTH``, or one number for a square.

    Args:
        name: The option, for the message.
        text: What the user wrote.
        squares: Whether one number is accepted.

    Raises:
        OptionError: The text is neither.
    """
    parts = text.lower().split("x")
    if not all(part.strip().isdecimal() for part in parts) or len(parts) not in ((1, 2) if squares else (2,)):
        expected = f"the side of a square, or {FORM}" if squares else FORM
        raise OptionError(f"{name} is not a size", expected=expected, received=repr(text))
    return int(parts[0]) if len(parts) == 1 else size_of((int(parts[0]), int(parts[1])))
