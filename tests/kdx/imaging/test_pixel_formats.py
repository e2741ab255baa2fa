"""Every pixel format, beside a reference that follows the standard bit by bit."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from kdx.errors import InputError, OptionError
from kdx.imaging.luma_chroma import BT601, BT709, FULL, LumaChroma, rgb_of
from kdx.imaging.pixel_formats import PIXEL_FORMATS, decode_pixels

WIDTH, HEIGHT = 8, 5
# Three products of at most 255 with coefficients that are rounded to 2**-20.
_NEAR_THE_MIDDLE = Fraction(3 * 255, 2**21)
Samples = list[list[int]]


# The references: plain loops, written from PFNC 2.4 and GigE Vision 1.2.


def unpacked(row: bytes, name: str) -> list[int]:
    """Return the components of a row, by the style that its name ends with."""
    if name.endswith("Packed"):
        found = []
        low = int(name.removesuffix("Packed")[-2:]) - 8
        for first, middle, last in zip(row[::3], row[1::3], row[2::3], strict=True):
            # The middle byte has the low bits of the first value in bit 0, of the second in bit 4.
            found += [(first << low) + middle % 2**low, (last << low) + (middle >> 4) % 2**low]
        return found
    if name.endswith("p"):
        bits = int(name[-3:-1])
        stream = "".join(f"{byte:08b}"[::-1] for byte in row)  # the lowest bit first
        return [int(stream[start : start + bits][::-1], 2) for start in range(0, len(stream), bits)]
    if name.endswith("8"):
        return list(row)
    return [low + 256 * high for low, high in zip(row[::2], row[1::2], strict=True)]


def interpolated(mosaic: Samples, tile: str) -> list[list[list[int]]]:
    """Return the mean of the nearest samples of each colour, with a mirrored border."""
    height, width = len(mosaic), len(mosaic[0])

    def mirrored(index: int, size: int) -> int:
        return -index if index < 0 else 2 * (size - 1) - index if index >= size else index

    def mean(y: int, x: int, colour: str) -> int:
        by_distance: dict[int, list[int]] = {}
        for down, right in product((-1, 0, 1), repeat=2):
            row, column = mirrored(y + down, height), mirrored(x + right, width)
            if tile[2 * (row % 2) + column % 2] == colour:
                by_distance.setdefault(down**2 + right**2, []).append(mosaic[row][column])
        nearest = by_distance[min(by_distance)]
        return int(Fraction(sum(nearest), len(nearest)) + Fraction(1, 2))

    return [[[mean(y, x, colour) for colour in "RGB"] for x in range(width)] for y in range(height)]


def exactly_converted(y: int, cb: int, cr: int, name: str) -> list[Fraction]:
    """Return the RGB of luma and differences by the equations of PFNC 2.4, section 8.2."""
    red, blue = (Fraction("0.2126"), Fraction("0.0722")) if "709" in name else (Fraction("0.299"), Fraction("0.114"))
    is_limited = "601" in name or "709" in name
    luma = Fraction(y - 16, 219) if is_limited else Fraction(y, 255)
    from_blue, from_red = (Fraction(each - 128, 224 if is_limited else 255) for each in (cb, cr))
    r, b = luma + 2 * (1 - red) * from_red, luma + 2 * (1 - blue) * from_blue
    g = (luma - red * r - blue * b) / (1 - red - blue)
    return [min(max(255 * value, Fraction(0)), Fraction(255)) for value in (r, g, b)]


def converted(y: int, cb: int, cr: int, name: str) -> list[int]:
    """Return the nearest values; those of this file's pixels lie clearly on one side."""
    return [int(value + Fraction(1, 2)) for value in exactly_converted(y, cb, cr, name)]


def reference(rows: Sequence[bytes], name: str) -> NDArray[np.generic]:
    """Return what a buffer of this format shows."""
    if "422" in name:
        is_luma_first = name in {"YUV422_8", "YUV422YUYVPacked"} or name.endswith("_422_8") or name == "YCbCr422_8"
        found = []
        for row in rows:
            pixels = []
            for start in range(0, len(row), 4):
                pair = row[start : start + 4]
                y1, cb, y2, cr = pair if is_luma_first else (pair[1], pair[0], pair[3], pair[2])
                pixels += [converted(y1, cb, cr, name), converted(y2, cb, cr, name)]
            found.append(pixels)
        return np.array(found, np.uint8)
    old = {"RGB8Packed": "RGB8", "BGR8Packed": "BGR8", "RGBA8Packed": "RGBa8", "BGRA8Packed": "BGRa8"}
    name = old.get(name, name)
    samples = [unpacked(row, name) for row in rows]
    bits = int("".join(filter(str.isdigit, name)))
    if name.startswith("Mono"):
        return np.array(samples, np.uint8 if bits == 8 else np.uint16)
    if name.startswith("Bayer"):
        tile = {"RG": "RGGB", "GR": "GRBG", "GB": "GBRG", "BG": "BGGR"}[name[5:7]]
        colour = np.array(interpolated(samples, tile))
    else:
        order = "".join(filter(str.isalpha, name))
        components = np.array(samples).reshape(len(rows), -1, len(order))
        colour = np.stack([components[..., order.index(each)] for each in "RGB"], axis=-1)
    most = 2**bits - 1
    # No two values lie half way, because the most is odd: any rounding is the same.
    return np.array([round(Fraction(int(value) * 255, most)) for value in colour.flat], np.uint8).reshape(colour.shape)


