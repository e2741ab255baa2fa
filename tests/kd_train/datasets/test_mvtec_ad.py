"""MVTec AD: CATEGORY/train/good, CATEGORY/test/TYPE, CATEGORY/ground_truth/TYPE/NAME_mask.png."""

from __future__ import annotations

import shutil

import pytest

from kd_train.datasets import categories, open_data, recognise


@pytest.fixture
def root(write, tmp_path):
    for name, defect in (("bottle", "broken_large"), ("screw", "thread_side")):
        home = tmp_path / "mvtec" / name
        for index in range(3):
            write(home / f"train/good/{index:03d}.png")
        for index in range(2):
            write(home / f"test/good/{index:03d}.png")
            write(home / f"test/{defect}/{index:03d}.png")
            write(home / f"ground_truth/{defect}/{index:03d}_mask.png", is_mask=True)
        (home / "license.txt").touch()
    return tmp_path / "mvtec"


def test_published_split(root, counts):
    folder = open_data(root, "screw")
    assert (folder.dataset, folder.category, len(folder.good)) == ("mvtec_ad", "screw", 3)
    assert counts(folder) == {"good": 2, "thread_side": 2}
    assert all((image.mask is None) is (not image.is_defective) for image in folder.test)


def test_categories(root):
    assert categories(root) == ("bottle", "screw")
    assert recognise(root).image_size == 256


def test_one_category_is_a_data_set_of_its_own(root):
    folder = open_data(root / "bottle")
    assert (folder.dataset, folder.category) == ("mvtec_ad", "bottle")
    assert folder.test == open_data(root, "bottle").test
    assert categories(root / "bottle") == ()
    assert open_data(root / "bottle", "bottle") == folder


def test_a_category_must_be_named(root, refused):
    with refused("2 categories of MVTec AD", "bottle, screw", "`category=bottle`"):
        open_data(root)


def test_unknown_category_gets_near_ones(root, refused):
    with refused("no category 'bottles'", "expected: bottle", "bottle, screw"):
        open_data(root, "bottles")


def test_another_category_than_the_folder(root, refused):
    with refused("is the category 'bottle' itself", "`category=screw`"):
        open_data(root / "bottle", "screw")


def test_the_users_own_parts_are_not_taken_for_the_published_ones(root, tmp_path):
    own = tmp_path / "line 7" / "screw"
    shutil.copytree(root / "screw", own)
    (own / "license.txt").unlink()
    assert recognise(own) is None
    folder = open_data(own)
    assert (folder.dataset, folder.category, len(folder.good)) == (None, None, 3)


def test_another_set_of_categories_in_the_same_layout(root, tmp_path):
    (root / "bottle").rename(root / "flask")
    assert recognise(root) is None
    assert categories(root) == ("flask", "screw")
    folder = open_data(root, "flask")
    assert (folder.dataset, folder.category, len(folder.good)) == (None, "flask", 3)


def test_missing_test_split(root, refused):
    shutil.rmtree(root / "bottle/test")
    with refused(
        "'bottle' of MVTec AD", "no test split", "0 good and 0 defective", "ground_truth/, license.txt, train/"
    ):
        open_data(root, "bottle")


def test_empty_category(root, refused):
    shutil.rmtree(root / "bottle")
    (root / "bottle/train/good").mkdir(parents=True)
    with refused("no images were found"):
        open_data(root, "bottle")


def test_forbidden_category(root, refused, forbid):
    forbid(root / "bottle/train/good")
    with refused("bottle/train/good", "permission denied"):
        open_data(root, "bottle")
