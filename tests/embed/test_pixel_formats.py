"""The C library decodes the buffers of cameras to the same bytes as Python."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

import kdx
from kdx.imaging.pixel_formats import PIXEL_FORMATS
from tests.embed.build import CallError, Detector, missing

pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=missing()),
    pytest.mark.filterwarnings("ignore::kdx.imaging.value_range.NarrowRangeWarning"),
]

WIDTH, HEIGHT = 24, 7


def random_buffer(name: str, width: int, height: int, padding: int = 0) -> bytes:
    """Return random rows of a format, from its lowest value to its highest."""
    layout = PIXEL_FORMATS[name]
    rows = np.random.default_rng(5).integers(0, 256, (height, layout.bytes_in_row(width)), dtype=np.uint8)
    rows[0], rows[1] = 255, 0
    if layout.packing == "whole" and layout.bits in {10, 12, 14}:
        rows[:, 1::2] &= (1 << (layout.bits - 8)) - 1
    return np.pad(rows, ((0, 0), (0, padding)), constant_values=77).tobytes()


@pytest.mark.parametrize("name", PIXEL_FORMATS)
def test_every_format_is_decoded_to_the_bytes_of_python(built: Path, name: str) -> None:
    padding = len(name) % 3
    data = random_buffer(name, WIDTH, HEIGHT, padding)
    stride = PIXEL_FORMATS[name].bytes_in_row(WIDTH) + padding
    specs = [
        kdx.InputSpec(height=HEIGHT, width=WIDTH, channel_order="bgr", sixteen_bit_range=(100, 3999)),
        kdx.InputSpec(height=HEIGHT, width=WIDTH, channels=3 if PIXEL_FORMATS[name].is_colour else 1),
    ]
    for spec in specs:
        given = (name, HEIGHT, WIDTH, stride, spec.channels, int(spec.channel_order == "bgr"), *spec.sixteen_bit_range)
        program = [str(built / "tests" / "kdx_pixel_formats"), *map(str, given)]
        ours = subprocess.run(program, input=data, stdout=subprocess.PIPE, check=True, timeout=60).stdout
        theirs = kdx.decode_frame(data, name, WIDTH, HEIGHT, spec, stride=stride)
        np.testing.assert_array_equal(np.frombuffer(ours, np.uint8).reshape(theirs.shape), theirs)


@pytest.mark.parametrize("name", ["Mono8", "Mono12Packed", "Mono16"])
def test_a_buffer_is_judged_as_in_python(library: Path, bundle: Path, name: str) -> None:
    with kdx.load(bundle, backend="openvino", threads=1, precision="fp32") as expected:
        spec = expected.input
        data = random_buffer(name, spec.width, spec.height)
        frame = kdx.decode_frame(data, name, spec.width, spec.height, spec)
        with Detector(library, bundle, "fp32") as detector:
            ours = detector.decode(data, name, spec.width, spec.height)
            np.testing.assert_array_equal(ours, frame)
            assert detector(ours)[0].score == pytest.approx(expected(frame).score, rel=1e-5)


def test_a_buffer_that_is_refused_leaves_black_pixels(library: Path, bundle: Path) -> None:
    with Detector(library, bundle, "fp32") as detector:
        size = (detector.takes.width, detector.takes.height)
        target = np.full((size[1], size[0], detector.takes.channels), 90, np.uint8)
        with pytest.raises(CallError, match="does not have the size of Mono8"):
            detector.decode(b"\0" * 7, "Mono8", *size, target)
        assert not target.any()
