"""Outputs that would lie among images."""

from __future__ import annotations

import pytest
from PIL import Image

from kdx.errors import DataError, OutputError
from kdx.folders.apart import require_apart_from_images


@pytest.fixture
def parts(tmp_path):
    for index, name in enumerate(("train/good/0.png", "test/good/1.png", "test/crack/2.png")):
        path = tmp_path / "parts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), index).save(path)
    return tmp_path / "parts"


@pytest.mark.parametrize("place", ["train/good/run", "train/run", "test/x.kdx", "test/crack/a/b/c", "ground_truth/x"])
def test_an_output_among_the_images_of_a_known_folder_is_refused(parts, place):
    with pytest.raises(OutputError, match="would lie among the images") as caught:
        require_apart_from_images("the run", parts / place, [parts])
    assert "would take pictures in it for parts" in caught.value.expected


@pytest.mark.parametrize("place", ["train/good/run", "train/run", "test/x.kdx", "test/crack/a/run"])
def test_an_output_near_images_is_refused_whatever_is_known(parts, place):
    with pytest.raises(OutputError, match="would lie among the images"):
        require_apart_from_images("the run", parts / place)


@pytest.mark.parametrize("place", ["runs/tile", "tile.kdx", "../runs/tile", "../tile.kdx"])
def test_an_output_beside_the_images_is_allowed(parts, place):
    require_apart_from_images("the run", parts / place, [parts])


def test_a_plain_folder_is_images_alone(tmp_path, monkeypatch):
    Image.new("L", (8, 8)).save(tmp_path / "0.png")
    for known in ([], [tmp_path]):
        with pytest.raises(OutputError, match="would lie among the images"):
            require_apart_from_images("the run", tmp_path / "runs/tile", known)
    (tmp_path / "fit.json").write_text("{}", encoding="utf-8")  # results with a picture, as kdx fit writes them
    require_apart_from_images("the run", tmp_path / "runs/tile")
    (tmp_path / "fit.json").unlink()
    monkeypatch.chdir(tmp_path)  # where users work, pictures lie about
    require_apart_from_images("the run", tmp_path / "tile.kdx")


def test_a_folder_around_that_may_not_be_listed_is_not_one_of_images(parts, tmp_path, close):
    close(tmp_path, may_enter=True)
    require_apart_from_images("the run", tmp_path / "a/run", [parts])
    (tmp_path / "test/hidden").mkdir(parents=True)
    close(tmp_path / "test/hidden", may_enter=True)
    require_apart_from_images("the run", tmp_path / "test/run")
    with pytest.raises(OutputError, match="would lie among the images"):
        require_apart_from_images("the run", parts / "train/run")


def test_data_in_a_folder_that_may_not_be_entered_are_named(parts, tmp_path, close):
    close(tmp_path)
    with pytest.raises(DataError, match=rf"'{tmp_path}' cannot be listed: permission denied"):
        require_apart_from_images("the run", tmp_path.parent / "run", [parts])


def test_a_folder_that_may_not_be_entered_does_not_hide_the_images_beside_it(tmp_path, close):
    Image.new("L", (8, 8)).save(tmp_path / "0.png")
    for name in ("closed", "lost+found"):
        (tmp_path / name).mkdir()
        close(tmp_path / name)
    with pytest.raises(OutputError, match="would lie among the images"):
        require_apart_from_images("the run", tmp_path / "run")


def test_a_folder_that_is_closed_hides_no_images_beside_it(tmp_path, close) -> None:
    for name in ("train/a", "train/good"):
        (tmp_path / name).mkdir(parents=True)
    Image.new("L", (8, 8)).save(tmp_path / "train/good/a.png")
    close(tmp_path / "train/a")
    with pytest.raises(OutputError, match="would lie among the images"):
        require_apart_from_images("the pictures", tmp_path / "train/maps")


def test_commands_that_write_pictures_refuse_places_among_images(cli, dataset_copy, tiny_run, tmp_path, monkeypatch):
    inside = dataset_copy / "train/good/out"
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(f"[products.a]\ndata = '{dataset_copy}'\n", encoding="utf-8")
    for command in (
        ("train", dataset_copy, "--out", inside),
        ("distil", dataset_copy, "--out", inside),
        ("fit", dataset_copy, "--budget-ms", 10, "--out", inside),
        ("train-many", catalog, "--out", inside),
        ("reproduce", "stpm", "--data", dataset_copy, "--out", inside),
        ("export", tiny_run, "--out", inside),
        ("demo", "--out", inside),
    ):
        message = cli(*command, "--json", code=2).json["error"]["message"]
        assert "would lie among the images" in message, command
        assert not inside.exists()


def test_pictures_among_the_images_that_they_are_made_of_are_refused(cli, dataset_copy, tiny_bundle):
    inside = dataset_copy / "train/good/out.png"
    for command in (
        ("roi", tiny_bundle, "--from-images", dataset_copy, "--output", inside),
        ("repeat", tiny_bundle, dataset_copy / "train/good", "--picture", inside),
    ):
        assert "would lie among the images" in cli(*command, "--json", code=2).json["error"]["message"]
