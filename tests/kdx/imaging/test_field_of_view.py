"""The window of a frame that networks see: read, checked, and drawn in the frame's coordinates."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from PIL import Image

from kdx.decision.overlay import heat_layer
from kdx.decision.regions import find_regions
from kdx.decision.roi import RoiFrame
from kdx.errors import InputError, OptionError
from kdx.imaging.field_of_view import WHOLE, FieldOfView, parse_crop, require_inside
from kdx.imaging.images import InputSpec
from kdx.imaging.samples import read_sample

FRAME = (60, 100)  # height and width
CROP = (30, 10, 40, 20)
SPEC = InputSpec(height=FRAME[0], width=FRAME[1], channels=1, crop=CROP)


def test_the_part_that_a_map_covers_is_centred_in_the_window():
    assert WHOLE.box(100, 60) == (0, 0, 100, 60)
    assert FieldOfView(0.5).box(100, 60) == (25, 15, 75, 45)
    assert FieldOfView(1.0, CROP).box(100, 60) == (30, 10, 70, 30)
    assert FieldOfView(0.5, CROP).box(100, 60) == (40, 15, 60, 25)
    assert FieldOfView(0.5, CROP).scaled((100, 60), (50, 30)).box(50, 30) == (20, 7.5, 30, 12.5)
    assert (SPEC.seen, SPEC.view(0.5)) == ((20, 40), FieldOfView(0.5, CROP))


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "0,0,a,8", "0,0,1.5,8", "0x0x8x8"])
def test_a_text_that_is_no_window_is_refused(text):
    with pytest.raises(OptionError, match="`crop` is not a window"):
        parse_crop(text)


@pytest.mark.parametrize(
    ("crop", "said"),
    [
        ((61, 0, 40, 20), "is not inside of the frame"),
        ((0, 41, 40, 20), "is not inside of the frame"),
        ((-1, 0, 40, 20), "is not inside of the frame"),
        ((0, 0, 0, 0), "is too small"),
        ((0, 0, 40, -20), "is too small"),
        ((0, 0, 7, 20), "is too small"),
        ((0, 0, 40.0, 20), "is not a window"),
        ("0,0,40,20", "is not a window"),
    ],
)
def test_a_window_must_lie_in_the_frame(crop, said):
    with pytest.raises(OptionError, match=said):
        require_inside(crop, FRAME)
    if isinstance(crop, tuple) and all(isinstance(part, int) for part in crop):
        with pytest.raises(InputError, match=said):
            msgspec.structs.replace(SPEC, crop=crop)


def test_an_input_without_a_window_is_written_as_before():
    assert b"crop" not in msgspec.json.encode(msgspec.structs.replace(SPEC, crop=msgspec.UNSET))
    assert msgspec.json.decode(msgspec.json.encode(SPEC), type=InputSpec) == SPEC
    assert "window 30,10,40,20" in SPEC.describe()


def hot_map() -> np.ndarray:
    """A map of the window, two pixels of the camera each, with one hot pixel."""
    anomaly_map = np.zeros((10, 20), np.float32)
    anomaly_map[3, 5] = 1
    return anomaly_map


def test_regions_are_in_the_frames_coordinates():
    (region,) = find_regions(hot_map(), 0.5, FRAME, view=SPEC.view())
    assert (region.left, region.top, region.width, region.height) == (40, 16, 2, 2)
    assert (region.peak_column, region.peak_row, region.area) == (41, 17, 4)


def test_heat_lies_in_the_window_and_the_rest_is_dark():
    layer = heat_layer(hot_map(), (100, 60), 0.5, SPEC.view())
    outside = np.ones(FRAME, bool)
    outside[10:30, 30:70] = False
    assert (layer[outside] == layer[0, 0]).all()
    assert layer[0, 0, 3] > 0
    assert layer[17, 41].tolist() != layer[0, 0].tolist()


def test_a_region_of_interest_is_of_the_frame():
    frame = RoiFrame(FRAME, (10, 20), SPEC.view(), "max")
    mask = np.full(FRAME, 255, np.uint8)
    mask[:10] = mask[:, :30] = 0  # outside of the window: nothing of the map
    assert frame.roi(mask).counted.all()
    mask[16, 40] = 0
    assert np.argwhere(~frame.roi(mask).counted).tolist() == [[3, 5]]
    mask[10:30, 30:70] = 0
    with pytest.raises(InputError, match="no pixel of the map"):
        frame.roi(mask)


def test_an_image_of_another_size_is_what_the_window_shows(tmp_path):
    frame, inside = (np.random.default_rng(0).integers(0, 255, size).astype(np.uint8) for size in (FRAME, (20, 40)))
    Image.fromarray(frame).save(tmp_path / "frame.png")
    Image.fromarray(inside).save(tmp_path / "inside.png")
    assert (read_sample(tmp_path / "frame.png", SPEC)[..., 0] == frame).all()
    read = read_sample(tmp_path / "inside.png", SPEC)[..., 0]
    assert read.shape == FRAME
    assert (read[10:30, 30:70] == inside).all()
    assert (read[0, 30:70] == inside[0]).all()
