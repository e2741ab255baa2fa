"""The pixel formats of cameras, by the names of GenICam: buffers become images.

The names and layouts are those of the Pixel Format Naming Convention (PFNC 2.4, EMVA), and the
``Packed`` formats those of GigE Vision 1.2. The C library reads the same formats to the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kdx.errors import InputError, OptionError
from kdx.imaging.demosaicing import demosaic
from kdx.imaging.luma_chroma import BT601, BT709, FULL, LumaChroma, rgb_of
from kdx.imaging.sixteen_bits import apply_range

_TILES = {"GR": "GRBG", "RG": "RGGB", "GB": "GBRG", "BG": "BGGR"}
_LUMA_CHROMA = {"YUV": FULL, "YCbCr": FULL, "YCbCr601_": BT601, "YCbCr709_": BT709}
# GigE Vision 1.2 had other names for these.
_OLD_NAMES = {
    "RGB8": "RGB8Packed",
    "BGR8": "BGR8Packed",
    "RGBa8": "RGBA8Packed",
    "BGRa8": "BGRA8Packed",
    "YUV422_8_UYVY": "YUV422Packed",
    "YUV422_8": "YUV422YUYVPacked",
}


@dataclass(frozen=True)
class PixelFormat:
    """How the pixels of a buffer are laid out.

    Attributes:
        name: The name.
        components: The components of a pixel in their order in memory (``Mono``, ``RGB``,
            ``BGRa``), the tile of a Bayer mosaic (``RGGB``), or the bytes of two pixels that share
            their colour (``YUYV``, ``UYVY``).
        bits: The bits of a component.
        packing: ``whole``: each component has its own one or two bytes, the low byte first. ``p``:
            components follow each other bit by bit, the lowest bit first. ``Packed``: two
            components share three bytes, the high bits of each in the first and the last.
        luma_chroma: The standard of luma and colour differences, if the pixels consist of them.
    """

    name: str
    components: str
    bits: int = 8
    packing: Literal["whole", "p", "Packed"] = "whole"
    luma_chroma: LumaChroma | None = None

    @property
    def is_bayer(self) -> bool:
        """Whether each pixel has one of three colours."""
        return self.components in _TILES.values()

    @property
    def is_colour(self) -> bool:
        """Whether the pixels become colour images."""
        return self.components != "Mono"

    @property
    def per_pixel(self) -> int:
        """The number of components that a pixel has in the buffer."""
        if self.luma_chroma is not None:
            return 2
        return 1 if self.is_bayer or not self.is_colour else len(self.components)

    @property
    def pixels_in_group(self) -> int:
        """The smallest number of pixels that ends with a byte, of which a row has a multiple."""
        if self.luma_chroma is not None or self.packing == "Packed":
            return 2
        return 8 // math.gcd(self.bits, 8) if self.packing == "p" else 1

    def bytes_in_row(self, width: int) -> int:
        """Return the number of bytes of a row without padding."""
        bits = {"whole": 8 if self.bits == 8 else 16, "p": self.bits, "Packed": 12}[self.packing]
        return width * self.per_pixel * bits // 8


def _formats() -> Iterator[PixelFormat]:
    for prefix, components in {"Mono": "Mono", **{f"Bayer{key}": tile for key, tile in _TILES.items()}}.items():
        for bits in (8, 10, 12, 14, 16):
            yield PixelFormat(f"{prefix}{bits}", components, bits)
        for bits in (10, 12, 14):
            yield PixelFormat(f"{prefix}{bits}p", components, bits, "p")
        for bits in (10, 12):
            yield PixelFormat(f"{prefix}{bits}Packed", components, bits, "Packed")
    for components in ("RGB", "BGR", "RGBa", "BGRa"):
        for bits in (8, 10, 12, 14, 16):
            yield PixelFormat(f"{components}{bits}", components, bits)
    for prefix, standard in _LUMA_CHROMA.items():
        other = "UYVY" if prefix == "YUV" else "CbYCrY"
        yield PixelFormat(f"{prefix}422_8", "YUYV", luma_chroma=standard)
        yield PixelFormat(f"{prefix}422_8_{other}", "UYVY", luma_chroma=standard)


PIXEL_FORMATS = {each.name: each for each in _formats()}
PIXEL_FORMATS |= {old: PIXEL_FORMATS[name] for name, old in _OLD_NAMES.items()}


def pixel_format_of(name: str) -> PixelFormat:
    """Return the format of a name.

    Raises:
        OptionError: kdx does not know the name.
    """
    found = PIXEL_FORMATS.get(name)
    if found is None:
        raise OptionError(
            "unknown pixel format",
            expected=f"a name of GenICam: {', '.join(PIXEL_FORMATS)}",
            received=repr(name),
            fix="choose one of them in the camera (its feature PixelFormat)",
        )
    return found


def decode_pixels(
    data: bytes | bytearray | memoryview | NDArray[Any],
    pixel_format: str,
    width: int,
    height: int,
    *,
    stride: int | None = None,
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Decode a camera's buffer to an image, which does not share the buffer's memory.

    Grey of more than 8 bits keeps its values, as a 16-bit file of the same camera has them:
    :func:`kdx.to_eight_bits` scales them by the bundle's range. Colour of more than 8 bits is
    scaled by the full range of its bits, because kdx reads no colour files of 16 bits that could
    have been trained with. A mosaic is interpolated before it is scaled. Two pixels that share
    their colour get the same one. A fourth component ("alpha") is left out: its content depends on
    the camera's manufacturer.

    Args:
        data: The buffer, without what some cameras append (chunk data).
        pixel_format: The name, a key of :data:`PIXEL_FORMATS`.
        width: The number of columns.
        height: The number of rows.
        stride: The number of bytes from one row to the next; None for rows without padding.

    Returns:
        uint8 ``(H, W)`` for grey of 8 bits, uint16 ``(H, W)`` for grey of more bits, and uint8 RGB
        ``(H, W, 3)`` for colour.

    Raises:
        InputError: The buffer has another size, or values above those of its bits.
        OptionError: An unknown pixel format, or a size or stride that it cannot have.
    """
    layout = pixel_format_of(pixel_format)
    rows = _rows(data, layout, width, height, stride)
    if layout.luma_chroma is not None:
        return _from_luma_chroma(rows, layout.components, layout.luma_chroma)
    values = _components(rows, layout)
    if layout.is_bayer:
        pixels = demosaic(values, layout.components)
    elif layout.is_colour:
        pixels = values.reshape(height, width, -1)[..., [layout.components.index(colour) for colour in "RGB"]]
    else:
        return values
    return apply_range(pixels, (0, (1 << layout.bits) - 1)) if layout.bits > 8 else pixels


