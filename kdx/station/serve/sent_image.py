"""The image of a request: a file's content, or the bytes of a frame with a declared layout."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from kdx.errors import InputError, OptionError
from kdx.imaging.camera_frames import image_of_frame
from kdx.imaging.decoded_image import DecodedImage
from kdx.imaging.image_files import MAX_PIXELS, open_image, upright_size
from kdx.imaging.images import InputSpec, decode_file
from kdx.imaging.pixel_formats import pixel_format_of
from kdx.imaging.sixteen_bits import apply_range, value_range_of

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


class Buffer(msgspec.Struct, frozen=True):
    """How a camera laid out the bytes that were sent.

    Attributes:
        shape: Height and width.
        pixel_format: A name of :data:`kdx.imaging.pixel_formats.PIXEL_FORMATS`.
        stride: The bytes from one row to the next; None for rows without padding.
    """

    shape: tuple[int, int]
    pixel_format: str
    stride: int | None = None


class Frame(NamedTuple):
    """A frame as a detector takes it.

    Attributes:
        pixels: uint8 ``(height, width, channels)``.
        size: The height and width of the image that was sent, upright.
        warnings: What is doubtful about it.
    """

    pixels: NDArray[np.uint8]
    size: tuple[int, int]
    warnings: tuple[str, ...]


def layout_of(
    shape: str | None, dtype: str | None, pixel_format: str | None = None, stride: str | None = None
) -> Layout | Buffer:
    """Return the layout that a request declares.

    Args:
        shape: Height and width, and the channels of an array in colour: ``480,640,3``.
        dtype: The type of an array's values.
        pixel_format: The pixel format of a camera's buffer; None for an array.
        stride: The bytes from one row of the buffer to the next.

    Raises:
        OptionError: The request declares no layout, or an invalid one.
    """
    expected = "HEIGHT,WIDTH" if pixel_format else "HEIGHT,WIDTH or HEIGHT,WIDTH,CHANNELS"
    if shape is None:
        raise OptionError(
            "a frame without a file format needs its shape",
            expected=f"`shape={expected}` in the query, or the header X-Shape",
            fix="declare it, or send a PNG with the content type image/png",
        )
    parts = [part.strip() for part in shape.split(",")]
    if len(parts) not in ({2} if pixel_format else {2, 3}) or not all(map(_is_number, parts)):
        raise OptionError("invalid `shape`", expected=expected, received=shape)
    sides = tuple(int(part) for part in parts)
    if min(sides) < 1 or sides[0] * sides[1] > MAX_PIXELS:
        raise OptionError("invalid `shape`", expected=f"1 to {MAX_PIXELS:,} pixels", received=shape)
    if pixel_format is not None:
        return _buffer(sides[0], sides[1], dtype, pixel_format, stride)
    if stride is not None:
        raise OptionError("`stride` has no effect without `pixel_format`", fix="send rows without padding")
    kind = next((each for each in _DTYPES if each == (dtype or "uint8")), None)
    if kind is None:
        raise OptionError("invalid `dtype`", expected=" or ".join(_DTYPES), received=str(dtype))
    return msgspec.convert({"shape": sides, "dtype": kind}, Layout)


def _buffer(height: int, width: int, dtype: str | None, pixel_format: str, stride: str | None) -> Buffer:
    if dtype is not None:
        raise OptionError(
            "`dtype` has no effect on a camera's buffer",
            fix="leave it out: `pixel_format` says how many bits there are",
        )
    if stride is not None and not _is_number(stride):
        raise OptionError(
            "invalid `stride`", expected="the bytes from one row to the next", received=repr(stride[:250])
        )
    return Buffer((height, width), pixel_format_of(pixel_format).name, None if stride is None else int(stride))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def frame_of(data: bytes, layout: Layout | Buffer | None, spec: InputSpec) -> Frame:
    """Return the frame of a request's body.

    Files are decoded by what ``kdx predict`` decodes them with, whatever content type is declared.

    Args:
        data: The body.
        layout: How the bytes of a frame are laid out; None for the content of a file.
        spec: What the detector accepts.

    Raises:
        ImageError: As for :func:`kdx.read_image`.
        InputError: The body has another length than its layout, or the frame another size or
            channel count than the detector's input.
        OptionError: A size or stride that the pixel format cannot have.
    """
    if isinstance(layout, Buffer):
        height, width = layout.shape
        image = image_of_frame(data, layout.pixel_format, width, height, spec, stride=layout.stride)
        size = layout.shape
    elif layout is not None:
        image, size = _laid_out(data, layout, spec), (spec.height, spec.width)
    else:
        size = (spec.height, spec.width) if spec.fixed_size else _upright(data)
        image = decode_file(_NAME, spec, data)
    return Frame(image.pixels, size, tuple(str(doubt) for doubt in image.doubts()))


def _laid_out(data: bytes, layout: Layout, spec: InputSpec) -> DecodedImage:
    if len(data) != layout.size:
        raise InputError(
            "the body does not have the length of the frame",
            expected=f"{layout.size:,} bytes for {layout.dtype} {layout.shape}",
            received=f"{len(data):,} bytes",
            fix="send the rows from top to bottom without padding, and declare the frame's own shape",
        )
    values = np.frombuffer(data, _DTYPES[layout.dtype]).reshape(layout.shape)
    if layout.dtype == "uint8":
        return DecodedImage(spec.check(values))
    spec.check_layout("uint8", values.shape)  # before the values are converted
    pixels = spec.check(apply_range(values, spec.sixteen_bit_range))
    return DecodedImage(pixels, value_range_of(values, spec.sixteen_bit_range))


def _upright(data: bytes) -> tuple[int, int]:
    with open_image(_NAME, data) as image:
        width, height = upright_size(_NAME, image)
    return height, width
