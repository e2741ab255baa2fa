"""The image of a request becomes the frame that a file of the same content becomes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

import kdx
from kdx.errors import ImageError, InputError
from kdx.station.serve.sent_image import Layout, frame_of

COLOUR = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)


def png(pixels: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", **options)
    return file.getvalue()


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_files_have_the_channels_of_the_input_and_raw_frames_are_left_as_they_are(order, tmp_path):
    spec = kdx.InputSpec(height=6, width=8, channel_order=order)
    file = tmp_path / "a.png"
    file.write_bytes(png(COLOUR))
    np.testing.assert_array_equal(frame_of(file.read_bytes(), None, spec).pixels, kdx.read_image(file, spec))
    np.testing.assert_array_equal(frame_of(COLOUR.tobytes(), Layout(COLOUR.shape), spec).pixels, COLOUR)


def test_a_file_of_another_size_is_resized_where_training_did_and_its_upright_size_is_kept():
    turned = Image.Exif()
    turned[0x0112] = 6
    spec = kdx.InputSpec(height=4, width=4, fixed_size=False)
    frame = frame_of(png(COLOUR, exif=turned), None, spec)
    assert (frame.pixels.shape, frame.size) == ((4, 4, 3), (8, 6))
    with pytest.raises(ImageError, match="wrong size"):
        frame_of(png(COLOUR), None, kdx.InputSpec(height=4, width=4))


@pytest.mark.parametrize(
    ("data", "layout", "said"),
    [
        (bytes(47), Layout((6, 8)), "48 bytes"),
        (bytes(48), Layout((6, 8), "uint16"), "96 bytes"),
        (bytes(48), Layout((8, 6)), "wrong size"),
        (bytes(96), Layout((8, 6), "uint16"), "wrong size"),
        (bytes(144), Layout((6, 8, 3)), "wrong channels"),
    ],
)
def test_a_frame_that_does_not_fit_is_refused(data, layout, said):
    with pytest.raises(InputError, match=said):
        frame_of(data, layout, kdx.InputSpec(height=6, width=8, channels=1))


def test_sixteen_bits_are_little_endian_and_scaled_by_the_range_of_the_bundle():
    spec = kdx.InputSpec(height=1, width=3, channels=1, sixteen_bit_range=(0, 4095))
    values = np.array([[0, 2048, 4095]], "<u2")
    frame = frame_of(values.tobytes(), Layout((1, 3), "uint16"), spec)
    np.testing.assert_array_equal(frame.pixels, kdx.to_eight_bits(values, spec)[..., None])
    assert frame.warnings == ()
