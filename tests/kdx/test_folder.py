"""How a data folder is understood."""

from __future__ import annotations

import shutil

from kdx.folder import open_folder


def test_mvtec_layout(dataset):
    folder = open_folder(dataset)
    assert folder.layout == "mvtec"
    assert [path.name for path in folder.good] == [f"{index:03d}.png" for index in range(12)]
    assert [(image.defect_type, image.is_defective) for image in folder.test] == [("good", False)] * 4 + [
        ("scratch", True)
    ] * 4
    assert folder.test[0].mask is None
    assert folder.test[4].mask == dataset / "ground_truth/scratch/016_mask.png"


def test_without_ground_truth_no_mask_is_expected(dataset_copy):
    shutil.rmtree(dataset_copy / "ground_truth")
    assert all(image.mask is None for image in open_folder(dataset_copy).test)


def test_plain_folder_of_good_images(dataset):
    folder = open_folder(dataset / "train/good")
    assert folder.layout == "plain"
    assert len(folder.good) == 12
    assert folder.test == ()


def test_plain_folder_with_a_good_folder_inside(dataset):
    assert open_folder(dataset / "train").good == open_folder(dataset).good


def test_hidden_and_other_files_are_passed_over(dataset_copy):
    good = dataset_copy / "train/good"
    for name in (".hidden.png", "Thumbs.db", "notes.txt", "._000.png"):
        (good / name).write_bytes(b"rubbish")
    (good / "folder.png").mkdir()
    shutil.copy(good / "000.png", good / "CAPITALS.PNG")
    assert [path.name for path in open_folder(dataset_copy).good] == [
        *(f"{index:03d}.png" for index in range(12)),
        "CAPITALS.PNG",
    ]