def _rows(data: Any, layout: PixelFormat, width: int, height: int, stride: int | None) -> NDArray[np.uint8]:
    """Return the bytes of the rows without padding, as ``(height, bytes)``."""
    _check_size(layout, width, height)
    row = layout.bytes_in_row(width)
    step = row if stride is None else stride
    if step < row:
        raise OptionError(
            "the rows would overlap: `stride` is too small",
            expected=f"at least {row:,} bytes for {width:,} pixels of {layout.name}",
            received=f"{step:,} bytes",
        )
    buffer = _bytes_of(data)
    allowed = {step * height, step * (height - 1) + row}  # the last row may have no padding
    if buffer.size not in allowed:
        padding = "" if step == row else f" in rows of {step:,} bytes"
        raise InputError(
            f"the buffer does not have the size of {layout.name}",
            expected=f"{step * height:,} bytes for {width:,} × {height:,} pixels{padding}",
            received=f"{buffer.size:,} bytes",
            fix="pass the width, height and pixel format of the buffer, its `stride` if rows are padded, and only the "
            "bytes of the image",
        )
    return np.lib.stride_tricks.as_strided(buffer, (height, row), (step, 1), writeable=False)


def _check_size(layout: PixelFormat, width: int, height: int) -> None:
    least = 2 if layout.is_bayer else 1
    if min(width, height) < least:
        raise OptionError(
            "the image is too small", expected=f"at least {least} × {least} pixels", received=f"{width} × {height}"
        )
    if width % layout.pixels_in_group:
        raise OptionError(
            f"rows of {layout.name} would end within a byte, or between two pixels that share bytes",
            expected=f"a width that is a multiple of {layout.pixels_in_group}",
            received=f"{width:,} pixels",
            fix="choose such a width in the camera",
        )


