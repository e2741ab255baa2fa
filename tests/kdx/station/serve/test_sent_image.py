"""The image of a request becomes the frame that a file of the same content becomes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

import kdx
from kdx.errors import ImageError, InputError, OptionError
from kdx.station.serve.sent_image import Buffer, Layout, frame_of, layout_of

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


@pytest.mark.parametrize("stride", [None, "12"])
def test_a_buffer_of_a_camera_is_decoded_by_its_pixel_format(stride):
    spec = kdx.InputSpec(height=6, width=8, channel_order="bgr")
    rows = np.arange(6 * 8, dtype=np.uint8).reshape(6, 8)
    data = rows if stride is None else np.pad(rows, ((0, 0), (0, 4)), constant_values=9)
    layout = layout_of("6,8", None, "BayerRG8", stride)
    assert layout == Buffer((6, 8), "BayerRG8", None if stride is None else 12)
    frame = frame_of(data.tobytes(), layout, spec)
    np.testing.assert_array_equal(frame.pixels, kdx.decode_frame(rows, "BayerRG8", 8, 6, spec))
    assert frame.size == (6, 8)


def test_deep_grey_of_a_camera_is_scaled_by_the_range_of_the_bundle_and_doubts_are_said():
    values = np.arange(48, dtype="<u2").reshape(6, 8)
    spec = kdx.InputSpec(height=6, width=8, channels=1, sixteen_bit_range=(0, 4095))
    frame = frame_of(values.tobytes(), Buffer((6, 8), "Mono12"), spec)
    np.testing.assert_array_equal(frame.pixels[..., 0], np.rint(values * (255 / 4095)))
    assert "less than a tenth" in frame.warnings[0]


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        (("6,8", None, "Mono9"), "unknown pixel format"),
        (("6,8,1", None, "Mono8"), "invalid `shape`"),
        (("6,8", "uint8", "Mono8"), "`dtype` has no effect"),
        (("6,8", None, None, "8"), "`stride` has no effect"),
        (("6,8", None, "Mono8", "-8"), "invalid `stride`"),
        (("6,8", None, "Mono8", "8.0"), "invalid `stride`"),
    ],
)
def test_a_layout_that_contradicts_itself_is_refused(declared, said):
    with pytest.raises(OptionError, match=said):
        layout_of(*declared)


@pytest.mark.parametrize(
    ("layout", "error", "said"),
    [
        (Buffer((6, 8), "Mono16"), InputError, "96 bytes"),
        (Buffer((8, 6), "Mono8"), InputError, "wrong size"),
        (Buffer((6, 8), "BayerRG8"), InputError, "takes grey images"),
        (Buffer((6, 8), "Mono8", 4), OptionError, "`stride` is too small"),
    ],
)
def test_a_buffer_that_does_not_fit_is_refused(layout, error, said):
    with pytest.raises(error, match=said):
        frame_of(bytes(48), layout, kdx.InputSpec(height=6, width=8, channels=1))


def test_colour_that_a_mono_detector_does_not_see_is_said():
    mono, colour = (kdx.InputSpec(height=6, width=8, channels=channels) for channels in (1, 3))
    assert ["grey" in text for text in frame_of(png(COLOUR), None, mono).warnings] == [True]
    grey_as_rgb = np.repeat(COLOUR[..., :1], 3, axis=2)
    for data, spec in ((png(COLOUR), colour), (png(grey_as_rgb), mono), (png(COLOUR[..., 0]), mono)):
        assert frame_of(data, None, spec).warnings == ()
