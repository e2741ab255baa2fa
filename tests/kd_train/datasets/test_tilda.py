"""TILDA: names such as c1r1e0n1.tif give textile, error class and number in any folder."""

from __future__ import annotations

import shutil

import pytest

from kd_train.datasets import categories, open_data, recognise

FOLDERS = ("c1/r1/e0", "c1r1/e0", "c1r1e0", ".")


def place(root, folder, textile, error):
    parts = {"c1/r1/e0": f"{textile[:2]}/{textile[2:]}/{error}", "c1r1/e0": f"{textile}/{error}"}
    return root / parts.get(folder, f"{textile}{error}" if folder == "c1r1e0" else ".")


@pytest.fixture(params=FOLDERS)
def root(write, tmp_path, request):
    for textile in ("c1r1", "c2r3"):
        for error in ("e0", "e1", "e7"):
            for number in (1, 2, 3, 10, 11):
                name = f"{textile}{error}n{number}.tif"
                write(place(tmp_path, request.param, textile, error) / (name if number < 10 else name.upper()))
    return tmp_path


def test_split(root, counts):
    folder = open_data(root, "c2r3")
    assert (folder.dataset, folder.category) == ("tilda", "c2r3")
    # In the order of the numbers, not of the letters.
    assert [path.stem.lower() for path in folder.good] == ["c2r3e0n1", "c2r3e0n2", "c2r3e0n3"]
    good = [image.path.stem.lower() for image in folder.test if not image.is_defective]
    assert good == ["c2r3e0n10", "c2r3e0n11"]
    assert counts(folder) == {"good": 2, "e1": 5, "e7": 5}
    assert all(image.mask is None for image in folder.test)


def test_facts(root):
    assert categories(root) == ("c1r1", "c2r3")
    assert (recognise(root).key, recognise(root).image_size) == ("tilda", 256)


def test_textile_is_needed(root, refused):
    with refused("2 categories of TILDA", "c1r1, c2r3"):
        open_data(root)


def test_unknown_textile(root, refused):
    with refused("no category 'c1r3'", "c1r1"):
        open_data(root, "c1r3")


@pytest.fixture
def one(write, tmp_path):
    for error in ("e0", "e1"):
        for number in range(4):
            write(tmp_path / f"c1/r1/{error}/c1r1{error}n{number}.tif")
    return tmp_path


def test_one_textile(one):
    assert open_data(one / "c1/r1").category == open_data(one).category == "c1r1"
    assert categories(one / "c1/r1") == ()


def test_error_free_images_alone_are_a_folder_of_good_images(one):
    folder = open_data(one / "c1/r1/e0")
    assert (folder.layout, len(folder.good), folder.dataset) == ("plain", 4, None)


def test_without_error_free_images(one, refused):
    shutil.rmtree(one / "c1/r1/e0")
    with refused("'c1r1' of TILDA", "no good images", "c1r1e0n1.tif"):
        open_data(one)


def test_one_error_free_image_leaves_none_to_test_on(one, refused):
    for number in (1, 2, 3):
        (one / f"c1/r1/e0/c1r1e0n{number}.tif").unlink()
    with refused("'c1r1' of TILDA", "no test split", "0 good and 4 defective"):
        open_data(one)


def test_forbidden_folder(one, refused, forbid):
    forbid(one / "c1/r1/e1")
    with refused("permission denied", "e1"):
        open_data(one)
