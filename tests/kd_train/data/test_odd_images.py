"""Odd images are named, left out or kept, and never change a detector silently."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image, ImageOps

import kdx
from kd_train.data.image_records import BadImages, choose_input, scan_images
from kd_train.data.odd_images import handle_odd_images
from kd_train.training.run_folder import Run
from kdx.errors import DataError
from kdx.folders.data_folder import open_folder
from kdx.imaging.image_identity import identify
from kdx.progress import SILENT
from kdx.storage.files import sha256_file
from kdx.storage.json_records import encode_record
from kdx.workflows.calibrate import CalibrationRequest, calibrate_each
from kdx.workflows.export import export_run


def scanned(folder: Path, *images: Image.Image):
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        image.save(folder / f"{index:03d}.png")
    return scan_images(sorted(folder.iterdir()), BadImages(0))


def grey(index: int, size: tuple[int, int] = (96, 96)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(index).integers(0, 256, size[::-1]).astype(np.uint8))


def colour(index: int) -> Image.Image:
    return Image.merge("RGB", [grey(3 * index + channel) for channel in range(3)])


def deep(index: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(index).integers(0, 4096, (96, 96)).astype(np.uint16))


CASES = {
    "size": ([grey(0, (97, 96)), *map(grey, range(1, 10))], "odd_size", "000.png' (97 × 96, grey, 8 bits)"),
    "turned": ([*(grey(i, (96, 64)) for i in range(1, 5)), grey(0, (64, 96))], "odd_size", "004.png' (64 × 96"),
    "colour": ([*map(grey, range(9)), colour(9)], "odd_colour", "009.png' (96 × 96, colour"),
    "no colour": ([*map(colour, range(9)), grey(30)], "odd_colour", "009.png' (96 × 96, grey"),
    "depth": ([*map(deep, range(9)), grey(9)], "odd_depth", "009.png' (96 × 96, grey, 8 bits)"),
    "three": ([grey(0), grey(1), grey(2, (95, 96))], "odd_size", "002.png' (95 × 96"),
}


@pytest.mark.parametrize("case", CASES)
def test_odd_images_are_named_or_left_out_or_kept(tmp_path, case) -> None:
    images, kind, named = CASES[case]
    records = scanned(tmp_path, *images)
    with pytest.raises(DataError, match=f"1 of {len(records)} images") as caught:
        handle_odd_images(records, "stop")
    assert named in caught.value.received
    assert "`odd_images='skip'`" in caught.value.fix
    kept, (skipped,) = handle_odd_images(records, "skip")
    assert (len(kept), skipped.kind, skipped.count) == (len(records) - 1, kind, 1)
    assert named in skipped.first[0]
    kept, (used,) = handle_odd_images(records, "keep")
    assert (kept, used.kind, used.count) == (records, kind, 1)


@pytest.mark.parametrize("case", ["size", "colour"])
def test_without_the_odd_image_the_contract_is_the_cameras(tmp_path, case) -> None:
    records = scanned(tmp_path, *CASES[case][0])
    spec = choose_input(handle_odd_images(records, "skip")[0], 64)
    assert (spec.height, spec.width, spec.channels, spec.fixed_size) == (96, 96, 1, True)
    kept = choose_input(handle_odd_images(records, "keep")[0], 64)
    assert (kept.channels, kept.fixed_size) == ((1, False) if case == "size" else (3, True))


@pytest.mark.parametrize(
    "images",
    [
        [grey(i, (90 + i, 96)) for i in range(6)],
        [grey(i, (96 + i % 2, 96)) for i in range(6)],
        [*map(grey, range(3)), *map(colour, range(2))],
        [grey(0), grey(1, (97, 96))],
        list(map(grey, range(4))),
    ],
    ids=["many sizes", "two sizes", "grey and colour", "two images", "alike"],
)
def test_images_that_are_mixed_are_used_as_they_are(tmp_path, images) -> None:
    records = scanned(tmp_path, *images)
    assert handle_odd_images(records, "stop") == (records, [])


@pytest.mark.parametrize("stored_as_colour", [0, 1, 3, 5, 6])
def test_grey_stored_as_colour_is_grey_and_most_files_decide(tmp_path, stored_as_colour) -> None:
    images = [grey(i).convert("RGB") if i < stored_as_colour else grey(i) for i in range(6)]
    records = scanned(tmp_path, *images)
    assert handle_odd_images(records, "stop") == (records, [])
    assert choose_input(records, 64).channels == (1 if stored_as_colour < 3 else 3)


@pytest.mark.parametrize(
    ("tiles", "effect"), [(False, "takes no camera's frames"), (True, "not known, and exports need it: `frame`")]
)
def test_the_effect_of_another_size_is_that_on_frames_or_on_tiles(tmp_path, tiles, effect) -> None:
    records = scanned(tmp_path, *CASES["size"][0])
    _, (used,) = handle_odd_images(records, "keep", tiles=tiles)
    assert used.text.endswith(effect)
    with pytest.raises(DataError) as caught:
        handle_odd_images(records, "stop", tiles=tiles)
    assert effect in caught.value.fix


def test_colour_decides_nothing_where_the_user_chose_the_channels(tmp_path) -> None:
    records = scanned(tmp_path, *map(grey, range(9)), colour(9))
    assert handle_odd_images(records, "stop", channels="1") == (records, [])


def test_a_damaged_file_has_no_depth(tmp_path) -> None:
    paths = [record.path for record in scanned(tmp_path, *map(deep, range(6)))]
    paths[0].write_bytes(paths[0].read_bytes()[:-2000])
    records = scan_images(paths, BadImages(0))
    assert handle_odd_images(records, "stop") == (records, [])


@pytest.fixture
def one_odd(dataset_copy) -> Path:
    path = dataset_copy / "train/good/003.png"
    Image.open(path).resize((65, 64)).save(path)
    return dataset_copy


@pytest.mark.parametrize("tile", [(), ("--tile", 32, "--image-size", 32)], ids=["whole", "tiles"])
def test_training_stops_at_an_odd_image_or_leaves_it_out(cli, one_odd, tmp_path, tiny_options, tile) -> None:
    command = ("train", one_odd, "--out", tmp_path / "run", *tiny_options, *tile, "--epochs", 1)
    refused = cli(*command, code=2).stderr
    assert "1 of 12 images has another size than the others" in refused
    assert "003.png' (65 × 64" in refused
    record = cli(*command, "--odd-images", "skip", "--json").json
    assert record["train_images"] + record["held_out_images"] == 11
    assert [(one["kind"], one["count"]) for one in record["remarks"]] == [("odd_size", 1)]
    config = json.loads((tmp_path / "run/run.json").read_text(encoding="utf-8"))
    assert (config["input"]["fixed_size"], config["odd_images"]) == (True, "skip")
    assert [each["file"] for each in config["left_out"]] == [sha256_file(one_odd / "train/good/003.png")]
    changed = cli(*command, "--odd-images", "keep", "--resume", code=2).stderr
    assert "odd_images" in changed


def test_fit_stops_at_an_odd_image(cli, one_odd, tmp_path) -> None:
    command = ("fit", one_odd, "--budget-ms", 100, "-o", tmp_path / "fit", "--false-reject-rate", 0.3)
    assert "1 of 12 images has another size" in cli(*command, "--weights", "random", code=2).stderr


@pytest.mark.slow
@pytest.mark.parametrize("odd", ["size", "colour"])
def test_a_calibration_leaves_out_what_the_training_left_out(dataset_copy, run_copy, tmp_path, odd) -> None:
    paths = open_folder(dataset_copy).good
    path = dataset_copy / "train/good/odd.png"
    with Image.open(dataset_copy / "test/good/012.png") as image:
        image.resize((65, 64)).save(path) if odd == "size" else ImageOps.colorize(image, "red", "blue").save(path)
    config = msgspec.structs.replace(Run(run_copy).config, left_out=[identify(path)])
    (run_copy / "run.json").write_bytes(encode_record(config))
    bundle, _, _ = export_run(run_copy, tmp_path / "tiny.kdx", progress=SILENT)
    request = CalibrationRequest(0.2, backend="onnxruntime-cpu")
    without = calibrate_each(bundle, paths, request)
    found = calibrate_each(bundle, [*paths, path], request)
    assert found.exact.threshold.score == without.exact.threshold.score
    (said,) = [one for one in found.remarks if one.kind == "left_out_of_training"]
    assert str(said).startswith("1 good image was left out of the calibration, as the training left it out as odd: ")
    assert said.first == (str(path),)


@pytest.mark.slow
def test_evaluation_and_calibration_name_all_images_that_do_not_fit(cli, tiny_bundle, dataset_copy) -> None:
    for name in ("test/good/012.png", "test/scratch/016.png", "train/good/001.png", "train/good/002.png"):
        Image.open(dataset_copy / name).resize((60, 64)).save(dataset_copy / name)
    evaluated = cli("evaluate", tiny_bundle, dataset_copy, code=2).stderr
    assert "2 of 8 images have the wrong size" in evaluated
    assert "016.png' (60 × 64)" in evaluated
    calibrated = cli("calibrate", tiny_bundle, dataset_copy, code=2).stderr
    assert "2 of 12 images have the wrong size" in calibrated
    assert "001.png' (60 × 64)" in calibrated


def test_colour_images_for_a_mono_detector_are_named(cli, tiny_bundle, dataset_copy) -> None:
    with kdx.load(tiny_bundle, "onnxruntime-cpu") as detector:
        assert detector.input.channels == 1
    path = dataset_copy / "test/good/012.png"
    image = Image.open(path).convert("L")
    Image.merge("RGB", (image, image, Image.new("L", image.size))).save(path)
    record = cli("evaluate", tiny_bundle, dataset_copy, "--json").json
    found = {one["kind"]: one["count"] for one in record["remarks"] if one["kind"] not in {"golden", "not_separated"}}
    assert found == {"colour_for_mono": 1}


def test_predict_and_score_name_colour_images_for_a_mono_detector(cli, tiny_bundle, dataset_copy, tmp_path) -> None:
    images = dataset_copy / "test/good"
    for name in ("012.png", "013.png"):
        image = Image.open(images / name).convert("L")
        blue = Image.new("L", image.size) if name == "012.png" else image  # the other has no colour
        Image.merge("RGB", (image, image, blue)).save(images / name)
    said = "1 image is in colour and is converted to grey for this mono detector"
    lines = cli("predict", tiny_bundle, images, "--json").lines
    assert [(one["kind"], one["count"]) for one in lines[-1]["remarks"]] == [("colour_for_mono", 1)]
    assert said in cli("predict", tiny_bundle, images).stderr
    scoring = ("score", tiny_bundle, images, "-o", tmp_path / "scores", "--workers", 1, "--shard-size", 2)
    record = cli(*scoring, "--json").json
    assert record["remarks"] == [
        {"kind": "colour_for_mono", "text": said[2:], "count": 1, "first": ["012.png"]},
    ]
    assert f"{said}: 012.png" in cli(*scoring).stderr
