"""The size at which networks run, as the options of training ask for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kd_train.training.from_options import build_pair, recipe_of
from kdx.errors import OptionError
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
