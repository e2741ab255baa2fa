"""Images that are read again in every epoch."""

from __future__ import annotations

import os
import shutil

import pytest

from kd_train.data.image_records import BadImages, scan_images
from kd_train.data.image_set import ImageSet
from kdx.errors import TrainingError
from kdx.imaging.images import InputSpec


@pytest.fixture
def images(make_images, tmp_path) -> ImageSet:
    """Three images that are not kept in memory."""
    for index, image in enumerate(make_images(3)):
        image.save(tmp_path / f"{index}.png")
    bad = BadImages(0)
    records = scan_images(sorted(tmp_path.iterdir()), bad)
    return ImageSet(records, InputSpec(height=64, width=64, channels=1), bad, memory_mib=0, workers=0)


def test_an_image_that_was_replaced_is_not_trained_on(images, make_images):
    make_images(1, offset=9)[0].save(images.files[1])
    for read in (lambda: images[1], lambda: list(images.batches([[0, 1]]))):
        with pytest.raises(TrainingError, match=r"an image changed during training: '.*1\.png' was replaced"):
            read()
    assert images[0].shape == (64, 64, 1)


def test_a_copy_of_the_same_image_is_as_good(images):
    before = images[1].copy()
    shutil.copy(images.files[1], images.files[1].with_suffix(".copy"))
    images.files[1].with_suffix(".copy").replace(images.files[1])
    os.utime(images.files[1], ns=(1, 1))
    assert (images[1] == before).all()
