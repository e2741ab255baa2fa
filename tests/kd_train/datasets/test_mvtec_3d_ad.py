"""MVTec 3D-AD: CATEGORY/train/good/rgb, CATEGORY/test/TYPE/{rgb,gt,xyz}, validation/good/rgb."""

from __future__ import annotations

import shutil

import pytest
from PIL import Image

from kd_train.datasets import categories, open_data, recognise


@pytest.fixture
def root(write, tmp_path):
    for category in ("bagel", "cable_gland"):
        home = tmp_path / category
        for index in range(3):
            write(home / f"train/good/rgb/{index:03d}.png", mode="RGB")
            (home / "train/good/xyz").mkdir(exist_ok=True)
            (home / f"train/good/xyz/{index:03d}.tiff").write_bytes(b"positions")
            write(home / f"validation/good/rgb/{index:03d}.png", mode="RGB")
        for kind in ("good", "crack", "hole"):
            for index in range(2):
                write(home / f"test/{kind}/rgb/{index:03d}.png", mode="RGB")
                mask = write(home / f"test/{kind}/gt/{index:03d}.png", is_mask=True)
                if kind == "good":  # published with masks all the same
                    Image.new("L", Image.open(mask).size).save(mask)
    return tmp_path


def test_published_split(root, counts):
    folder = open_data(root, "bagel")
    assert (folder.dataset, folder.category) == ("mvtec_3d_ad", "bagel")
    assert [path.relative_to(root).as_posix() for path in folder.good] == [
        f"bagel/train/good/rgb/{index:03d}.png" for index in range(3)
    ]
    assert counts(folder) == {"good": 2, "crack": 2, "hole": 2}
    masks = {image.path.relative_to(root / "bagel/test").as_posix(): image.mask for image in folder.test}
    assert masks["good/rgb/000.png"] is None
    assert masks["hole/rgb/001.png"] == root / "bagel/test/hole/gt/001.png"


def test_facts(root):
    assert categories(root) == ("bagel", "cable_gland")
    assert (recognise(root).key, recognise(root).image_size) == ("mvtec_3d_ad", 256)
    assert "validation" in recognise(root).split
    assert open_data(root / "bagel") == open_data(root, "bagel")


def test_validation_images_can_be_opened_by_themselves(root):
    assert len(open_data(root / "bagel/validation/good/rgb").good) == 3


def test_category_is_needed(root, refused):
    with refused("2 categories of MVTec 3D-AD", "bagel, cable_gland"):
        open_data(root)


def test_missing_mask(root, refused):
    (root / "bagel/test/hole/gt/000.png").unlink()
    with refused("bagel/test/hole/gt", "no mask for 000.png"):
        open_data(root, "bagel")


def test_missing_test_split(root, refused):
    shutil.rmtree(root / "bagel/test")
    with refused("'bagel' of MVTec 3D-AD", "no test split", "train/, validation/"):
        open_data(root, "bagel")


def test_empty_category(root, refused):
    for path in (root / "bagel/train/good/rgb").iterdir():
        path.unlink()
    with refused("'bagel' of MVTec 3D-AD", "no good images"):
        open_data(root, "bagel")
