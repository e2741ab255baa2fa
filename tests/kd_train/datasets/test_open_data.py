"""Any folder: what is recognised, what is not, and what is said then."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kd_train.datasets import categories, layouts, open_data, recognise
from kdx.errors import DataError
from kdx.folders.data_folder import FolderOptions, open_folder

KEYS = {"mvtec_ad", "btad", "tilda", "mvtec_3d_ad", "magnetic_tile", "shanghaitech", "cifar10", "elpv"}


def test_every_data_set_says_what_it_is():
    assert {layout.info.key for layout in layouts()} == KEYS
    for layout in layouts():
        assert layout.info.title in layout.looked_for or layout.info.title.startswith("TILDA 400")
        assert len(layout.info.source) > 30
        assert len(layout.info.split) > 30
        assert layout.info.image_size in {32, 64, 128, 256}


def test_a_folder_in_mvtec_layout_is_opened_as_before(dataset):
    assert open_data(dataset) == open_folder(dataset)
    assert recognise(dataset) is None
    assert categories(dataset) == ()


def test_a_folder_of_good_images_is_opened_as_before(dataset):
    assert open_data(dataset / "train/good") == open_folder(dataset / "train/good")
    assert open_data(dataset / "train") == open_folder(dataset / "train")


def test_good_images_beside_another_folder_are_no_data_set_and_the_folder_is_named(write, refused, tmp_path):
    write(tmp_path / "0.png")
    write(tmp_path / "older/bottle/train/good/0.png")
    with refused("it is unclear which of them are good", "older/ (1 image), 1 image beside them"):
        open_data(tmp_path)
    assert open_data(tmp_path, options=FolderOptions(subfolders=True)).layout == "plain"


def test_unknown_layout_says_what_was_looked_for_and_what_was_found(refused, tmp_path):
    (tmp_path / "frames").mkdir()
    (tmp_path / "notes.txt").touch()
    phrases = [layout.looked_for for layout in layouts()]
    with refused("no images were found", "train/good", *phrases, "received: frames/, notes.txt"):
        open_data(tmp_path)


def test_empty_folder(refused, tmp_path):
    with refused("no images were found", "an empty folder"):
        open_data(tmp_path)


def test_missing_folder(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        open_data(tmp_path / "nowhere")


def test_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is not a folder"):
        open_data(tmp_path / "file")


def test_forbidden_folder(refused, forbid, tmp_path):
    forbid(tmp_path)
    with refused(str(tmp_path), "permission denied"):
        open_data(tmp_path)


def test_a_category_of_a_folder_without_categories(refused, dataset):
    with refused("has no categories", "leave `category` out"):
        open_data(dataset, "bottle")


def test_a_folder_around_the_data_set_is_looked_into(write, tmp_path):
    for name in ("bottle", "cable"):
        write(tmp_path / f"download/mvtec_anomaly_detection/{name}/train/good/000.png")
    assert categories(tmp_path) == ("bottle", "cable")
    assert recognise(tmp_path).key == "mvtec_ad"


def test_no_torch_is_needed():
    code = "import kd_train.datasets as d, sys; d.layouts(); assert not {'torch', 'av'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
