"""How a data folder is understood: what is good, what is left out, and what is refused."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from kd_train.datasets import open_data, open_defective
from kdx.errors import DataError
from kdx.folders.data_folder import FolderOptions, open_folder
from kdx.folders.good_names import Named, by_name
from kdx.folders.image_search import LeftOut, image_files, image_suffixes, walk_parts
from kdx.workflows.many.catalog import read_catalog
from kdx.workflows.predict import expand
from tests.platforms import needs_links

ALL = FolderOptions(subfolders=True)


def make(root: Path, *files: str) -> Path:
    for index, name in enumerate(files):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in {".png", ".bmp", ".webp", ".jpg"}:
            Image.new("L", (8, 8), index).save(path)
        else:
            path.write_bytes(b"x")
    return root


def names(paths, root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in paths]


def remarks(folder) -> dict[str, tuple[str, ...]]:
    return {one.kind: one.first for one in folder.remarks}


def good_folders(*wanted: str) -> FolderOptions:
    return FolderOptions(good_folders=wanted)


def test_mvtec_layout(dataset):
    folder = open_folder(dataset)
    assert folder.layout == "mvtec"
    assert [path.name for path in folder.good] == [f"{index:03d}.png" for index in range(12)]
    assert [(image.defect_type, image.is_defective) for image in folder.test] == [("good", False)] * 4 + [
        ("scratch", True)
    ] * 4
    assert folder.test[0].mask is None
    assert folder.test[4].mask == dataset / "ground_truth/scratch/016_mask.png"
    assert folder.remarks == ()


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


# Files


def test_every_format_that_is_read_is_found(tmp_path):
    suffixes = {".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm"}
    assert suffixes | {".tif", ".tiff", ".webp"} <= image_suffixes()
    assert not {".eps", ".pdf", ".svg", ".csv", ".npy", ".mp4", ""} & image_suffixes()
    make(tmp_path, *(f"a{suffix}" for suffix in suffixes), "B.WEBP", "c.TIFF")
    assert len(open_folder(tmp_path).good) == len(suffixes) + 2


def test_hidden_and_other_files_are_left_out_counted_and_named(dataset_copy):
    good = dataset_copy / "train/good"
    make(good, ".hidden.png", "Thumbs.db", "desktop.ini", "notes.txt", "._000.png", ".thumbs/000.png", "__MACOSX/0.png")
    (good / "folder.png").mkdir()
    shutil.copy(good / "000.png", good / "CAPITALS.PNG")
    folder = open_folder(dataset_copy)
    assert [path.name for path in folder.good] == [*(f"{index:03d}.png" for index in range(12)), "CAPITALS.PNG"]
    found = {one.kind: one for one in folder.remarks}
    assert (found["hidden"].count, found["not_an_image"].count) == (6, 1)
    assert found["not_an_image"].first == ("train/good/notes.txt",)


def test_a_folder_that_may_not_be_read_is_named(tmp_path, close):
    make(tmp_path, "train/good/0.png")
    close(tmp_path / "train/good")
    with pytest.raises(DataError, match=r"good' cannot be listed: permission denied"):
        open_folder(tmp_path)


@pytest.mark.parametrize("place", ["", "more"])
def test_a_folder_that_may_not_be_entered_is_named(tmp_path, close, place):
    make(tmp_path / "parts" / place, "0.png")
    close(tmp_path / "parts" / place)
    for read in (open_folder, open_defective, lambda folder: expand([folder], LeftOut())):
        with pytest.raises(DataError, match=rf"{place or 'parts'}' cannot be listed: permission denied"):
            read(tmp_path / "parts")


def test_what_a_file_system_keeps_at_its_root_belongs_to_the_system(tmp_path, close):
    make(tmp_path, "0.png", "1.png", "lost+found/2.png")
    close(tmp_path / "lost+found")
    folder = open_folder(tmp_path)
    assert names(folder.good, tmp_path) == ["0.png", "1.png"]
    assert remarks(folder) == {"hidden": ("lost+found",)}
    assert names(expand([tmp_path], LeftOut()), tmp_path) == ["0.png", "1.png"]


# Names


USUAL = ["good", "Good", "GOOD", "OK", "Ok", "okay", "Pass", "passed", "Normal", "gut", "i.O.", "IO", "良品"]
RESEMBLING = [
    "good_parts",
    "0_good",
    "good2",
    "goods",
    "goodParts",
    "verygood",
    "ok-1",
    "OK parts",
    "normal_2",
    "i_o_1",
]
RESEMBLING += ["defect-free 2"]
DEFECTS = ["not_good", "NG", "nok", "n.i.O.", "not ok", "nogood", "no_pass", "abnormal", "gold", "food", "token", "bad"]
DEFECTS += ["scratch", "passivation"]
PLAIN = [("ok/0.png", "ng/1.png"), ("a/0.png", "1.png"), ("a/b/c/0.webp",), ("good/0.png", "bad/1.png")]


@pytest.mark.parametrize("name", USUAL)
def test_usual_names_of_good_images_in_any_case(tmp_path, name):
    assert by_name(name) is Named.GOOD
    make(tmp_path, f"train/{name}/0.png", f"test/{name}/1.png", "test/crack/2.png")
    folder = open_folder(tmp_path)
    assert names(folder.good, tmp_path) == [f"train/{name}/0.png"]
    assert {image.defect_type for image in folder.test} == {"good", "crack"}
    assert [image.path.parent.name for image in folder.test if not image.is_defective] == [name]


@pytest.mark.parametrize("name", RESEMBLING)
def test_a_name_that_looks_good_is_refused_until_the_user_says_so(tmp_path, name):
    make(tmp_path, "train/good/0.png", f"test/{name}/1.png", "test/crack/2.png")
    with pytest.raises(DataError, match="resembles a usual name") as caught:
        open_folder(tmp_path)
    assert f'add "{name}" to `good_folders`' in str(caught.value)
    found = open_folder(tmp_path, good_folders(name))
    assert {image.path.parent.name for image in found.test if not image.is_defective} == {name}
    # With the option given for another folder, every other is a type of defect whatever it
    # resembles.
    assert all(image.is_defective for image in open_folder(tmp_path, good_folders("good")).test)


@pytest.mark.parametrize("name", DEFECTS)
def test_names_of_defects_are_no_good_images(name):
    assert by_name(name) is Named.OTHER


def test_layout_folders_are_found_in_any_case(tmp_path):
    make(tmp_path, "Train/Good/0.png", "TEST/ok/1.png", "TEST/Crack/2.png", "Ground Truth/crack/2_mask.png")
    folder = open_folder(tmp_path)
    assert names(folder.good, tmp_path) == ["Train/Good/0.png"]
    assert [(image.defect_type, image.mask is not None) for image in folder.test] == [("Crack", True), ("good", False)]
    make(tmp_path, "train/good/1.png")
    with pytest.raises(DataError, match="two folders that could be 'train'"):
        open_folder(tmp_path)


def test_masks_of_good_images_belong_to_them_whatever_their_folder_is_called(tmp_path):
    make(tmp_path, "train/ok/0.png", "test/OK/1.png", "test/crack/2.png")
    make(tmp_path, "ground_truth/ok/1_mask.png", "ground_truth/Crack/2.png")
    folder = open_folder(tmp_path)
    assert folder.unused_masks == ()
    assert all(image.mask is not None for image in folder.test)


def test_several_good_folders_are_all_taken(tmp_path):
    make(tmp_path, "train/good/0.png", "train/OK/1.png", "train/ng/2.png", "test/ok/3.png", "test/Good/4.png")
    folder = open_folder(tmp_path)
    assert names(folder.good, tmp_path) == ["train/OK/1.png", "train/good/0.png"]
    assert [image.defect_type for image in folder.test] == ["good", "good"]
    assert remarks(folder) == {"unused_folder": ("train/ng",)}


def test_what_is_not_part_of_the_layout_is_named(tmp_path):
    make(tmp_path, "train/good/0.png", "train/1.png", "2.png", "validation/good/3.png", "test/4.png", "test/good/5.png")
    (tmp_path / "test/empty").mkdir()
    assert remarks(open_folder(tmp_path)) == {
        "unused_image": ("train/1.png", "test/4.png", "2.png"),
        "unused_folder": ("validation",),
        "empty_folder": ("test/empty",),
    }


def test_published_layouts_do_not_claim_a_users_folder_called_ok(tmp_path):
    make(tmp_path, "train/good/0.png", "test/ok/1.png", "test/crack/2.png")
    folder = open_data(tmp_path)
    assert (folder.layout, folder.dataset, len(folder.good)) == ("mvtec", None, 1)
    assert {image.defect_type for image in folder.test} == {"good", "crack"}


# Subfolders


@pytest.mark.parametrize("files", PLAIN)
def test_a_plain_folder_with_subfolders_of_images_is_refused(tmp_path, files):
    make(tmp_path, *files)
    with pytest.raises(DataError, match="it is unclear which of them are good") as caught:
        open_folder(tmp_path)
    for file in files:
        if "/" in file:
            assert f"{file.split('/', maxsplit=1)[0]}/ (1 image)" in caught.value.received


def test_the_user_says_which_subfolders_are_good(tmp_path):
    make(tmp_path, "ok/0.png", "ng/1.png", "cam1/ok/2.png", "3.png", "notes.txt")
    folder = open_folder(tmp_path, good_folders("ok", "cam1/ok"))
    assert names(folder.good, tmp_path) == ["ok/0.png", "cam1/ok/2.png"]
    assert remarks(folder) == {
        "not_an_image": ("notes.txt",),
        "unused_image": ("3.png",),
        "unused_folder": ("ng",),
    }
    with pytest.raises(DataError, match=r"no folder 'okay'") as caught:
        open_folder(tmp_path, good_folders("okay"))
    assert "ng, ok" in caught.value.expected


def test_a_folder_of_good_images_is_inside_of_the_data_however_it_is_named(tmp_path, monkeypatch):
    parts = make(tmp_path / "parts", "ok/0.png", "ok/notes.txt", "ng/1.png")
    make(tmp_path, "others/2.png")
    for name in (str(parts / "ok"), "ng/../ok", "./ok/"):
        folder = open_folder(parts, good_folders(name))
        assert names(folder.good, parts) == ["ok/0.png"], name
        assert remarks(folder) == {"not_an_image": ("ok/notes.txt",), "unused_folder": ("ng",)}
    for name in (str(tmp_path / "others"), "../others", "ng/../../others", "..", ".", ""):
        with pytest.raises(DataError, match=re.escape(f"no folder '{name}' in '{parts}'")) as caught:
            open_folder(parts, good_folders(name))
        assert caught.value.expected == "ng, ok"
    monkeypatch.chdir(parts)
    assert names(open_folder(Path(), good_folders(str(parts / "ok"))).good, Path()) == ["ok/0.png"]
    assert len(open_defective(tmp_path / "others", options=good_folders(str(parts / "ok")))) == 1


@needs_links
def test_the_user_says_that_all_subfolders_are_good(tmp_path):
    make(tmp_path, "cam1/0.png", "cam2/day2/0.png", "1.png", ".cache/2.png", "cam1/notes.txt")
    (tmp_path / "loop").symlink_to(tmp_path)
    folder = open_folder(tmp_path, ALL)
    assert names(folder.good, tmp_path) == ["1.png", "cam1/0.png", "cam2/day2/0.png"]
    assert remarks(folder) == {
        "hidden": (".cache",),
        "not_an_image": ("cam1/notes.txt",),
        "linked_folder": ("loop",),
    }


@pytest.mark.parametrize("bad", ["ng", "NG", "bad", "n.i.O.", "defects", "cam1/reject"])
def test_names_that_can_only_mean_defects_are_refused_even_then(tmp_path, bad):
    make(tmp_path, "cam1/0.png", f"{bad}/1.png")
    with pytest.raises(DataError, match=r"the names of folders in .* say that it holds defective images"):
        open_folder(tmp_path, ALL)


def test_subfolders_of_a_good_folder_are_refused_or_taken(tmp_path):
    make(tmp_path, "train/good/cam1/0.png", "train/good/1.png", "test/good/2.png", "test/crack/deep/3.png")
    with pytest.raises(DataError, match=r"good' has subfolders with images") as caught:
        open_folder(tmp_path)
    assert "cam1/ (1 image), 1 image beside them" in caught.value.received
    folder = open_folder(tmp_path, ALL)
    assert names(folder.good, tmp_path) == ["train/good/1.png", "train/good/cam1/0.png"]
    assert [(image.path.name, image.defect_type) for image in folder.test] == [("3.png", "crack"), ("2.png", "good")]


@pytest.mark.parametrize(("index", "kind"), [("run.json", "run folder"), ("bundle.json", "bundle")])
@pytest.mark.parametrize("place", ["train/good/x", "train/good/deep/x", "test/x", "test/crack/x"])
def test_runs_and_bundles_among_images_are_no_parts(tmp_path, index, kind, place):
    make(
        tmp_path, "train/good/0.png", "test/good/1.png", "test/crack/2.png", f"{place}/golden/0.png", f"{place}/{index}"
    )
    with pytest.raises(DataError, match="1 folder that kdx wrote lies among the images") as caught:
        open_folder(tmp_path)
    assert caught.value.received == f"'{tmp_path / place}', a {kind}"
    assert caught.value.fix == "move it to a place outside of the images"
    folder = open_folder(tmp_path, ALL)
    assert len(folder.good) == 1
    assert sorted(image.defect_type for image in folder.test) == ["crack", "good"]
    assert remarks(folder) == {"own_output": (place,)}


def test_runs_and_bundles_in_a_plain_folder_are_no_parts(tmp_path):
    make(tmp_path, "parts/0.png", "parts/x/golden/0.png", "parts/x/run.json")
    with pytest.raises(DataError, match="1 folder that kdx wrote lies among the images"):
        open_folder(tmp_path / "parts")
    assert len(open_folder(tmp_path / "parts", ALL).good) == 1
    make(tmp_path, "split/good/0.png", "split/runs/x/golden/0.png", "split/runs/x/run.json")
    beside = open_folder(tmp_path / "split")
    assert len(beside.good) == 1
    assert remarks(beside) == {"own_output": ("runs/x",)}


@needs_links
def test_a_linked_folder_is_followed_where_it_is_named(tmp_path):
    make(tmp_path, "elsewhere/0.png")
    (tmp_path / "data/train").mkdir(parents=True)
    (tmp_path / "data/train/good").symlink_to(tmp_path / "elsewhere")
    assert len(open_folder(tmp_path / "data").good) == 1


def test_defective_images_may_lie_in_subfolders_by_type(tmp_path):
    make(tmp_path, "crack/0.png", "dent/1.png", "2.png")
    assert names(open_defective(tmp_path), tmp_path) == ["2.png", "crack/0.png", "dent/1.png"]
    make(tmp_path, "OK/3.png")
    with pytest.raises(DataError, match="not a folder of only defective images"):
        open_defective(tmp_path)


# Commands


@pytest.mark.parametrize("name", ["good", "OK", "good_parts", "golden", "scratch/2024/good"])
def test_a_folder_that_is_good_by_its_own_name_holds_no_defects(tmp_path, monkeypatch, name):
    make(tmp_path, f"base/{name}/1.png")
    root = tmp_path / "base" / name.split("/")[0]
    with pytest.raises(DataError, match="not a folder of only defective images"):
        open_defective(root)
    monkeypatch.chdir(root)
    with pytest.raises(DataError, match="if these are defective, rename the folder"):
        open_defective(Path())


@pytest.mark.parametrize("name", ["NG", "reject", "n.i.O."])
@pytest.mark.parametrize("options", [FolderOptions(), ALL])
def test_a_folder_that_is_bad_by_its_own_name_holds_no_good_images(tmp_path, monkeypatch, name, options):
    root = make(tmp_path / name, "1.png")
    for path in (root, Path(f"../{name}"), Path()):
        monkeypatch.chdir(root)
        with pytest.raises(DataError, match=f'add "{name}" to `good_folders`'):
            open_data(path, options=options)
    assert names(open_data(root, options=good_folders(name)).good, root) == ["1.png"]


def test_a_type_of_defect_is_no_folder_of_good_images(tmp_path):
    make(tmp_path, "train/good/1.png", "test/good/2.png", "test/scratch/3.png", "other/test/camera/4.png")
    with pytest.raises(DataError, match=r"by its name and place[\s\S]*test/scratch/"):
        open_data(tmp_path / "test/scratch")
    assert len(open_data(tmp_path / "test/scratch", options=good_folders("scratch")).good) == 1
    for place in ("train/good", "test/good", "other/test/camera"):
        assert len(open_data(tmp_path / place).good) == 1
    assert len(open_defective(tmp_path / "test/scratch")) == 1


def test_the_innermost_name_decides(tmp_path):
    make(tmp_path, "reject/good/1.png", "ng/ok/1.png", "ng/scratch/2.png")
    assert len(open_data(tmp_path / "reject").good) == 1
    assert len(open_data(tmp_path / "ng", options=good_folders("ok")).good) == 1


def test_commands_refuse_a_folder_by_its_own_name(cli, tiny_bundle, dataset_copy, tmp_path, tiny_options):
    shutil.copytree(dataset_copy / "train/good", tmp_path / "reject")
    bundle = shutil.copytree(tiny_bundle, tmp_path / "b.kdx")
    run = ("--epochs", 1, "--out", tmp_path / "run")
    assert "holds defective images by its name" in cli("train", tmp_path / "reject", *tiny_options, *run, code=2).stderr
    assert "by its name and place" in cli("calibrate", bundle, dataset_copy / "test/scratch", code=2).stderr
    refused = cli("calibrate", bundle, dataset_copy, "--with-defects", dataset_copy / "test/good", code=2).stderr
    assert "not a folder of only defective images" in refused


def test_training_refuses_good_and_defective_images_together(cli, make_images, tmp_path, tiny_options):
    for index, image in enumerate(make_images(8)):
        folder = tmp_path / ("parts/ng" if index > 5 else "parts/ok")
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{index}.webp", lossless=True)
    command = ("train", tmp_path / "parts", "--out", tmp_path / "run", *tiny_options, "--epochs", 1)
    refused = cli(*command, code=2).stderr
    assert "ng/ (2 images), ok/ (6 images)" in refused
    assert 'to --good-folder, such as "ok"' in refused
    record = cli(*command, "--good-folder", "ok", "--json").json
    assert record["train_images"] + record["held_out_images"] == 6
    assert [(one["kind"], one["first"]) for one in record["remarks"]] == [("unused_folder", ["ng"])]
    assert "good_folders changed" in cli(*command, "--resume", code=2).stderr  # not that the images are unclear
    (tmp_path / "parts/ng").rename(tmp_path / "parts/more")
    message = cli(*command, "--resume", "--subfolders", code=2).stderr
    assert "good_folders" in message
    assert "subfolders" in message


def test_predict_finds_what_score_finds(cli, tiny_bundle, dataset, tmp_path):
    shutil.copytree(dataset / "test", tmp_path / "new/test")
    Image.open(dataset / "train/good/000.png").save(tmp_path / "new/0.webp", lossless=True)
    make(tmp_path / "new", "notes.txt", ".hidden/1.png")
    lines = cli("predict", tiny_bundle, tmp_path / "new", "--json").lines
    assert len([line for line in lines if "verdict" in line]) == 9
    assert {one["kind"]: one["count"] for one in lines[-1]["remarks"]} == {"hidden": 1, "not_an_image": 1}
    text = cli("predict", tiny_bundle, tmp_path / "new", "--overlay", tmp_path / "maps").stderr
    assert "1 file that is not an image of a known format was left out: notes.txt" in text


@needs_links
@pytest.mark.parametrize("named", [("new",), ("new/test/good/012.png", "new/test/good/013.png"), (".",)])
def test_heat_maps_are_not_written_among_the_images(cli, tiny_bundle, dataset, tmp_path, monkeypatch, named):
    shutil.copytree(dataset / "test", tmp_path / "new/test")
    monkeypatch.chdir(tmp_path / "new" if named == (".",) else tmp_path)
    maps = tmp_path / "new/test/good/maps"
    refused = cli("predict", tiny_bundle, *named, "--overlay", maps, code=2).stderr
    assert "heat maps would lie among the images" in refused
    assert not maps.exists()
    (tmp_path / "link").symlink_to(tmp_path / "new/test/good")
    assert "among the images" in cli("predict", tiny_bundle, *named, "--overlay", tmp_path / "link", code=2).stderr
    cli("predict", tiny_bundle, *named, "--overlay", tmp_path / "maps")


def test_one_image_of_the_working_folder_may_have_its_heat_map_below(cli, tiny_bundle, dataset, tmp_path, monkeypatch):
    shutil.copy(dataset / "test/good/012.png", tmp_path)
    monkeypatch.chdir(tmp_path)
    cli("predict", tiny_bundle, "012.png", "--overlay", "maps")
    assert (tmp_path / "maps/012.png").is_file()


@needs_links
def test_links_are_not_counted_as_what_subfolders_would_take(tmp_path):
    make(tmp_path, "elsewhere/1.png", "parts/a/2.png")
    (tmp_path / "parts/b").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"b/ \(1 image, a symbolic link, which is not followed\)") as some:
        open_folder(tmp_path / "parts")
    assert "`subfolders=True` if all" in str(some.value)
    shutil.rmtree(tmp_path / "parts/a")
    with pytest.raises(DataError, match=r"add the name of each folder of good images to `good_folders`$"):
        open_folder(tmp_path / "parts")
    assert len(open_folder(tmp_path / "parts", good_folders("b")).good) == 1
    make(tmp_path, "cells/train/good/3.png")
    (tmp_path / "cells/train/good/more").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"fix: name the folder that holds the images$"):
        open_folder(tmp_path / "cells")


@needs_links
@pytest.mark.parametrize("place", ["", "train/", "test/", "train/good/"])
def test_a_link_to_a_folder_above_is_left_out(tmp_path, place):
    """As ``kdx predict`` leaves it out: it holds the same images again."""
    make(tmp_path, *(("train/good/0.png", "test/good/1.png") if place else ("0.png", "1.png")))
    (tmp_path / place / "loop").symlink_to(".." if place == "train/good/" else ".")
    folder = open_folder(tmp_path)
    assert len(folder.good) == (1 if place else 2)
    assert remarks(folder) == {"linked_folder": (f"{place}loop",)}


def test_evaluation_and_calibration_say_what_they_left_out(cli, tiny_bundle, dataset_copy):
    (dataset_copy / "test/good").rename(dataset_copy / "test/OK")
    make(dataset_copy, "test/OK/notes.txt", "train/notes.txt")
    for command in ("evaluate", "calibrate"):
        more = ("--false-reject-rate", 0.2) if command == "calibrate" else ()
        record = cli(command, tiny_bundle, dataset_copy, *more, "--json").json
        found = {
            one["kind"]: one["count"] for one in record["remarks"] if one["kind"] not in {"golden", "not_separated"}
        }
        assert found == {"not_an_image": 2}


def test_a_catalogue_says_which_folders_are_good(tmp_path):
    file = tmp_path / "catalog.toml"
    file.write_text(
        '[products.a]\ndata = "a"\nsubfolders = true\ngood_folders = ["ok"]\n[products.b]\ndata = "b"\n',
        encoding="utf-8",
    )
    products = read_catalog(file)
    assert (products["a"].subfolders, products["a"].good_folders) == (True, ("ok",))
    assert {"subfolders", "good_folders"} <= set(products["a"].decisive)
    # What was trained before there were these keys is unchanged.
    assert not {"subfolders", "good_folders"} & set(products["b"].decisive)


@needs_links
def test_a_link_to_where_the_user_may_not_look_is_an_image_that_cannot_be_read(tmp_path, monkeypatch) -> None:
    link = tmp_path / "b.png"
    link.symlink_to("/private/b.png")
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    is_dir = Path.is_dir

    def guarded(path: Path) -> bool:
        if path == link:
            raise PermissionError(13, "Permission denied", str(path))
        return is_dir(path)

    monkeypatch.setattr(Path, "is_dir", guarded)
    assert image_files(tmp_path) == (tmp_path / "a.png", link)


def test_masks_beside_images_are_no_parts_wherever_images_are_looked_for(tmp_path):
    """NAME_mask of an image NAME is a mask, and so is ground_truth beside train or test."""
    for name in ("good/1.png", "good/1_mask.png", "good/2_mask.png", "bad/3.png", "bad/3_MASK.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / name)
    said = "1 mask of defects was left out: {}"
    plain = open_folder(tmp_path / "good")
    assert [path.name for path in plain.good] == ["1.png", "2_mask.png"]  # of no image: a part
    assert [str(each) for each in plain.remarks] == [said.format("1_mask.png")]
    assert [path.name for path in open_defective(tmp_path / "bad")] == ["3.png"]

    left_out = LeftOut()
    found = [path.relative_to(tmp_path).as_posix() for path in expand([tmp_path], left_out)]
    assert found == ["bad/3.png", "good/1.png", "good/2_mask.png"]
    assert left_out.first("mask") == ["bad/3_MASK.png", "good/1_mask.png"]

    layout = tmp_path / "layout"
    shutil.copytree(tmp_path / "good", layout / "train/good")
    shutil.copytree(tmp_path / "bad", layout / "lots/1/test/bad")
    shutil.copytree(tmp_path / "bad", layout / "lots/1/ground_truth/bad")
    assert [path.name for path in open_folder(layout).good] == ["1.png", "2_mask.png"]
    left_out = LeftOut()
    assert list(walk_parts(layout, left_out)) == ["lots/1/test/bad/3.png", "train/good/1.png", "train/good/2_mask.png"]
    assert left_out.count("mask") == 4
