"""TILDA 400: patches in folders by defect, whose names give the photograph."""

from __future__ import annotations

import shutil

import pytest

from kd_train.datasets import categories, open_data, recognise


@pytest.fixture
def root(write, tmp_path):
    for photo in range(6):
        for row in range(2):
            write(tmp_path / f"good/{photo:03d}_patch{row}-0.png")
    for photo, kind in enumerate(("hole", "hole", "objects", "objects", "oil spot", "thread error")):
        write(tmp_path / f"{kind}/{photo:03d}_patch1-1.png")
    return tmp_path


def photos(paths):
    return {path.name[:3] for path in paths}


def test_split(root, counts):
    folder = open_data(root)
    assert (folder.dataset, folder.category) == ("tilda", None)
    assert photos(folder.good) == {"000", "002", "004"}
    assert photos(image.path for image in folder.test) == {"001", "003", "005"}
    assert counts(folder) == {"good": 6, "hole": 1, "objects": 1, "thread_error": 1}


def test_patches_of_one_photograph_are_held_out_together(root):
    folder = open_data(root)
    assert set(folder.parts) == {path.name for path in folder.good}
    assert {folder.parts[path.name] for path in folder.good} == {"photograph 0", "photograph 2", "photograph 4"}


def test_facts(root):
    assert categories(root) == ()
    assert (recognise(root).key, recognise(root).image_size) == ("tilda", 64)


def test_good_patches_alone_are_a_folder_of_good_images(root):
    for kind in ("hole", "objects", "oil spot", "thread error"):
        shutil.rmtree(root / kind)
    assert open_data(root).layout == "plain"


def test_a_name_that_tells_no_photograph(root, write, refused):
    write(root / "hole/mine.png")
    with refused("mine.png", "128_patch2-3.png"):
        open_data(root)


def test_one_photograph(root, refused):
    for path in root.rglob("*.png"):
        if not path.name.startswith("000"):
            path.unlink()
    with refused("TILDA 400", "no test split"):
        open_data(root)
