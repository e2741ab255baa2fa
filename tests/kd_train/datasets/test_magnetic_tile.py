"""Magnetic Tile Defects: MT_*/Imgs/expE_num_N.jpg with .png masks, several exposures a tile."""

from __future__ import annotations

import re
import shutil

import pytest
from PIL import Image

from kd_train.datasets import categories, open_data, recognise

DEFECTS = ("Blowhole", "Break", "Crack", "Fray", "Uneven")


@pytest.fixture
def root(write, tmp_path):
    """Eleven tiles without defects, five with, and one that is good in some exposures only."""

    def shoot(kind, number, exposure, index):
        stem = tmp_path / f"MT_{kind}/Imgs/exp{exposure}_num_{number}"
        size = (40 + index % 3, 44)  # tiles differ in size
        image = write(stem.with_suffix(".jpg"), size=size)
        mask = write(stem.with_suffix(".png"), size=Image.open(image).size, is_mask=True)
        if kind == "Free":
            Image.new("L", size).save(mask)

    for tile in range(11):
        for exposure in range(1, 7):
            shoot("Free", 1000 + 700 * tile + 27 * exposure, exposure, tile)
    for tile, kind in enumerate(DEFECTS):
        for exposure in range(1, 7):
            shoot(kind, 50_000 + 900 * tile + 31 * exposure, exposure, tile)
    for exposure in range(1, 7):
        shoot("Free" if exposure < 4 else "Crack", 90_000 + 15 * exposure, exposure, 0)
    return tmp_path


def test_split(root, counts):
    folder = open_data(root)
    assert (folder.dataset, folder.category) == ("magnetic_tile", None)
    assert counts(folder) == {"good": 15, "blowhole": 6, "break": 6, "crack": 9, "fray": 6, "uneven": 6}
    assert len(folder.good) == 9 * 6  # of eleven tiles every fifth is tested on


def test_exposures_of_one_tile_stay_on_one_side(root):
    folder = open_data(root)
    trained = {(int(re.search(r"num_(\d+)", path.name)[1]) - 1001) // 700 for path in folder.good}
    tested = {
        (int(re.search(r"num_(\d+)", image.path.name)[1]) - 1001) // 700
        for image in folder.test
        if not image.is_defective
    }
    assert not trained & tested
    assert len(trained) == 9
    # The tile with a defect under some exposures is not trained on under the others.
    assert not any("num_9" in path.name for path in folder.good)


def test_the_split_is_always_the_same(root):
    assert open_data(root) == open_data(root)


def test_good_images_have_no_mask_and_others_their_own(root):
    for image in open_data(root).test:
        assert image.mask == (image.path.with_suffix(".png") if image.is_defective else None)


def test_facts(root):
    assert categories(root) == ()
    info = recognise(root)
    assert (info.key, info.image_size) == ("magnetic_tile", 128)
    assert "exposures" in info.split


def test_it_has_no_categories(root, refused):
    with refused("no category 'crack'", "leave `category` out"):
        open_data(root, "crack")


def test_missing_mask(root, refused):
    next((root / "MT_Fray/Imgs").glob("*.png")).unlink()
    with refused("MT_Fray/Imgs", "6 masks", "5 masks; no mask for"):
        open_data(root)


def test_a_name_that_tells_no_tile(root, write, refused):
    write(root / "MT_Free/Imgs/tile7.jpg")
    with refused("tile7.jpg", "exp1_num_12345.jpg"):
        open_data(root)


def test_without_defective_tiles(root, refused):
    for kind in DEFECTS:
        shutil.rmtree(root / f"MT_{kind}")
    with refused("Magnetic Tile Defects", "no test split", "MT_Free/"):
        open_data(root)


def test_without_good_tiles(root, refused):
    shutil.rmtree(root / "MT_Free")
    with refused("Magnetic Tile Defects", "no good images"):
        open_data(root)
