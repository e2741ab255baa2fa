"""Image sizes: a square has one number, everything else height and width."""

from __future__ import annotations

import pytest

from kdx.errors import OptionError
from kdx.imaging.image_size import both_sides, parse_size, require_size, say_size, show_size


@pytest.mark.parametrize(
    ("text", "size"), [("256", 256), ("256x1024", (256, 1024)), ("256X1024", (256, 1024)), ("256x256", 256), ("0", 0)]
)
def test_a_size_is_read_and_written_in_one_way(text, size):
    assert parse_size("--image-size", text) == size
    assert parse_size("--image-size", say_size(size)) == size
    assert require_size("image_size", list(both_sides(size))) == size


def test_the_height_comes_first():
    assert both_sides(parse_size("--image-size", "256x1024")) == (256, 1024)
    assert (show_size((256, 1024)), show_size(256)) == ("256 × 1024", "256²")


@pytest.mark.parametrize("text", ["", "x", "256x", "256x1024x3", "-256", "25.6", "256,1024", "nan"])
def test_other_texts_are_refused(text):
    with pytest.raises(OptionError, match="--image-size is not a size") as caught:
        parse_size("--image-size", text)
    assert "HEIGHTxWIDTH" in caught.value.expected


def test_a_cameras_size_has_two_numbers():
    with pytest.raises(OptionError, match="--input-size is not a size"):
        parse_size("--input-size", "480", squares=False)


@pytest.mark.parametrize("value", ["256x1024", 256.0, (256,), (256, 1024, 3), (256, 10.5), None, True])
def test_other_values_are_refused_from_python(value):
    with pytest.raises(OptionError, match="`image_size` is not a size"):
        require_size("image_size", value)
