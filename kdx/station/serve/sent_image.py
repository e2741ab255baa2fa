"""The image of a request: a file's content, or the values of a frame with a declared shape."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from kdx.errors import InputError, OptionError
from kdx.imaging.image_files import MAX_PIXELS, open_image, upright_size
from kdx.imaging.images import InputSpec, read_with_range
from kdx.imaging.sixteen_bits import apply_range, value_range_of
from kdx.imaging.value_range import NarrowRangeWarning, ValueRange

_DTYPES: dict[str, str] = {"uint8": "|u1", "uint16": "<u2"}
_NAME = Path("the image")  # in messages of what reads files; its suffix says nothing


class Layout(msgspec.Struct, frozen=True):
    """How the bytes of a frame are laid out that was sent without a file format.

    Attributes:
        shape: Height and width, and the number of channels of a colour frame.
        dtype: ``uint8``, or ``uint16`` with the low byte first.
    """

    shape: tuple[int, ...]
    dtype: Literal["uint8", "uint16"] = "uint8"

    @property
    def size(self) -> int:
        """The number of bytes of the frame."""
        return math.prod(self.shape) * np.dtype(_DTYPES[self.dtype]).itemsize


class Frame(NamedTuple):
    """A frame as a detector takes it.

    Attributes:
        pixels: uint8 ``(height, width, channels)``.
        size: The height and width of the image that was sent, upright.
        warnings: What is doubtful about its values.
    """

    pixels: NDArray[np.uint8]
    size: tuple[int, int]
    warnings: tuple[str, ...]


def layout_of(shape: str | None, dtype: str | None) -> Layout:
    """Return the layout that a request declares: ``480,640`` or ``480,640,3``.

    Raises:
        OptionError: It declares none, or an invalid one.
    """
    expected = "HEIGHT,WIDTH or HEIGHT,WIDTH,CHANNELS"
    if shape is None:
        raise OptionError(
            "a frame without a file format needs its shape",
            expected=f"`shape={expected}` in the query, or the header X-Shape",
            fix="declare it, or send a PNG with the content type image/png",
        )
    parts = [part.strip() for part in shape.split(",")]
    if len(parts) not in {2, 3} or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise OptionError("invalid `shape`", expected=expected, received=shape)
    sides = tuple(int(part) for part in parts)
    if min(sides) < 1 or sides[0] * sides[1] > MAX_PIXELS:
        raise OptionError("invalid `shape`", expected=f"1 to {MAX_PIXELS:,} pixels", received=shape)
    kind = next((each for each in _DTYPES if each == (dtype or "uint8")), None)
    if kind is None:
        raise OptionError("invalid `dtype`", expected=" or ".join(_DTYPES), received=str(dtype))
    return msgspec.convert({"shape": sides, "dtype": kind}, Layout)


def frame_of(data: bytes, layout: Layout | None, spec: InputSpec) -> Frame:
    """Return the frame of a request's body.

    Files are decoded by what ``kdx predict`` decodes them with, whatever content type is declared.

    Args:
        data: The body.
        layout: How the values of a frame are laid out; None for the content of a file.
        spec: What the detector accepts.

    Raises:
        ImageError: As for :func:`kdx.read_image`.
        InputError: The body has another length than its layout, or the frame another size or
            channel count than the detector's input.
    """
    if layout is not None:
        pixels, value_range = _laid_out(data, layout, spec)
        return Frame(pixels, (spec.height, spec.width), tuple(_doubts(value_range)))
    size = (spec.height, spec.width) if spec.fixed_size else _upright(data)
    decoded, value_range = read_with_range(_NAME, spec, data)
    return Frame(decoded, size, tuple(_doubts(value_range)))


def _laid_out(data: bytes, layout: Layout, spec: InputSpec) -> tuple[NDArray[np.uint8], ValueRange | None]:
    if len(data) != layout.size:
        raise InputError(
            "the body does not have the length of the frame",
            expected=f"{layout.size:,} bytes for {layout.dtype} {layout.shape}",
            received=f"{len(data):,} bytes",
            fix="send the rows from top to bottom without padding, and declare the frame's own shape",
        )
    values = np.frombuffer(data, _DTYPES[layout.dtype]).reshape(layout.shape)
    if layout.dtype == "uint8":
        return spec.check(values), None
    spec.check_layout("uint8", values.shape)  # before the values are converted
    return spec.check(apply_range(values, spec.sixteen_bit_range)), value_range_of(values, spec.sixteen_bit_range)


def _upright(data: bytes) -> tuple[int, int]:
    with open_image(_NAME, data) as image:
        width, height = upright_size(_NAME, image)
    return height, width


def _doubts(value_range: ValueRange | None) -> Iterable[str]:
    if value_range is not None and value_range.is_narrow:
        yield str(NarrowRangeWarning(value_range))