def buffer_of(name: str, width: int = WIDTH, height: int = HEIGHT) -> list[bytes]:
    """Return rows of random pixels, with the highest and the lowest value among them."""
    layout = PIXEL_FORMATS[name]
    rows = np.random.default_rng(3).integers(0, 256, (height, layout.bytes_in_row(width)), dtype=np.uint8)
    rows[0], rows[1, :3] = 255, 0
    if layout.packing == "whole" and layout.bits in {10, 12, 14}:
        rows[:, 1::2] &= (1 << (layout.bits - 8)) - 1
    return [row.tobytes() for row in rows]


@pytest.mark.parametrize("name", PIXEL_FORMATS)
def test_every_format_is_decoded_as_the_standard_says(name: str) -> None:
    rows = buffer_of(name)
    decoded = decode_pixels(b"".join(rows), name, WIDTH, HEIGHT)
    expected = reference(rows, name)
    assert decoded.dtype == expected.dtype
    np.testing.assert_array_equal(decoded, expected)
    assert decoded.flags.owndata or decoded.base is None or decoded.base.flags.owndata


def test_the_packed_layouts_of_two_standards_differ() -> None:
    """The same three bytes, written out: 0x12 0x34 0x56."""
    data = bytes([0x12, 0x34, 0x56])
    assert decode_pixels(data, "Mono12p", 2, 1).tolist() == [[0x412, 0x563]]
    assert decode_pixels(data, "Mono12Packed", 2, 1).tolist() == [[0x124, 0x563]]
    assert decode_pixels(data, "Mono10Packed", 2, 1).tolist() == [[0x12 * 4 + 0, 0x56 * 4 + 3]]
    assert decode_pixels(bytes([0xFF, 0x03, 0, 0, 0]), "Mono10p", 4, 1).tolist() == [[1023, 0, 0, 0]]


def test_colours_stand_where_the_name_says() -> None:
    red = np.zeros((4, 4), np.uint8)
    red[::2, ::2] = 200  # the first pixel of BayerRG is red
    assert decode_pixels(red, "BayerRG8", 4, 4)[0, 0].tolist() == [200, 0, 0]
    assert decode_pixels(red, "BayerBG8", 4, 4)[0, 0].tolist() == [0, 0, 200]
    assert decode_pixels(red, "BayerGR8", 4, 4)[0, 0].tolist() == [0, 200, 0]
    assert decode_pixels(bytes([1, 2, 3]), "BGR8", 1, 1).tolist() == [[[3, 2, 1]]]
    assert decode_pixels(bytes([1, 2, 3, 4]), "RGBa8", 1, 1).tolist() == [[[1, 2, 3]]]


@pytest.mark.parametrize("bits", ["8", "10", "16", "12p"])
def test_a_mosaic_of_one_value_has_one_colour(bits: str) -> None:
    name = f"BayerGB{bits}"
    rows = [b"\xff" * PIXEL_FORMATS[name].bytes_in_row(6)] * 4
    if bits == "10":
        rows = [b"\xff\x03" * 6] * 4
    assert (decode_pixels(b"".join(rows), name, 6, 4) == 255).all()


@pytest.mark.parametrize("size", [(2, 2), (3, 3), (2, 5), (7, 2)])
def test_small_and_odd_mosaics_keep_their_pattern_at_the_border(size: tuple[int, int]) -> None:
    rows = buffer_of("BayerGR8", *size)
    np.testing.assert_array_equal(decode_pixels(b"".join(rows), "BayerGR8", *size), reference(rows, "BayerGR8"))


@pytest.mark.parametrize(("standard", "name"), [(FULL, "YCbCr"), (BT601, "YCbCr601"), (BT709, "YCbCr709")])
def test_luma_and_differences_are_converted_to_the_nearest_value(standard: LumaChroma, name: str) -> None:
    values = np.random.default_rng(1).integers(0, 256, (1000, 3), dtype=np.uint8)
    values[:8] = list(product((0, 255), repeat=3))
    y, cb, cr = (values[None, :, index] for index in range(3))
    found = rgb_of(y, cb, cr, standard)[0].tolist()
    for given, rgb in zip(values.tolist(), found, strict=True):
        for value, exact in zip(rgb, exactly_converted(given[0], given[1], given[2], name), strict=True):
            assert abs(value - exact) <= Fraction(1, 2) + _NEAR_THE_MIDDLE, (given, rgb)


