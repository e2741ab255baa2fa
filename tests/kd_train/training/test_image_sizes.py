"""The size at which networks run, as the options of training ask for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from kd_train.data.gate_images import DrawnDefects
from kd_train.data.image_records import require_croppable
from kd_train.training.from_options import build_pair, check_options, recipe_of
from kd_train.training.run_folder import Run
from kdx.errors import OptionError
from kdx.imaging.images import InputSpec
from tests.images import solar_cells
from tests.tiny_training import TINY


def recipe(**options: Any) -> Any:
    return recipe_of(replace(TINY, **options))


def test_a_square_is_recorded_as_one_number_however_it_is_given():
    assert recipe(image_size=(64, 64)) == recipe(image_size=[64, 64]) == recipe(image_size=64)
    found = recipe(image_size=[64, 256])
    assert (found.image_size, found.size, found.resize_to) == ((64, 256), (64, 256), None)


@pytest.mark.parametrize(
    ("size", "crop"),
    [(224, 256), (112, 128), ((224, 448), (256, 512)), ((256, 1024), (293, 1172)), ((96, 160), (111, 185))],
)
def test_a_crop_keeps_its_share_of_both_sides(size, crop):
    found = recipe(method="dual-loc", image_size=size)
    assert found.crop_from == crop
    assert found.resize_to[0] * found.size[1] == found.resize_to[1] * found.size[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"image_size": (31, 64)}, "`image_size` is out of range"),
        ({"image_size": (64, 4097)}, "`image_size` is out of range"),
        ({"image_size": "64x64"}, "`image_size` is not a size"),
        ({"image_size": (64, 128), "crop_from": (80, 150)}, "`crop_from` has other proportions"),
        ({"image_size": (64, 128), "crop_from": 150}, "`crop_from` has other proportions"),
        ({"image_size": (64, 128), "crop_from": (32, 64)}, "`crop_from` is out of range"),
        ({"image_size": (64, 128), "tile": 64}, "tiles are squares"),
    ],
)
def test_sizes_that_fit_nothing_are_refused(options, said):
    with pytest.raises(OptionError, match=said):
        recipe(**options)


def test_strides_must_divide_both_sides_except_of_squares():
    options = replace(TINY, image_size=(64, 250))
    with pytest.raises(OptionError, match="the strides of the taps do not divide") as caught:
        build_pair(options, recipe_of(options))
    assert (caught.value.expected, caught.value.received) == (
        "multiples of 16, the stride of layer3, e.g. 64x256",
        "64x250",
    )
    square = replace(TINY, image_size=100)
    assert build_pair(square, recipe_of(square))


# A window of the frame


def test_a_window_needs_images_of_one_size_and_no_tiles():
    require_croppable((8, 8, 32, 32), {(64, 64)})
    with pytest.raises(OptionError, match="a part of frames that all have one size") as caught:
        require_croppable((8, 8, 32, 32), {(64, 64), (80, 64)})
    assert caught.value.received == "images of 64 × 64, 64 × 80"
    with pytest.raises(OptionError, match="`crop` and `tile` exclude each other"):
        check_options(replace(TINY, crop=(8, 8, 32, 32), tile=64))


def test_an_export_names_the_window_of_its_camera(tiny_run):
    run = Run(tiny_run)
    assert run.input_for((120, 200), crop=(10, 20, 100, 90)).crop == (10, 20, 100, 90)
    with pytest.raises(OptionError, match="is not inside of the frame"):
        run.input_for(None, crop=(10, 20, 100, 90))
    run.config = msgspec.structs.replace(run.config, input=run.input_for(None, crop=(8, 8, 32, 32)))
    assert run.input_for(None).crop == (8, 8, 32, 32)
    with pytest.raises(OptionError, match="a window of frames of another size"):
        run.input_for((120, 200), crop=(10, 20, 100, 90))


def test_defects_are_drawn_where_the_networks_see_them():
    good = solar_cells(4, (64, 96), 1)
    spec = InputSpec(height=64, width=96, channels=1, crop=(40, 16, 32, 24))
    outside = np.ones((64, 96), bool)
    outside[16:40, 40:72] = False
    for index, drawn in enumerate(DrawnDefects(good, 0, spec)):
        changed = (drawn != good[index % 4])[..., 0]
        assert changed.any()
        assert not changed[outside].any()
