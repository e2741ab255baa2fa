"""BTAD: 01, 02, 03 with train/ok, test/ok, test/ko and ground_truth/ko; .bmp or .png files."""

from __future__ import annotations

import shutil

import pytest

from kd_train.datasets import categories, open_data, recognise

SUFFIXES = {"01": (".bmp", ".png"), "02": (".png", ".png"), "03": (".bmp", ".bmp")}


@pytest.fixture
def root(write, tmp_path):
    home = tmp_path / "BTech_Dataset_transformed"
    for category, (suffix, mask_suffix) in SUFFIXES.items():
        for index in range(3):
            write(home / f"{category}/train/ok/{index:04d}{suffix}", mode="RGB")
        for index in range(2):
            write(home / f"{category}/test/ok/{index:04d}{suffix}", mode="RGB")
        for index in range(4):
            write(home / f"{category}/test/ko/{index:04d}{suffix}", mode="RGB")
            write(home / f"{category}/ground_truth/ko/{index:04d}{mask_suffix}", is_mask=True)
    return home


@pytest.mark.parametrize("category", SUFFIXES)
def test_published_split(root, counts, category):
    folder = open_data(root, category)
    assert (folder.dataset, folder.category, len(folder.good)) == ("btad", category, 3)
    assert counts(folder) == {"good": 2, "ko": 4}
    masks = [image.mask for image in folder.test if image.is_defective]
    assert [mask.name for mask in masks] == [f"{index:04d}{SUFFIXES[category][1]}" for index in range(4)]


def test_facts(root):
    assert categories(root) == ("01", "02", "03")
    assert (recognise(root).key, recognise(root).image_size) == ("btad", 256)


def test_as_unpacked_and_by_category(root, tmp_path):
    assert open_data(tmp_path, "02") == open_data(root, "02") == open_data(root / "02")


def test_category_is_needed(root, refused):
    with refused("3 categories of BTAD", "01, 02, 03"):
        open_data(root)


def test_near_category(root, refused):
    with refused("no category '1'", "expected: 01"):
        open_data(root, "1")


def test_missing_mask(root, refused):
    (root / "02/ground_truth/ko/0001.png").unlink()
    with refused("do not fit the images", "expected: 4 masks", "received: 3 masks; no mask for 0001.png"):
        open_data(root, "02")


def test_spare_mask(root, refused):
    (root / "02/test/ko/0001.png").unlink()
    with refused("do not fit the images", "expected: 3 masks", "received: 4 masks; no image for 0001.png"):
        open_data(root, "02")


def test_without_masks_only_images_are_scored(root):
    shutil.rmtree(root / "01/ground_truth")
    assert all(image.mask is None for image in open_data(root, "01").test)


@pytest.mark.parametrize("parts", [("test",), ("test/ok",), ("test/ko", "ground_truth")])
def test_missing_test_split(root, refused, parts):
    for part in parts:
        shutil.rmtree(root / "01" / part)
    with refused("'01' of BTAD", "has no test split", "test/ok, test/ko", "train/"):
        open_data(root, "01")


def test_empty_category(root, refused):
    shutil.rmtree(root / "03/train/ok")
    (root / "03/train/ok").mkdir()
    with refused("'03' of BTAD", "has no good images"):
        open_data(root, "03")


def test_forbidden_masks(root, refused, forbid):
    forbid(root / "01/ground_truth/ko")
    with refused("01/ground_truth/ko", "permission denied"):
        open_data(root, "01")
