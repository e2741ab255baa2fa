"""Users are told when the networks see much less than the camera."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kd_train.data.image_records import ImageRecord
from kd_train.data.reduction import reduction_remark
from kd_train.training.from_options import recipe_of
from kd_train.training.training_images import read_training_images
from kdx.imaging.images import InputSpec
from kdx.progress import SILENT
from tests.tiny_training import TINY

FRAMES = [ImageRecord(Path(f"{index}.png"), "", 2448, 2048, True) for index in range(3)]


@pytest.mark.parametrize(
    ("spec", "size", "said"),
    [
        # sqrt(2048 * 2448) / 64 = 35.0, and 35.0 * sqrt(10) = 110.6
        ({"height": 2048, "width": 2448}, 64, ("64 × 64 pixels, up to 35 times a side", "111 × 111")),
        ({"height": 2048, "width": 2448}, (128, 512), ("512 × 128 pixels, up to 9 times", "28 × 28")),
        ({"height": 64, "width": 64, "fixed_size": False}, 64, ("up to 35 times", "111 × 111")),
        ({"height": 2048, "width": 2448, "crop": (0, 0, 1024, 1024)}, 64, ("up to 16 times", "51 × 51")),
        ({"height": 512, "width": 512}, 64, ("up to 8 times", "26 × 26")),  # tiles
        ({"height": 511, "width": 511}, 64, None),
        ({"height": 2048, "width": 2448, "crop": (0, 0, 500, 500)}, 64, None),
        ({"height": 2048, "width": 2448}, 320, None),
    ],
)
def test_much_smaller_images_are_named(spec: dict, size, said: tuple[str, str] | None) -> None:
    found = reduction_remark(FRAMES, InputSpec(channels=1, **spec), size)
    if said is None:
        assert found == []
        return
    (remark,) = found
    assert (remark.kind, remark.count, remark.first) == ("reduced_much", 3, ("0.png", "1.png", "2.png"))
    assert all(each in remark.text for each in said)


def test_training_names_them(tmp_path: Path) -> None:
    (tmp_path / "train/good").mkdir(parents=True)
    noise = np.random.default_rng(0)
    for index in range(4):
        Image.fromarray(noise.integers(0, 256, (520, 520), np.uint8)).save(tmp_path / f"train/good/{index}.png")
    found = [
        [remark.kind for remark in read_training_images(tmp_path, options, recipe_of(options), SILENT).remarks]
        for options in (TINY, replace(TINY, image_size=96), replace(TINY, tile=256))
    ]
    assert found == [["reduced_much"], [], []]