def _bytes_of(data: Any) -> NDArray[np.uint8]:
    if isinstance(data, np.ndarray) and data.dtype.newbyteorder("=").str not in {"|u1", "<u2"}:
        raise InputError(
            "a buffer consists of bytes, or of 16-bit words",
            expected="bytes, or an array of uint8 or uint16",
            received=str(data.dtype),
        )
    if isinstance(data, np.ndarray) and not data.dtype.isnative:
        raise InputError("the words of the buffer have their high byte first", expected="uint16", received=">u2")
    try:
        return np.frombuffer(data, np.uint8)
    except (TypeError, ValueError, BufferError) as error:
        raise InputError(
            "the buffer cannot be read",
            expected="bytes in one piece",
            received=f"{type(data).__name__}: {error}",
            fix="copy it: bytes(buffer), or numpy.ascontiguousarray(buffer)",
        ) from error


def _components(rows: NDArray[np.uint8], layout: PixelFormat) -> NDArray[Any]:
    """Return the values of the components ``(H, components of a row)``, in memory of their own."""
    if layout.packing == "whole":
        whole = np.array(rows, order="C")
        if layout.bits == 8:
            return whole
        values = whole.view("<u2").astype(np.uint16, copy=False)
    else:
        size = layout.pixels_in_group * layout.bits // 8 if layout.packing == "p" else 3
        groups = rows.reshape(len(rows), -1, size)
        unpacked = (_bit_by_bit if layout.packing == "p" else _in_three_bytes)(groups, layout.bits)
        values = unpacked.reshape(len(rows), -1)
    highest = int(values.max())
    if highest >> layout.bits:  # the bits above must be zero
        raise InputError(
            f"the buffer is not {layout.name}: it has values of more than {layout.bits} bits",
            expected=f"at most {(1 << layout.bits) - 1}",
            received=str(highest),
            fix="pass the pixel format that the camera sends",
        )
    return values


def _bit_by_bit(groups: NDArray[np.uint8], bits: int) -> NDArray[np.uint16]:
    """Return the values of groups of bytes that begin with the lowest bits of the first value."""
    count = groups.shape[2] * 8 // bits
    values = np.empty((*groups.shape[:2], count), np.uint16)
    for index in range(count):
        first, shift = divmod(index * bits, 8)
        value = groups[..., first].astype(np.uint32) >> shift
        for offset in range(1, (shift + bits + 7) // 8):
            value |= groups[..., first + offset].astype(np.uint32) << (8 * offset - shift)
        values[..., index] = value & ((1 << bits) - 1)
    return values


def _in_three_bytes(groups: NDArray[np.uint8], bits: int) -> NDArray[np.uint16]:
    """Return two values of each three bytes; the middle one has the low bits of both."""
    low = bits - 8
    mask = np.uint16((1 << low) - 1)
    first, middle, last = (groups[..., index].astype(np.uint16) for index in range(3))
    return np.stack([first << low | middle & mask, last << low | middle >> 4 & mask], axis=-1)


def _from_luma_chroma(rows: NDArray[np.uint8], order: str, standard: LumaChroma) -> NDArray[np.uint8]:
    pairs = rows.reshape(len(rows), -1, 4)
    y, cb, cr = (0, 1, 3) if order == "YUYV" else (1, 0, 2)
    luma = pairs[..., y::2].reshape(len(rows), -1)
    return rgb_of(luma, pairs[..., cb].repeat(2, axis=1), pairs[..., cr].repeat(2, axis=1), standard)
