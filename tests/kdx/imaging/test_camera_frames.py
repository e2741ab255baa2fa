"""A camera's buffer becomes the array that a file with the same pixels becomes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

import kdx
from kdx.errors import InputError, OptionError
from kdx.imaging.images import ChannelOrder
from kdx.imaging.value_range import NarrowRangeWarning

WIDTH, HEIGHT = 8, 6
GREY = np.random.default_rng(0).integers(0, 4096, (HEIGHT, WIDTH)).astype(np.uint16)


def twelve_bits_packed(values: np.ndarray) -> bytes:
    """Return values as Mono12p."""
    return sum(int(value) << 12 * index for index, value in enumerate(values.flat)).to_bytes(
        values.size * 3 // 2, "little"
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("declared", [(0, 4095), (100, 3000)])
@pytest.mark.parametrize("name", ["Mono12", "Mono12p"])
def test_twelve_bits_become_what_a_file_of_the_camera_becomes(
    name: str, declared: tuple[int, int], channels: Literal[1, 3], tmp_path: Path
) -> None:
    spec = kdx.InputSpec(height=HEIGHT, width=WIDTH, channels=channels, sixteen_bit_range=declared)
    file = tmp_path / "a.png"
    Image.fromarray(GREY).save(file)
    data = GREY.tobytes() if name == "Mono12" else twelve_bits_packed(GREY)
    np.testing.assert_array_equal(kdx.decode_frame(data, name, WIDTH, HEIGHT, spec), kdx.read_image(file, spec))


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("name", ["BayerRG8", "BayerGB12p", "RGB8", "BGR8", "YCbCr709_422_8"])
def test_colour_becomes_what_a_file_of_the_decoded_pixels_becomes(
    name: str, order: ChannelOrder, tmp_path: Path
) -> None:
    spec = kdx.InputSpec(height=HEIGHT, width=WIDTH, channel_order=order)
    size = {"BayerRG8": 1, "BayerGB12p": 1.5, "RGB8": 3, "BGR8": 3, "YCbCr709_422_8": 2}[name]
    data = np.random.default_rng(1).integers(0, 256, int(WIDTH * HEIGHT * size), dtype=np.uint8)
    file = tmp_path / "a.png"
    Image.fromarray(kdx.decode_pixels(data, name, WIDTH, HEIGHT)).save(file)
    frame = kdx.decode_frame(data, name, WIDTH, HEIGHT, spec)
    np.testing.assert_array_equal(frame, kdx.read_image(file, spec))
    spec.check(frame)
    assert frame.flags.c_contiguous


def test_deep_grey_is_saved_for_training_with_its_own_values(tmp_path: Path) -> None:
    Image.fromarray(kdx.decode_pixels(twelve_bits_packed(GREY), "Mono12p", WIDTH, HEIGHT)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), GREY)


def test_values_that_fill_little_of_the_range_are_warned_of() -> None:
    spec = kdx.InputSpec(height=HEIGHT, width=WIDTH, channels=1)
    with pytest.warns(NarrowRangeWarning, match="12 bits"):
        kdx.decode_frame(GREY, "Mono12", WIDTH, HEIGHT, spec)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((b"", "Mono8", HEIGHT, WIDTH), "wrong size"),
        ((b"", "Mono8", WIDTH, HEIGHT), "48 bytes"),
        ((b"", "BayerRG8", WIDTH, HEIGHT), "takes grey images, and BayerRG8 is colour"),
        ((b"", "Mono9", WIDTH, HEIGHT), "unknown pixel format"),
    ],
)
def test_a_frame_that_does_not_fit_is_refused(given: tuple[bytes, str, int, int], said: str) -> None:
    with pytest.raises((InputError, OptionError), match=said):
        kdx.decode_frame(*given, kdx.InputSpec(height=HEIGHT, width=WIDTH, channels=1))
