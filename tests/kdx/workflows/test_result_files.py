"""The files of ``kdx predict``: a table that loses no image, and files that replace none."""

from __future__ import annotations

import csv
import errno
import json
import shlex
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image
from scipy.ndimage import binary_fill_holes

import kdx
from kdx.calibration.validity import CalibrationWarning
from kdx.decision import map_files
from kdx.decision.regions import NEIGHBOURS
from kdx.errors import OptionError, OutputError
from kdx.imaging.field_of_view import FieldOfView
from kdx.storage.spreadsheet import csv_lines
from kdx.workflows import result_files
from kdx.workflows.result_files import ResultFiles, ResultOptions, place_of, result_options
from kdx.workflows.result_names import relative_names
from tests.images import DEFECTS, published_bundle
from tests.schema1 import FIXTURES, old_bundle

BACKEND = ("--backend", "onnxruntime-cpu")
IMAGES = {"tiled": "frame-*.png", "level": "cell-*.png"}


@pytest.fixture
def parts(dataset, tmp_path) -> Path:
    """A plain folder: names that collide, one that is a formula, one that is no image."""
    folder = tmp_path / "parts"
    (folder / "left").mkdir(parents=True)
    image = Image.open(next((dataset / "test/scratch").iterdir()))
    for name in ("a.png", "left/a.png", "=b.png", "ü.png"):
        image.save(folder / name)
    image.convert("L").save(folder / "a.bmp")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture
def everywhere(monkeypatch) -> None:
    """Let the calibrated pixel threshold be so low that every map exceeds it somewhere."""
    load = kdx.load

    def low(*args, **options):
        detector = load(*args, **options)
        detector.pixel_threshold = 0.15
        return detector

    monkeypatch.setattr("kdx.workflows.predict.load", low)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "verdicts.csv").open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.usefixtures("everywhere")
def test_every_image_of_a_folder_has_its_row_and_its_files(cli, tiny_bundle, parts, tmp_path, monkeypatch):
    monkeypatch.chdir(parts)
    out = tmp_path / "out"
    options = (*BACKEND, "--max-bad-images", 1, "--json", "--out", out, "--csv", "--maps", "npy", "--masks", "--coco")
    said = cli("predict", tiny_bundle, *sorted(Path().iterdir()), *options).lines
    rows = {row["image"]: row for row in rows_of(out)}
    assert sorted(rows) == ["./=b.png", "a.bmp", "a.png", "broken.png", "left/a.png", "ü.png"]
    assert rows["broken.png"]["verdict"] == "skipped"
    assert "not a readable image" in rows["broken.png"]["error"]
    names = ["=b.png", "a.bmp", "a.png", "left/a.png", "ü.png"]
    maps = [f"maps/{name}.{end}" for name in names for end in ("json", "npy")]
    assert files_in(out) == sorted([*maps, *(f"masks/{n}.png" for n in names), "regions.coco.json", "verdicts.csv"])
    document = json.loads((out / "regions.coco.json").read_text(encoding="utf-8"))
    assert [image["file_name"] for image in document["images"]] == [each["image"] for each in said if "score" in each]
    with kdx.load(tiny_bundle, "onnxruntime-cpu") as detector:
        for record in said[:-1] if "remarks" in said[-1] else said:
            if "error" in record:
                continue
            verdict = detector(kdx.read_image(record["image"], detector.input))
            row = rows["./=b.png" if record["image"] == "=b.png" else record["image"]]
            assert float(row["score"]) == record["score"] == verdict.score
            assert (row["verdict"], float(row["threshold"])) == (verdict.decision.value, verdict.threshold)
            values = np.load(record["map"])
            np.testing.assert_array_equal(values, verdict.anomaly_map)
            mask = np.asarray(Image.open(record["mask"]))
            np.testing.assert_array_equal(mask == 255, values > 0.15)  # map and image are of one size here
            assert mask.any()
    boxes = [each["bbox"] for each in document["annotations"] if each["image_id"] == 1]
    assert boxes
    assert all(x >= 0 and y >= 0 and x + w <= 64 and y + h <= 64 for x, y, w, h in boxes)


