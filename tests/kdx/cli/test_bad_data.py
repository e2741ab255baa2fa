"""Folders, images and masks that cannot serve: the message names what is wrong, and the exit status
is 2."""

from __future__ import annotations

import re
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdx.errors import ImageError
from kdx.imaging.image_files import MAX_PIXELS
from kdx.imaging.images import InputSpec, decode_image, read_header, read_image


def write_png(path: Path, width: int, height: int, *, depth: int, colour: int, rows: bytes | None) -> Path:
    """Write a PNG by hand: Pillow writes no 16-bit colour, and no header without its pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    pixels = b"" if rows is None else chunk(b"IDAT", zlib.compress(rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b""))
    return path


def spoil(path: Path, how: str) -> Path:
    """Turn a good PNG into one that cannot be read."""
    if how == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "not an image":
        path.write_bytes(b"this is a text, whatever its name says\n" * 20)
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "bomb":
        write_png(path, 20_000, 20_000, depth=8, colour=0, rows=None)
    elif how == "16-bit colour":
        write_png(path, 64, 64, depth=16, colour=2, rows=(b"\0" + bytes(64 * 6)) * 64)
    return path


SPOILED = {
    "truncated": "is damaged",
    "not an image": "is not a readable image",
    "empty": "is empty (0 bytes)",
    "bomb": "declares too many pixels",
    "16-bit colour": "unsupported kind: 16-bit colour",
}


@pytest.fixture
def train(cli, tiny_options, tmp_path):
    """Train on a folder; the run goes beside it."""
    return lambda data, *options, code=2: cli(
        "train", data, "--out", tmp_path / "out", "--epochs", 1, *tiny_options, *options, code=code
    )


def test_missing_folder(train, tmp_path):
    assert f"the folder '{tmp_path / 'nowhere'}' does not exist" in train(tmp_path / "nowhere").stderr


def test_a_file_is_not_a_folder(train, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/file.png").write_bytes(b"")
    assert "is not a folder" in train(tmp_path / "images/file.png").stderr


def test_empty_folder(train, tmp_path):
    (tmp_path / "empty").mkdir()
    stderr = train(tmp_path / "empty").stderr
    assert "no images were found" in stderr
    assert "an empty folder" in stderr


def test_folder_without_good_images_says_where_they_belong(train, dataset_copy):
    shutil.rmtree(dataset_copy / "train")
    stderr = train(dataset_copy).stderr
    assert "holds no good images" in stderr
    assert "train/good" in stderr
    assert "ground_truth/, test/" in stderr  # what is there instead


def test_fewer_images_than_the_split_needs(train, make_dataset, tmp_path):
    data = make_dataset(tmp_path / "data", train=2)
    stderr = train(data).stderr
    assert "too few good images" in stderr
    assert "at least 2 different images to train on and 1 to hold out" in stderr
    assert "received: 2 different images" in stderr


def test_copies_do_not_count_as_more_images(train, make_dataset, tmp_path):
    data = make_dataset(tmp_path / "data", train=2)
    for index in range(8):
        shutil.copy(data / "train/good/000.png", data / f"train/good/copy{index}.png")
    assert "received: 2" in train(data).stderr


def test_fewer_held_out_images_than_the_false_reject_rate_needs(cli, bundle_copy, dataset):
    before = (bundle_copy / "bundle.json").read_bytes()
    stderr = cli("calibrate", bundle_copy, dataset, "--false-reject-rate", 0.01, code=2).stderr
    assert "too few held-out good images for a false-reject rate of 0.01" in stderr
    assert "at least 99" in stderr
    assert "6 held-out good images (6 more were trained on and do not count)" in stderr
    assert "--false-reject-rate 0.15" in stderr
    assert (bundle_copy / "bundle.json").read_bytes() == before


def test_the_rate_that_calibrate_suggests_is_accepted(cli, bundle_copy, dataset):
    cli("calibrate", bundle_copy, dataset, "--false-reject-rate", 0.15)


@pytest.mark.parametrize("rate", [0, 1, -0.1, 7])
def test_impossible_false_reject_rate(cli, bundle_copy, dataset, rate):
    assert "out of range" in cli("calibrate", bundle_copy, dataset, f"--false-reject-rate={rate}", code=2).stderr


@pytest.mark.parametrize(("how", "message"), SPOILED.items(), ids=list(SPOILED))
def test_bad_image_stops_training_and_is_named(train, dataset_copy, how, message):
    spoiled = spoil(dataset_copy / "train/good/003.png", how)
    stderr = train(dataset_copy).stderr
    assert "1 image cannot be used" in stderr
    assert message in stderr
    assert str(spoiled) in stderr
    assert "at most 0 bad images" in stderr
    assert "--max-bad-images" in stderr


@pytest.mark.parametrize(("how", "message"), SPOILED.items(), ids=list(SPOILED))
def test_bad_image_stops_predict_and_is_named(cli, tiny_bundle, dataset_copy, how, message):
    spoiled = spoil(dataset_copy / "test/good/013.png", how)
    stderr = cli("predict", tiny_bundle, spoiled, code=2).stderr
    assert message in stderr
    assert str(spoiled) in stderr


def test_bad_images_up_to_the_limit_are_named_counted_and_skipped(train, dataset_copy):
    spoil(dataset_copy / "train/good/003.png", "truncated")
    spoil(dataset_copy / "train/good/005.png", "not an image")
    stderr = train(dataset_copy, "--max-bad-images", 2, code=0).stderr
    assert "003.png' is damaged" in stderr
    assert "005.png' is not a readable image" in stderr
    assert "2 images could not be used" in stderr


def test_all_images_that_are_none_are_named_at_once(train, dataset_copy):
    names = [f"{number:03}.png" for number in range(7)]
    for name in names:
        spoil(dataset_copy / "train/good" / name, "not an image")
    stderr = train(dataset_copy).stderr
    assert "7 images cannot be used" in stderr
    assert [name in stderr for name in names] == [True] * 5 + [False] * 2
    assert "; and 2 more" in stderr


def test_one_bad_image_past_the_limit_stops_training(train, dataset_copy, tmp_path):
    spoil(dataset_copy / "train/good/003.png", "truncated")
    spoil(dataset_copy / "train/good/005.png", "not an image")
    stderr = train(dataset_copy, "--max-bad-images", 1).stderr
    assert "2 images cannot be used" in stderr
    assert "003.png" in stderr
    assert "005.png" in stderr
    assert not (tmp_path / "out").exists()


def test_bad_images_are_in_the_json_of_train(train, dataset_copy):
    spoiled = spoil(dataset_copy / "train/good/003.png", "truncated")
    record = train(dataset_copy, "--max-bad-images", 1, "--json", code=0).json
    assert list(record["bad_images"]) == [str(spoiled)]


@pytest.mark.parametrize("command", ["evaluate", "calibrate", "predict"])
def test_bad_images_are_skipped_up_to_the_limit_wherever_images_are_read(cli, bundle_copy, dataset_copy, command):
    folder = "train/good" if command == "calibrate" else "test/good"
    spoiled = spoil(sorted((dataset_copy / folder).iterdir())[0], "not an image")
    images = dataset_copy / folder if command == "predict" else dataset_copy
    extra = ("--false-reject-rate", 0.3) if command == "calibrate" else ()
    assert "is not a readable image" in cli(command, bundle_copy, images, *extra, code=2).stderr
    stderr = cli(command, bundle_copy, images, *extra, "--max-bad-images", 1).stderr
    assert str(spoiled) in stderr
    assert "1 image could not be used" in stderr


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", ["png", "jpg", "bmp", "tif"])
def test_damaged_files_are_image_errors_and_nothing_else(make_images, tmp_path, kind):
    rng = np.random.default_rng(0)
    path = tmp_path / f"image.{kind}"
    make_images(1)[0].save(path)
    original = path.read_bytes()
    refused = 0
    for _ in range(150):
        data = bytearray(original[: rng.integers(1, len(original))] if rng.random() < 0.3 else original)
        for position in rng.integers(0, min(len(data), 400), 4):
            data[position] = rng.integers(256)
        path.write_bytes(data)
        try:
            assert decode_image(path, channels=1).dtype == np.uint8
        except ImageError:
            refused += 1
    assert refused > 0


def test_bomb_limit_holds_below_what_pillow_refuses(tmp_path):
    assert MAX_PIXELS < 13_000 * 13_000
    with pytest.raises(ImageError, match="too many pixels"):
        read_header(write_png(tmp_path / "big.png", 13_000, 13_000, depth=8, colour=0, rows=None))


def test_an_image_without_mask_is_named_and_left_out_of_pixel_figures(cli, tiny_bundle, dataset_copy):
    (dataset_copy / "ground_truth/scratch/017_mask.png").unlink()
    result = cli("evaluate", tiny_bundle, dataset_copy, "--json")
    assert "1 of 4 defective images has no mask, left out of pixel AUROC and PRO" in result.stderr
    assert "test/scratch/017.png" in result.stderr
    assert result.json["masks"]["without"] == [str(dataset_copy / "test/scratch/017.png")]
    assert result.json["pixel_auroc"] is not None


def test_mask_of_another_size(cli, tiny_bundle, dataset_copy):
    Image.new("L", (32, 64)).save(dataset_copy / "ground_truth/scratch/017_mask.png")
    stderr = cli("evaluate", tiny_bundle, dataset_copy, code=2).stderr
    assert "017_mask.png' has another size than its image" in stderr
    assert "64 × 64" in stderr
    assert "32 × 64" in stderr


def test_without_any_mask_only_image_scores_are_evaluated(cli, tiny_bundle, dataset_copy):
    shutil.rmtree(dataset_copy / "ground_truth")
    result = cli("evaluate", tiny_bundle, dataset_copy, "--json").json
    assert result["pixel_auroc"] is None
    assert result["pro"] is None
    assert result["image_auroc"] is not None


def test_evaluate_needs_good_images(cli, tiny_bundle, dataset_copy):
    shutil.rmtree(dataset_copy / "test/good")
    stderr = cli("evaluate", tiny_bundle, dataset_copy, code=2).stderr
    assert "0 good and 4 defective" in stderr


def test_image_of_another_size_than_the_camera(cli, tiny_bundle, tmp_path, make_images):
    path = tmp_path / "small.png"
    make_images(1, size=32)[0].save(path)
    stderr = cli("predict", tiny_bundle, path, code=2).stderr
    assert "wrong size" in stderr
    assert "64 × 64" in stderr
    assert "32 × 32" in stderr


def test_predict_on_a_folder_without_images(cli, tiny_bundle, tmp_path):
    assert "no images were found" in cli("predict", tiny_bundle, tmp_path, code=2).stderr


def test_predict_on_a_missing_image(cli, tiny_bundle, tmp_path):
    missing = tmp_path / "*.png"
    for options in ((), ("--max-bad-images", 1)):  # it is no bad image, which may be skipped
        said = cli("predict", tiny_bundle, missing, *options, code=2).stderr
        assert f"there is no file or folder '{missing}'" in said
        assert "max-bad-images" not in said


def test_predict_where_no_image_can_be_read(cli, tiny_bundle, tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"no image")
    said = cli("predict", tiny_bundle, tmp_path, "--max-bad-images", 2, code=2)
    assert "no image was judged: 2 images cannot be read" in said.stderr
    assert "'" + str(tmp_path / "a.png") + "' is not a readable image" in said.stderr


def test_sixteen_bit_grey_is_scaled_by_the_declared_range(tmp_path):
    values = np.array([[0, 1000, 2000, 3000, 4095, 9000]], np.uint16)
    path = tmp_path / "camera.png"
    Image.fromarray(values).save(path)
    twelve_bits = decode_image(path, channels=1, sixteen_bit_range=(0, 4095))
    assert twelve_bits[..., 0].tolist() == [[0, 62, 125, 187, 255, 255]]
    narrow = decode_image(path, channels=1, sixteen_bit_range=(1000, 3000))
    assert narrow[..., 0].tolist() == [[0, 0, 128, 255, 255, 255]]
    full = decode_image(path, channels=3)
    assert full[0, :, 0].tolist() == [0, 4, 8, 12, 16, 35]
    assert np.ptp(full, axis=2).max() == 0


def test_a_dark_sixteen_bit_frame_stays_dark(tmp_path):
    Image.fromarray(np.full((4, 4), 3, np.uint16)).save(tmp_path / "dark.png")
    assert decode_image(tmp_path / "dark.png", channels=1).max() == 0


@pytest.mark.slow
def test_the_declared_range_goes_from_training_into_the_bundle(cli, make_images, tiny_options, tmp_path):
    (tmp_path / "data").mkdir()
    for index, image in enumerate(make_images(6)):
        Image.fromarray(np.asarray(image).astype(np.uint16) * 16).save(tmp_path / f"data/{index}.png")
    run = tmp_path / "run"
    cli("train", tmp_path / "data", "-o", run, "--epochs", 1, *tiny_options, "--sixteen-bit-range", "0:4095")
    cli("export", run, "-o", tmp_path / "b.kdx")
    manifest = cli("inspect", tmp_path / "b.kdx", "--json").json["manifest"]
    assert manifest["input"]["sixteen_bit_range"] == [0, 4095]
    assert manifest["input"]["channels"] == 1


@pytest.mark.parametrize("text", ["4095", "9:9", "0:70000", "-1:5", "a:b", "1:2:3"])
def test_impossible_sixteen_bit_range(train, dataset, text):
    assert "--sixteen-bit-range" in train(dataset, f"--sixteen-bit-range={text}").stderr


def test_float_file_is_refused(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ImageError, match="unsupported kind: F"):
        read_image(tmp_path / "float.tif", InputSpec(height=8, width=8))


@pytest.mark.parametrize("command", ["calibrate", "evaluate", "repeat"])
def test_images_after_one_that_stops_a_command_are_counted(cli, tiny_bundle, dataset_copy, command):
    folder = dataset_copy / ("test/good" if command != "calibrate" else "train/good")
    first, *rest = sorted(folder.iterdir())
    spoil(first, "truncated")
    data = folder if command == "repeat" else dataset_copy
    said = cli(command, tiny_bundle, data, "--backend", "onnxruntime-cpu", code=2).stderr
    assert f"{first.name}' is damaged" in said
    later = re.search(r"the (\d+) images after it were not looked at", said)
    assert int(later[1]) >= len(rest)
