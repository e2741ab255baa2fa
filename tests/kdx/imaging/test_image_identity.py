"""Images known again: by bytes, by pixels whatever stores them, and nearly by their look."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdx.bundle.open import open_bundle
from kdx.errors import BundleError, ImageError
from kdx.imaging.image_identity import Identity, KnownImages, Likeness, content_of, distinct, identify, nearly_repeated
from kdx.storage.files import sha256_file
from tests.conftest import cell_images


@pytest.fixture(scope="module")
def cell() -> Image.Image:
    return cell_images(1, size=128)[0].convert("L")


def palette(image: Image.Image) -> Image.Image:
    mapped = Image.fromarray(np.asarray(image).copy())
    mapped.putpalette([value for grey in range(256) for value in (grey, grey, grey)])
    return mapped


def turned(image: Image.Image) -> tuple[Image.Image, Image.Exif]:
    exif = Image.Exif()
    exif[0x0112] = 6
    return image.transpose(Image.Transpose.ROTATE_90), exif


def test_pixels_are_the_same_in_whatever_stores_them(tmp_path, cell) -> None:
    cell.save(tmp_path / "a.png")
    cell.save(tmp_path / "b.bmp")
    cell.convert("RGB").save(tmp_path / "c.bmp")
    cell.convert("RGBA").save(tmp_path / "d.png")
    palette(cell).save(tmp_path / "e.png")
    cell.save(tmp_path / "f.tif", compression="tiff_lzw")
    cell.save(tmp_path / "g.webp", lossless=True)
    cell.save(tmp_path / "h.pgm")
    Image.fromarray(np.asarray(cell).astype(np.uint16) * 257).save(tmp_path / "i.png")
    image, exif = turned(cell)
    image.save(tmp_path / "j.png", exif=exif)
    found = [identify(path) for path in sorted(tmp_path.iterdir())]
    assert len({each.pixels for each in found}) == 1
    assert len({each.file for each in found}) == 10
    assert KnownImages(found[:1]).likeness(found[5]) is Likeness.SAME
    first, copies = distinct([(Path(str(index)), each) for index, each in enumerate(found)])
    assert (len(first), len(copies)) == (1, 9)


def test_other_pixels_or_another_size_are_other_images(tmp_path, cell) -> None:
    values = np.asarray(cell).copy()
    cell.save(tmp_path / "a.png")
    values[5, 5] ^= 1
    Image.fromarray(values).save(tmp_path / "b.png")
    Image.fromarray(values.reshape(64, 256)).save(tmp_path / "c.png")
    Image.merge("RGB", (cell, cell, Image.fromarray(values))).save(tmp_path / "d.png")
    deep = np.asarray(cell).astype(np.uint16) * 16
    Image.fromarray(deep).save(tmp_path / "e.png")
    deep[0, 0] += 1
    Image.fromarray(deep).save(tmp_path / "f.png")
    assert len({identify(path).pixels for path in tmp_path.iterdir()}) == 6


def test_what_cannot_be_decoded_is_known_by_its_file(tmp_path, cell) -> None:
    cell.save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:-200])
    found = identify(tmp_path / "b.png")
    assert found == Identity(file=sha256_file(tmp_path / "b.png"))
    assert KnownImages([found]).likeness(found) is Likeness.SAME
    assert not KnownImages([found]).knows_pixels


@pytest.mark.parametrize("index", range(6))
def test_near_copies_are_recognised_and_other_parts_are_not(tmp_path, index) -> None:
    cells = [image.convert("L") for image in cell_images(12, size=256)]
    for number, image in enumerate(cells):
        image.save(tmp_path / f"{number}.png")
    known = KnownImages([identify(tmp_path / f"{index}.png")])
    cell = cells[index]
    cell.save(tmp_path / "q50.jpg", quality=50)
    cell.save(tmp_path / "q80.webp", quality=80)
    cell.resize((128, 128), Image.Resampling.LANCZOS).save(tmp_path / "half.png")
    Image.fromarray(np.clip(np.asarray(cell).astype(int) + 5, 0, 255).astype(np.uint8)).save(tmp_path / "brighter.png")
    for name in ("q50.jpg", "q80.webp", "half.png", "brighter.png"):
        assert known.likeness(identify(tmp_path / name)) is Likeness.NEAR, name
    others = [known.likeness(identify(tmp_path / f"{other}.png")) for other in range(12) if other != index]
    assert set(others) == {Likeness.OTHER}


def test_facts_say_what_is_shown_and_not_what_stores_it(tmp_path, cell) -> None:
    cell.convert("RGB").save(tmp_path / "grey.png")
    Image.merge("RGB", (cell, cell, Image.new("L", cell.size))).save(tmp_path / "colour.png")
    Image.fromarray(np.asarray(cell).astype(np.uint16) * 16).save(tmp_path / "deep.png")
    found = [content_of(tmp_path / f"{name}.png") for name in ("grey", "colour", "deep")]
    assert [(each.is_grey, each.is_deep) for each in found] == [(True, False), (False, False), (True, True)]


def test_a_file_that_changes_is_looked_at_again(tmp_path, cell) -> None:
    path = tmp_path / "a.png"
    cell.save(path)
    before = identify(path)
    cell.transpose(Image.Transpose.ROTATE_180).save(path)
    assert identify(path).pixels != before.pixels


# Commands: the training images, saved again


def resaved(images: Path, target: Path, *, suffix: str = ".bmp", **options) -> Path:
    target.mkdir(parents=True)
    for path in sorted(images.iterdir()):
        Image.open(path).save(target / f"{path.stem}{suffix}", **options)
    return target


def kinds(record) -> dict[str, int]:
    return {one["kind"]: one["count"] for one in record["remarks"] if one["kind"] not in {"golden", "not_separated"}}


def test_training_images_saved_again_are_not_held_out(cli, tiny_bundle, dataset, tmp_path) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "b.kdx")
    before = cli("calibrate", bundle, dataset, "--false-reject-rate", 0.2, "--json").json
    again = resaved(dataset / "train/good", tmp_path / "again")
    after = cli("calibrate", bundle, again, "--false-reject-rate", 0.2, "--json").json
    assert after["passed_over_trained_on"] == before["passed_over_trained_on"] == 6
    assert after["threshold"]["score"] == before["threshold"]["score"]
    both = shutil.copytree(dataset / "train/good", tmp_path / "both")
    for path in again.iterdir():
        shutil.copy(path, both)
    record = cli("calibrate", bundle, both, "--false-reject-rate", 0.2, "--json").json
    assert record["threshold"]["score"] == before["threshold"]["score"]
    assert (record["passed_over_trained_on"], kinds(record)) == (12, {"copies": 6})
    near = resaved(dataset / "train/good", tmp_path / "near", suffix=".jpg", quality=90)
    record = cli("calibrate", bundle, near, "--false-reject-rate", 0.1, "--json").json
    assert kinds(record)["near_trained_on"] >= 6


@pytest.mark.slow
def test_a_bundle_with_hashes_of_files_alone_says_what_it_cannot_know(cli, tiny_bundle, dataset, tmp_path) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "old.kdx")
    known = open_bundle(bundle).training_images()
    (bundle / "training_images.json").write_text(json.dumps([image.file for image in known.images]), encoding="utf-8")
    index = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    index["files"]["training_images.json"] = sha256_file(bundle / "training_images.json")
    (bundle / "bundle.json").write_text(json.dumps(index), encoding="utf-8")
    assert len(open_bundle(bundle).training_images()) == len(known) == 6
    record = cli("calibrate", bundle, dataset, "--false-reject-rate", 0.2, "--json").json
    assert record["passed_over_trained_on"] == 6
    assert kinds(record) == {"pixels_unknown": 6}
    assert kinds(cli("evaluate", bundle, dataset, "--json").json) == {"pixels_unknown": 8}
    assert "known by their files alone" in cli("inspect", bundle).stdout


@pytest.mark.parametrize("content", ['{"images": [{}]}', '{"images": [{"file": "a", "look": "xyz"}]}', '{"images": 1}'])
def test_training_images_that_are_not_valid_are_refused(tiny_bundle, tmp_path, content) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "b.kdx")
    (bundle / "training_images.json").write_text(content, encoding="utf-8")
    index = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    index["files"]["training_images.json"] = sha256_file(bundle / "training_images.json")
    (bundle / "bundle.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(BundleError, match="is not valid"):
        open_bundle(bundle).training_images()


def test_evaluation_names_test_images_that_were_trained_on(cli, tiny_bundle, tiny_run, dataset_copy) -> None:
    trained = sorted(json.loads((tiny_run / "run.json").read_text(encoding="utf-8"))["train_images"])
    Image.open(dataset_copy / "train/good" / trained[0]).save(dataset_copy / "test/good/seen.bmp")
    Image.open(dataset_copy / "train/good" / trained[1]).save(dataset_copy / "test/good/nearly.jpg", quality=90)
    shutil.copy(dataset_copy / "test/good/012.png", dataset_copy / "test/scratch/twice.png")
    for detector in (tiny_bundle, tiny_run):
        record = cli("evaluate", detector, dataset_copy, "--json").json
        assert kinds(record) == {"trained_on": 1, "near_trained_on": 1, "good_and_defective": 2, "copies": 1}
        (trained_on,) = (one for one in record["remarks"] if one["kind"] == "trained_on")
        assert trained_on["first"][0].endswith("seen.bmp")


def test_defects_that_are_good_images_saved_again_choose_no_threshold(cli, tiny_bundle, dataset, tmp_path) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "b.kdx")
    defects = resaved(dataset / "test/good", tmp_path / "defects")
    good = dataset / "test/good"
    said = cli("calibrate", bundle, good, "--with-defects", defects, code=2).stderr
    assert "4 images are both good and defective" in said
    assert all(str(path) in said for path in defects.iterdir())


def test_copies_are_trained_on_once_and_named(cli, dataset_copy, tmp_path, tiny_options) -> None:
    for index in range(6):
        Image.open(dataset_copy / f"train/good/{index:03d}.png").save(dataset_copy / f"train/good/again{index}.bmp")
    Image.open(dataset_copy / "train/good/007.png").save(dataset_copy / "test/good/007.bmp")
    command = ("train", dataset_copy, *tiny_options, "--epochs", 1, "--json")
    record = cli(*command, "--out", tmp_path / "run").json
    assert record["train_images"] + record["held_out_images"] == 12
    assert kinds(record) == {"copies": 6, "test_images_among_good": 1}
    Image.open(dataset_copy / "train/good/008.png").save(dataset_copy / "test/scratch/008.bmp")
    refused = cli(*command, "--out", tmp_path / "other", code=2).json["error"]["message"]
    assert "1 image is both good and defective" in refused


def test_images_of_one_name_in_two_folders_are_both_known(cli, make_images, tmp_path, tiny_options) -> None:
    for index, image in enumerate(make_images(12)):
        folder = tmp_path / f"parts/cam{index % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{index // 2}.png")
    record = cli(
        "train", tmp_path / "parts", *tiny_options, "--subfolders", "--epochs", 1, "--out", tmp_path / "run", "--json"
    ).json
    assert record["train_images"] + record["held_out_images"] == 12


def test_the_report_and_calibration_agree_on_copies(tiny_bundle, dataset_copy) -> None:
    from kdx.calibration.level_fit import _first_half
    from kdx.folders.data_folder import open_folder
    from kdx.workflows.report.report_images import choose_images

    Image.open(dataset_copy / "train/good/003.png").save(dataset_copy / "train/good/zz.bmp")
    shutil.rmtree(dataset_copy / "test")
    bundle = open_bundle(tiny_bundle)
    material = choose_images(bundle, open_folder(dataset_copy), 100)
    assert material.holds_calibration
    buffer = io.BytesIO()
    Image.open(dataset_copy / "train/good/003.png").save(buffer, format="PNG")
    with pytest.raises(Exception, match="too few good images"):
        _first_half(bundle, open_folder(dataset_copy).good, None)


def test_near_copies_among_images_are_found_whatever_the_blocks(tmp_path) -> None:
    for index, image in enumerate(cell_images(5, size=128)):
        image.save(tmp_path / f"{index}.png")
        if index < 3:
            for quality in (75, 90):
                image.save(tmp_path / f"{index}_q{quality}.jpg", quality=quality)
    images = [(path, identify(path)) for path in sorted(tmp_path.iterdir())]
    expected = [path for path in sorted(tmp_path.iterdir()) if path.suffix == ".jpg"]
    for block in (1, 4, 1024):
        assert nearly_repeated(images, block) == expected
    assert nearly_repeated([(Path("a.png"), Identity(file="a")), (Path("b.png"), Identity(file="b"))]) == []


def test_calibration_says_when_near_copies_raise_the_number_of_images(cli, tiny_bundle, make_images, tmp_path) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "b.kdx")
    images = tmp_path / "images"
    images.mkdir()
    for index, image in enumerate(make_images(24)[14:]):
        image.save(images / f"{index}.png")
    alone = cli("calibrate", bundle, images, "--false-reject-rate", 0.1, "--json").json
    alike = kinds(alone).get("near_copies", 0)
    for path in sorted(images.iterdir()):
        for quality in (85, 95):
            Image.open(path).save(images / f"{path.stem}_{quality}.jpg", quality=quality)
    record = cli("calibrate", bundle, images, "--false-reject-rate", 0.1, "--json").json
    assert record["threshold"]["images"] == 30  # images of one part are as alike: none is left out
    assert kinds(record)["near_copies"] == 20 + alike
    text = cli("calibrate", bundle, images, "--false-reject-rate", 0.1).stderr
    assert f"{20 + alike} of the 30 good images that were used are nearly the same as another" in text
    assert f"calibrate without them, on {10 - alike} images" in text


def test_training_and_evaluation_name_near_copies_among_their_images(
    cli, tiny_bundle, dataset_copy, tmp_path, tiny_options
) -> None:
    before = kinds(cli("evaluate", tiny_bundle, dataset_copy, "--json").json).get("near_copies", 0)
    Image.open(dataset_copy / "test/good/012.png").save(dataset_copy / "test/good/again.jpg", quality=90)
    after = kinds(cli("evaluate", tiny_bundle, dataset_copy, "--json").json)
    assert after["near_copies"] == before + 1
    Image.open(dataset_copy / "train/good/000.png").save(dataset_copy / "train/good/again.jpg", quality=90)
    record = cli("train", dataset_copy, *tiny_options, "--epochs", 1, "--out", tmp_path / "run", "--json").json
    assert kinds(record)["near_copies"] == 1


def test_a_file_that_is_too_large_to_be_decoded_is_not_read_whole(tmp_path, cell, monkeypatch) -> None:
    cell.save(tmp_path / "large.bmp")
    for module in ("image_files", "image_identity"):
        monkeypatch.setattr(f"kdx.imaging.{module}.MAX_PIXELS", 128 * 128 - 1)
    monkeypatch.setattr(Path, "read_bytes", None)
    assert identify(tmp_path / "large.bmp") == Identity(file=sha256_file(tmp_path / "large.bmp"))


def test_a_file_that_cannot_be_read_is_an_image_that_cannot_be_read(tmp_path, cell, monkeypatch) -> None:
    cell.save(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"gone\.png' does not exist"):
        identify(tmp_path / "gone.png")

    def fail(path, *_):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    for name in ("read_bytes", "open"):
        monkeypatch.setattr(Path, name, fail)
    with pytest.raises(ImageError, match=r"a\.png' cannot be read: input/output error"):
        identify(tmp_path / "a.png")