@pytest.mark.parametrize("data_set", DEFECTS)
def test_files_of_published_images_hold_what_the_detector_says(cli, tiny_bundle, data_set, tmp_path):
    bundle, images = published_bundle(tmp_path, data_set, tiny_bundle)
    out = tmp_path / "out"
    files = ("--csv", "--maps", "tiff", "--masks", "--coco", "--yolo")
    cli("predict", bundle, images, *BACKEND, "-o", out, *files)
    rows = {Path(row["image"]).name: row for row in rows_of(out)}
    document = json.loads((out / "regions.coco.json").read_text(encoding="utf-8"))
    read_coco = pytest.importorskip("pycocotools.coco").COCO(str(out / "regions.coco.json"))
    found = 0
    with kdx.load(bundle, "onnxruntime-cpu", 1) as detector:
        for number, image in enumerate(sorted(images.iterdir()), start=1):
            verdict = detector(kdx.read_image(image, detector.input))
            row = rows.pop(image.name)
            assert (float(row["score"]), row["verdict"]) == (verdict.score, verdict.decision.value)
            np.testing.assert_array_equal(np.asarray(Image.open(row["map"])), verdict.anomaly_map)
            mask = np.asarray(Image.open(row["mask"]))
            np.testing.assert_array_equal(mask == 255, verdict.anomaly_map > detector.pixel_threshold)
            regions = detector.regions(verdict)
            of_image = [each for each in document["annotations"] if each["image_id"] == number]
            assert [each["score"] for each in of_image] == [region.peak for region in regions]
            assert sum(each["area"] for each in of_image) == (mask == 255).sum()
            labels = (out / f"labels/{image.stem}.txt").read_text(encoding="ascii").splitlines()
            assert [float(line.split()[3]) * 64 for line in labels] == [region.width for region in regions]
            pixels = sum((read_coco.annToMask(each).astype(int) for each in of_image), np.zeros((64, 64), int))
            assert ((pixels == 1) >= (mask == 255)).all()
            assert pixels.sum() == binary_fill_holes(mask, NEIGHBOURS).sum()
            found += len(regions)
    assert not rows
    assert found >= 4