def test_white_black_and_red_of_video_levels() -> None:
    """The levels of a red of full saturation, from the tables of BT.601 and BT.709."""
    white, black = bytes([235, 128, 235, 128]), bytes([16, 128, 16, 128])
    for name in ("YCbCr601_422_8", "YCbCr709_422_8"):
        assert (decode_pixels(white, name, 2, 1) == 255).all()
        assert (decode_pixels(black, name, 2, 1) == 0).all()
    for name, (y, cb, cr) in {"YCbCr601_422_8": (81, 90, 240), "YCbCr709_422_8": (63, 102, 240)}.items():
        red = decode_pixels(bytes([y, cb, y, cr]), name, 2, 1)[0, 0]
        np.testing.assert_allclose(red, [255, 0, 0], atol=1)  # the levels are rounded


@pytest.mark.parametrize("name", ["Mono8", "Mono12", "Mono12p", "BayerRG8", "BGRa8", "YUV422_8"])
@pytest.mark.parametrize("has_last_padding", [True, False])
def test_padded_rows_are_read_by_their_stride(name: str, has_last_padding: bool) -> None:
    rows = buffer_of(name)
    padded = b"".join(row + b"\xa5" * 3 for row in rows)
    data = padded if has_last_padding else padded[:-3]
    whole = decode_pixels(b"".join(rows), name, WIDTH, HEIGHT)
    np.testing.assert_array_equal(decode_pixels(data, name, WIDTH, HEIGHT, stride=len(rows[0]) + 3), whole)


def test_the_image_does_not_share_the_memory_that_the_camera_fills_again() -> None:
    buffer = bytearray(b"\x07" * 16)
    image = decode_pixels(buffer, "Mono8", 4, 4)
    buffer[:] = b"\x00" * 16
    assert (image == 7).all()


def test_any_buffer_of_bytes_or_words_is_taken() -> None:
    words = np.arange(20, dtype=np.uint16)
    data = words.tobytes()
    for buffer in (data, bytearray(data), memoryview(data), words, words.reshape(4, 5), words.view(np.uint8)):
        assert decode_pixels(buffer, "Mono16", 5, 4).ravel().tolist() == list(range(20))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((b"\0" * 15, "Mono8", 4, 4), "does not have the size of Mono8.*16 bytes for 4 × 4 pixels.*15 bytes"),
        ((b"\0" * 17, "Mono8", 4, 4), "17 bytes"),
        ((b"", "Mono8", 4, 4), "0 bytes"),
        ((b"\0" * 16, "Mono8", 4, 4, 3), "`stride` is too small.*at least 4 bytes"),
        ((b"\0" * 16, "Mono8", 4, 4, -4), "`stride` is too small"),
        ((b"\0" * 16, "Mono8", 4, 4, 5), "20 bytes for 4 × 4 pixels in rows of 5 bytes"),
        ((b"\0" * 9, "Mono12p", 3, 2), "multiple of 2"),
        ((b"\0" * 9, "Mono12Packed", 3, 2), "multiple of 2"),
        ((b"\0" * 15, "Mono10p", 6, 2), "multiple of 4"),
        ((b"\0" * 12, "YUV422_8", 3, 2), "multiple of 2"),
        ((b"\0" * 4, "BayerRG8", 4, 1), "at least 2 × 2"),
        ((b"", "Mono8", 0, 4), "at least 1 × 1"),
        ((b"\0" * 16, "mono8", 4, 4), "unknown pixel format.*Mono8, Mono10.*'mono8'"),
        ((b"\xff" * 32, "Mono12", 4, 4), "is not Mono12: it has values of more than 12 bits.*at most 4095.*65535"),
        ((b"\xff" * 32, "BayerRG10", 4, 4), "is not BayerRG10"),
        ((np.zeros(16), "Mono8", 4, 4), "float64"),
        ((np.zeros(16, ">u2"), "Mono16", 4, 4), "high byte first"),
        ((np.zeros((4, 8), np.uint8)[:, ::2], "Mono8", 4, 4), "cannot be read.*ascontiguousarray"),
        (("text", "Mono8", 4, 4), "cannot be read.*str"),
    ],
)
def test_a_buffer_that_is_not_what_it_is_called_is_refused(given: tuple[object, ...], said: str) -> None:
    *arguments, stride = given if len(given) == 5 else (*given, None)
    with pytest.raises((InputError, OptionError), match=f"(?s){said}"):
        decode_pixels(*arguments, stride=stride)  # type: ignore[arg-type]