def test_what_was_not_judged_is_named_and_everything_written_is_whole(cli, tiny_bundle, parts, tmp_path):
    out = tmp_path / "out"
    options = (*BACKEND, "-o", out, "--csv", "--semicolons", "--maps", "tiff")
    stopped = cli("predict", tiny_bundle, parts, *options, code=2).stderr
    assert f"{out}/ has the results of 3 images only" in stopped
    with (out / "verdicts.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file, delimiter=";", strict=True))
    assert [row["verdict"] for row in rows] == ["good", "good", "good", "skipped", "not judged", "not judged"]
    assert float(rows[0]["score"].replace(",", ".")) > 0
    assert len([name for name in files_in(out) if name.endswith(".tiff")]) == 3
    # What exists is replaced when it is asked for, and only then.
    (parts / "broken.png").unlink()
    refused = cli("predict", tiny_bundle, parts, *options, code=2).stderr
    assert "verdicts.csv' exists already" in refused
    cli("predict", tiny_bundle, parts, *options, "--force")
    with (out / "verdicts.csv").open(encoding="utf-8-sig", newline="") as file:
        assert {row["verdict"] for row in csv.DictReader(file, delimiter=";")} == {"good"}


def test_a_full_disk_and_ctrl_c_leave_whole_files(cli, tiny_bundle, parts, tmp_path, monkeypatch):
    (parts / "broken.png").unlink()
    write, out = map_files.write_atomic, tmp_path / "out"
    for number, (error, status) in enumerate([(OSError(errno.ENOSPC, "no space"), 2), (KeyboardInterrupt(), 130)]):

        def fails(path: Path, *data: bytes, error=error) -> None:
            if path.name == "a.png.tiff":
                if isinstance(error, OSError):
                    error.filename = str(path)
                raise error
            write(path, *data)

        monkeypatch.setattr(map_files, "write_atomic", fails)
        folder = out / str(number)
        options = (*BACKEND, "-o", folder, "--csv", "--maps", "tiff", "--coco")
        stopped = cli("predict", tiny_bundle, parts, *options, code=status).stderr
        assert "has the results of 2 images only" in stopped
        assert "interrupted" in stopped or f"the disk is full at '{folder}/maps/a.png.tiff'" in stopped
        assert [row["verdict"] for row in rows_of(folder)] == ["good", "good", "not judged", "not judged", "not judged"]
        assert len(json.loads((folder / "regions.coco.json").read_text(encoding="utf-8"))["images"]) == 2
        assert not [name for name in files_in(folder) if name.endswith(".part")]


def test_a_full_disk_has_room_for_the_table_and_the_command_is_given(cli, tiny_bundle, parts, tmp_path, monkeypatch):
    (parts / "broken.png").unlink()
    out, write = tmp_path / "out", result_files.write_atomic

    def limited(path: Path, *data: bytes) -> None:
        used = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
        if used + sum(map(len, data)) > 5 * 1_200 + 2 * 17_500:  # room for five rows and two maps
            raise OSError(errno.ENOSPC, "no space", str(path))
        write(path, *data)

    for module in (map_files, result_files):
        monkeypatch.setattr(module, "write_atomic", limited)
    command = ("predict", tiny_bundle, parts, *BACKEND, "-o", out, "--csv", "--maps", "npy")
    stopped = cli(*command, code=2).stderr
    again = stopped.partition("fix: free space, and write all again: kdx ")[2]
    assert shlex.split(again) == [*map(str, command), "--force"]
    assert [row["verdict"] for row in rows_of(out)] == ["good", "good", "not judged", "not judged", "not judged"]
    assert not list(out.glob(".*"))


@pytest.mark.usefixtures("everywhere")
def test_with_force_no_file_of_an_earlier_call_is_left(cli, tiny_bundle, parts, tmp_path):
    (parts / "broken.png").unlink()
    (parts / "a.bmp").unlink()
    out = tmp_path / "out"
    options = (*BACKEND, "-o", out, "--csv", "--maps", "npy", "--masks", "--yolo")
    cli("predict", tiny_bundle, parts, *options)
    (out / "maps/notes.txt").write_text("mine", encoding="utf-8")
    # The JSON files are of the maps in the one format, and would be replaced by those of the other.
    refused = cli("predict", tiny_bundle, parts, *BACKEND, "-o", out, "--maps", "png", code=2).stderr
    assert ".json' exists already" in refused
    (parts / "a.png").write_bytes(b"no image")
    cli("predict", tiny_bundle, parts, *options, "--force", code=2)
    verdicts = {row["image"]: row["verdict"] for row in rows_of(out)}
    judged = [Path(image).relative_to(parts).as_posix() for image, verdict in verdicts.items() if verdict == "good"]
    assert verdicts[str(parts / "a.png")] == "skipped"
    assert list(verdicts.values()).count("not judged") == 3 - len(judged) > 0
    files = [f"maps/{name}.{end}" for name in judged for end in ("json", "npy")]
    files += [f"masks/{name}.png" for name in judged] + [f"labels/{name.removesuffix('.png')}.txt" for name in judged]
    assert files_in(out) == sorted([*files, "maps/notes.txt", "classes.txt", "data.yaml", "verdicts.csv"])


@pytest.mark.parametrize("last", ["tiny", "nut"])
@pytest.mark.usefixtures("everywhere")
def test_files_without_a_record_are_removed(cli, tiny_bundle, parts, tmp_path, monkeypatch, last):
    other = Path(shutil.copytree(tiny_bundle, tmp_path / "nut.kdx"))
    add, out = ResultFiles.add, tmp_path / "out"

    def stopped(self: ResultFiles, path: Path, bundle: str, *given) -> dict[str, str]:
        written = add(self, path, bundle, *given)
        if (path.name, bundle) == ("a.png", last):
            raise KeyboardInterrupt
        return written

    monkeypatch.setattr(ResultFiles, "add", stopped)
    options = (*BACKEND, "--also", other, "-o", out, "--csv", "--maps", "npy", "--masks", "--coco")
    cli("predict", tiny_bundle, parts / "=b.png", parts / "a.png", parts / "ü.png", *options, code=130)
    judged = [(row["bundle"], Path(row["image"]).name) for row in rows_of(out) if row["score"]]
    assert judged == [("tiny", "=b.png"), ("nut", "=b.png"), *([("tiny", "a.png")] if last == "nut" else [])]
    for bundle in ("tiny", "nut"):
        names = [name for of, name in judged if of == bundle]
        assert files_in(out / bundle / "masks") == [f"{name}.png" for name in names]
        assert files_in(out / bundle / "maps") == [f"{name}.{end}" for name in names for end in ("json", "npy")]
        document = json.loads((out / bundle / "regions.coco.json").read_text(encoding="utf-8"))
        assert [image["file_name"] for image in document["images"]] == names


@pytest.mark.usefixtures("everywhere")
def test_yolo_files_lie_as_images_do_and_share_no_name(cli, tiny_bundle, parts, tmp_path):
    (parts / "broken.png").unlink()
    out = tmp_path / "out"
    refused = cli("predict", tiny_bundle, parts, *BACKEND, "-o", out, "--yolo", code=2).stderr
    assert "a.bmp' and '" in refused
    assert "would have one file of labels" in refused
    (parts / "a.bmp").unlink()
    cli("predict", tiny_bundle, parts, *BACKEND, "-o", out, "--yolo", "--min-area", 2)
    labels = {name for name in files_in(out) if name.startswith("labels/")}
    assert labels == {"labels/=b.txt", "labels/a.txt", "labels/left/a.txt", "labels/ü.txt"}
    assert (out / "classes.txt").read_text(encoding="ascii") == "defect\n"
    assert "0: defect" in (out / "data.yaml").read_text(encoding="ascii")
    for label in labels:
        lines = [line.split() for line in (out / label).read_text(encoding="ascii").splitlines()]
        assert lines
        assert all(line[0] == "0" and all(0 <= float(each) <= 1 for each in line[1:]) for line in lines)


def test_a_frame_that_shows_no_part_is_no_image_without_defects(cli, tiny_bundle, dataset, tmp_path):
    images, out = Path(shutil.copytree(dataset / "test/good", tmp_path / "parts")), tmp_path / "out"
    dark = images / "lamp-off.png"
    Image.new("L", (64, 64)).save(dark)
    options = (*BACKEND, "-o", out, "--csv", "--maps", "npy", "--masks", "--coco", "--yolo")
    *records, last = cli("predict", tiny_bundle, images, *options, "--json").lines
    (of_dark,) = [record for record in records if record["image"] == str(dark)]
    assert (of_dark["verdict"], of_dark["reason"]) == ("undecided", "frame")
    (row,) = [row for row in rows_of(out) if row["image"] == str(dark)]
    assert (row["verdict"], row["reason"], row["mask"]) == ("undecided", "frame", "")
    # The map has values like any other. What would say that there are no defects is not written.
    assert [name for name in files_in(out) if "lamp-off" in name] == [
        "maps/lamp-off.png.json",
        "maps/lamp-off.png.npy",
    ]
    document = json.loads((out / "regions.coco.json").read_text(encoding="utf-8"))
    listed = [image["file_name"] for image in document["images"]]
    assert listed == [path.name for path in sorted(images.iterdir()) if path != dark]
    (said,) = [each for each in last["remarks"] if each["kind"] == "unlabelled"]
    assert (said["count"], said["first"]) == (1, [str(dark)])
    # Nothing is said to somebody who asked for neither masks nor labels.
    plain = cli("predict", tiny_bundle, dark, *BACKEND, "-o", tmp_path / "plain", "--csv", "--json").lines
    assert not [each for each in plain[-1].get("remarks", ()) if each["kind"] == "unlabelled"]


def test_several_bundles_have_folders_and_one_table(cli, tiny_bundle, dataset, tmp_path):
    other = Path(shutil.copytree(tiny_bundle, tmp_path / "nut.kdx"))
    out, images = tmp_path / "out", dataset / "test/good"
    cli("predict", tiny_bundle, images, "--also", other, *BACKEND, "-o", out, "--csv", "--masks")
    rows = rows_of(out)
    assert [row["bundle"] for row in rows[:4]] == ["tiny", "nut", "tiny", "nut"]
    assert len(rows) == 2 * len(list(images.iterdir()))
    assert Path(rows[0]["mask"]).is_relative_to(out / "tiny/masks")


def test_files_without_a_threshold_a_folder_or_a_purpose_are_refused(cli, raw_bundle, tiny_bundle, dataset, tmp_path):
    images = dataset / "test/good"
    for kind in ("--masks", "--coco", "--yolo"):
        refused = cli("predict", raw_bundle, images, *BACKEND, "-o", tmp_path / "out", kind, code=2).stderr
        assert "is not calibrated" in refused
    assert not (tmp_path / "out").exists()
    cli("predict", raw_bundle, images, *BACKEND, "-o", tmp_path / "out", "--maps", "png", "--csv")
    assert {row["reason"] for row in rows_of(tmp_path / "out")} == {"no_threshold"}
    assert "--out" in cli("predict", tiny_bundle, images, "--csv", code=2).stderr
    assert "add --csv" in cli("predict", tiny_bundle, images, "-o", tmp_path / "b", code=2).stderr
    among = cli("predict", tiny_bundle, images, "-o", images / "out", "--csv", code=2).stderr
    assert "the results would lie among the images" in among


def test_files_of_any_size_have_places_in_their_own_pixels(dataset, tmp_path, monkeypatch):
    image = Image.open(next((dataset / "test/good").iterdir())).resize((50, 120))
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was turned: it stands upright at 120 × 50
    image.save(tmp_path / "turned.jpg", exif=exif)

    class Loaded:
        input = kdx.InputSpec(height=64, width=64, channels=1, fixed_size=False)
        view = FieldOfView(0.5)

    place = place_of(tmp_path / "turned.jpg", Loaded)
    assert (place.width, place.height, place.box) == (120, 50, (30.0, 12.5, 90.0, 37.5))
    Loaded.input = replace(Loaded.input, fixed_size=True)
    assert place_of(tmp_path / "turned.jpg", Loaded).width == 64


@pytest.mark.parametrize("name", ["tiled", "level"])
def test_maps_of_tiles_and_of_regions_of_interest_lie_in_the_whole_frame(cli, name, tmp_path):
    bundle, images = old_bundle(name, tmp_path), sorted((FIXTURES / "images").glob(IMAGES[name]))
    out = tmp_path / "out"
    options = (*BACKEND, "-o", out, "--maps", "tiff", "--masks", "--csv")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        cli("predict", bundle, *images, *options)
        detector = kdx.load(bundle, "onnxruntime-cpu")
    assert {row["precision"] for row in rows_of(out)} == {"fp32"}
    peaks = []
    for image in images:
        verdict = detector(kdx.read_image(image, detector.input))
        values = np.asarray(Image.open(out / f"maps/{image.name}.tiff"))
        np.testing.assert_array_equal(values, verdict.anomaly_map)
        about = json.loads((out / f"maps/{image.name}.json").read_text(encoding="utf-8"))
        size = (detector.input.width, detector.input.height)
        assert tuple(about["image_size"].values()) == size
        steps, covers = about["image_pixels_per_map_pixel"], about["covers"]
        mask = np.asarray(Image.open(out / f"masks/{image.name}.png"))
        assert mask.shape == size[::-1]
        for region in detector.regions(verdict):
            row = int((region.peak_row - covers["top"]) / steps["down"])
            column = int((region.peak_column - covers["left"]) / steps["across"])
            assert values[row, column] == region.peak
            peaks.append(region.peak)
            assert mask[int(region.peak_row), int(region.peak_column)] == 255
        if detector.roi is not None:
            assert not mask[~detector.roi.included].any()
    assert peaks
    detector.close()


def test_names_are_relative_to_the_folder_around_all_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [Path("x/a.png"), tmp_path / "x/y/a.png", Path("x/../x/b.png")]
    root, names = relative_names(paths)
    assert root == tmp_path / "x"
    assert list(names.values()) == ["a.png", "y/a.png", "b.png"]


@pytest.mark.parametrize("yolo", [False, True])
def test_one_image_in_two_spellings_is_refused(tmp_path, yolo):
    options = ResultOptions(folder=tmp_path / "out", coco=True, yolo=yolo)
    with pytest.raises(OptionError, match="would have the same files"):
        ResultFiles(options, [tmp_path / "x/a.png", tmp_path / "x/../x/a.png"], ["b"], [], {})
    assert not (tmp_path / "out").exists()


def test_options_say_what_they_need(tmp_path):
    assert result_options(None, False, None, False, False, False) is None
    with pytest.raises(OptionError, match="`out=FOLDER`"):
        result_options(None, True, None, False, False, False)
    with pytest.raises(OptionError, match="invalid `maps`"):
        result_options(tmp_path, False, "jpg", False, False, False)


def test_a_result_replaces_no_image(tiny_bundle, dataset, tmp_path, monkeypatch):
    image = tmp_path / "masks/a.png.png"
    image.parent.mkdir()
    shutil.copy(next((dataset / "test/good").iterdir()), image)
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(OutputError, match="is an image and would be replaced"):
        ResultFiles(ResultOptions(folder=tmp_path, masks=True), [image, tmp_path / "a.png"], ["b"], [], {}, force=True)


def test_the_room_of_the_table_holds_long_folders_and_reasons(tmp_path):
    """A row with a map, a mask, a heat map and a reason is no longer than what is kept for it."""
    folder, image, reason = tmp_path / ("f" * 120) / "out", Path("new/a.png"), "ж" * 450 + '"' * 50
    options = ResultOptions(folder=folder, csv="comma", maps="tiff", masks=True)
    overlay = folder / "overlay"
    texts = {"tile": [reason, str(overlay)]}
    files = ResultFiles(options, [image], ["tile"], [], {}, texts=texts)
    row = dict.fromkeys(files._columns(), "x" * 20) | {
        "threshold_by_hand": reason,
        "overlay": str(overlay / "a.png"),
        **{kind: str(path) for kind, path in files._of["tile"].maps.targets("a.png").items()},
    }
    assert files._space.stat().st_size >= len(list(csv_lines([row], list(row), "comma"))[1])
