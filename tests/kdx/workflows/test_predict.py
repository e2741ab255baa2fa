"""Judging image files: names of bundles and heat maps, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest
from PIL import Image

from kd_train.training.run_folder import Run
from kdx.bundle.open import open_bundle
from kdx.bundle.store import write_manifest
from kdx.cli.verdict_table import show_verdicts
from kdx.errors import DataError, OptionError, OutputError
from kdx.folders.image_search import LeftOut
from kdx.workflows.predict import expand, judge_files, require_apart
from tests.platforms import needs_links


def overlays_of(bundles: list[Path], images: list[Path], folder: Path, **options) -> dict[str, Path]:
    """Judge images and return each heat map's path in the folder, with its image."""
    records: list[dict] = []
    first, *also = bundles
    judge_files(first, images, records, {}, also=also, overlay=folder, backend="onnxruntime-cpu", threads=1, **options)
    found = {Path(record["overlay"]).relative_to(folder).as_posix(): Path(record["image"]) for record in records}
    assert all((folder / name).is_file() for name in found)
    assert len(found) == len(records)
    return found


def test_heat_maps_and_bundles_of_one_name_are_kept_apart(tiny_bundle, dataset, tmp_path):
    image = next((dataset / "test/good").iterdir())
    images = [tmp_path / name for name in ("a/1.png", "b/1.png", "b/2.png")]
    for path in images:
        path.parent.mkdir(exist_ok=True)
        shutil.copy(image, path)
    names = overlays_of([tiny_bundle], images, tmp_path / "one")
    assert names == dict(zip(("a-1.png.png", "b-1.png.png", "2.png"), images, strict=True))

    bundles = [Path(shutil.copytree(tiny_bundle, tmp_path / line / "tile.kdx")) for line in ("left", "right")]
    names = overlays_of(bundles, images[2:], tmp_path / "two")
    assert set(names) == {"left-tile/2.png", "right-tile/2.png"}
    third = Path(shutil.copytree(tiny_bundle, tmp_path / "other/left/tile.kdx"))
    names = overlays_of([bundles[0], third], images[2:], tmp_path / "three")
    assert set(names) == {"left-tile/2.png", "left-tile_/2.png"}


def test_a_heat_map_replaces_no_image(tiny_bundle, dataset, tmp_path):
    image = Path(shutil.copy(next((dataset / "test/good").iterdir()), tmp_path / "1.png"))
    before = image.read_bytes()
    with pytest.raises(OutputError, match="would replace an image"):
        overlays_of([tiny_bundle], [image], tmp_path, force=True)
    assert image.read_bytes() == before
    other = tmp_path / "maps"
    overlays_of([tiny_bundle], [image], other)
    with pytest.raises(OutputError, match="exists"):
        overlays_of([tiny_bundle], [image], other)
    overlays_of([tiny_bundle], [image], other, force=True)


def test_heat_maps_beside_single_images_are_refused_except_where_the_user_works(tmp_path, monkeypatch):
    image = tmp_path / "parts/1.png"
    image.parent.mkdir()
    image.write_bytes(b"")
    for images in ([image], [image.parent]):
        with pytest.raises(OutputError, match="would lie among the images"):
            require_apart(image.parent / "maps", images)
        require_apart(tmp_path / "maps", images)
    monkeypatch.chdir(image.parent)
    require_apart(image.parent / "maps", [image])
    with pytest.raises(OutputError, match="would lie among the images"):
        require_apart(image.parent / "maps", [image.parent])


def test_a_shared_teacher_needs_several_bundles(tmp_path):
    with pytest.raises(OptionError, match="`shared_teacher` needs several bundles"):
        judge_files(tmp_path / "tile.kdx", [], [], {}, shared_teacher=True)


def test_files_and_folders_are_taken_once(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "empty").mkdir()
    files = [tmp_path / "full" / name for name in ("1.png", "2.png")]
    for file in files:
        file.write_bytes(b"")
    assert expand([files[1], tmp_path / "full"], LeftOut()) == [files[1], files[0]]
    with pytest.raises(DataError, match="no images were found in"):
        expand([tmp_path / "empty"], LeftOut())


def test_what_was_named_twice_is_counted(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    left_out = LeftOut()
    assert expand([Path("a.png"), Path("a.png"), Path("./a.png")], left_out) == [Path("a.png")]
    assert [str(each) for each in left_out.remarks] == [
        "2 images were named more than once, and each is judged once: a.png, a.png"
    ]


@pytest.mark.parametrize("truth", ["ground_truth", "GroundTruth"])
def test_masks_of_a_training_folder_are_not_judged_as_parts(tmp_path, truth):
    names = ["train/good/0.png", "test/crack/1.png", f"{truth}/crack/1_mask.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"")
    left_out = LeftOut()
    assert {path.relative_to(tmp_path).as_posix() for path in expand([tmp_path], left_out)} == set(names[:2])
    assert [str(each) for each in left_out.remarks] == [f"1 mask of defects was left out: {names[2]}"]
    # A folder that is named itself is judged, and so is one beside no training images.
    assert len(expand([tmp_path / truth], LeftOut())) == 1
    shutil.rmtree(tmp_path / "train")
    shutil.rmtree(tmp_path / "test")
    assert len(expand([tmp_path], LeftOut())) == 1


def test_heat_maps_of_one_name_in_folders_of_one_name_say_which_is_which(tiny_bundle, dataset, tmp_path):
    images = [tmp_path / name for name in ("d1/good/a.png", "d2/good/a.png", "d2/bad/a.png")]
    for path in images:
        path.parent.mkdir(parents=True)
        shutil.copy(next((dataset / "test/good").iterdir()), path)
    names = overlays_of([tiny_bundle], images, tmp_path / "one")
    assert names == dict(zip(("d1-good-a.png.png", "d2-good-a.png.png", "bad-a.png.png"), images, strict=True))


def test_a_link_to_itself_is_named_like_a_link_to_nothing(cli, tiny_bundle, dataset, tmp_path):
    shutil.copy(next((dataset / "test/good").iterdir()), tmp_path / "a.png")
    for name in ("self.png", "nothing.png"):
        (tmp_path / name).symlink_to(name if name == "self.png" else "nowhere.png")
    backend = ("--backend", "onnxruntime-cpu")
    stopped = cli("predict", tiny_bundle, tmp_path, *backend, code=2).stderr
    assert "nothing.png' is a symbolic link to 'nowhere.png', which does not exist" in stopped
    assert "cannot be listed" not in stopped
    done = cli("predict", tiny_bundle, tmp_path, *backend, "--max-bad-images", 2, "--overlay", tmp_path.parent / "maps")
    assert "self.png" in done.stderr + done.stdout
    assert "a.png" in done.stdout


def test_where_too_many_images_are_bad_those_after_it_are_counted_and_none_is_said_to_be_skipped(
    cli, tiny_bundle, dataset, tmp_path
):
    images = sorted((dataset / "test/good").iterdir())[:3]
    (tmp_path / "empty.png").touch()
    stopped = cli(
        *("predict", tiny_bundle, images[0], tmp_path / "empty.png", *images[1:], "--backend", "onnxruntime-cpu"),
        code=2,
    )
    assert images[0].name in stopped.stdout
    assert "is empty (0 bytes); the 2 images after it were not looked at" in stopped.stderr
    assert (
        "fix: skip such images with a larger --max-bad-images, or use an intact image, or leave it out"
        in stopped.stderr
    )
    assert "skipped" not in stopped.stderr


def test_a_run_is_exported_before_it_is_calibrated(cli, tiny_run, dataset):
    found = cli("predict", tiny_run, dataset / "test/good")
    assert f"Export it first: kdx export {tiny_run} -o NAME.kdx, then kdx calibrate NAME.kdx DATA" in found.stderr
    assert "undecided (no threshold)" in found.stdout


def test_the_reason_of_a_verdict_stands_before_the_faults_of_its_frame(capsys):
    record = {"verdict": "undecided", "image": "a.png", "score": 1.0, "threshold": None, "margin": None}
    record |= {"backend": "openvino", "precision": "fp32"}
    show_verdicts([{**record, "reason": "no_threshold", "frame_faults": ["saturated"]}])
    assert "undecided (no threshold) (saturated frame)" in " ".join(capsys.readouterr().out.split())


def test_heat_maps_of_a_command_that_stopped_are_counted(cli, tiny_bundle, dataset, tmp_path):
    images = [next((dataset / "test/good").iterdir()), tmp_path / "parts/empty.png"]
    images[1].parent.mkdir()
    images[1].touch()
    maps = tmp_path / "maps"
    stopped = cli("predict", tiny_bundle, *images, "--overlay", maps, "--backend", "onnxruntime-cpu", code=2).stderr
    assert f"1 heat map was written to {maps}/ before that: --force writes them again" in stopped
    cli("predict", tiny_bundle, images[0], "--overlay", maps, "--backend", "onnxruntime-cpu", "--force")


def test_heat_maps_of_an_earlier_call_are_gone_and_none_begin_where_it_is_refused(cli, tiny_bundle, dataset, tmp_path):
    parts, maps = tmp_path / "parts", tmp_path / "maps"
    parts.mkdir()
    for index, image in enumerate(sorted((dataset / "test/good").iterdir())[:2]):
        shutil.copy(image, parts / f"{index}.png")
    options = ("--overlay", maps, "--backend", "onnxruntime-cpu")
    for wrong in (("--json", "--regions", "--min-area", -1), ("-o", tiny_bundle / "out", "--csv")):
        cli("predict", tiny_bundle, parts, *options, *wrong, code=2)
        assert not maps.exists()
    cli("predict", tiny_bundle, parts, *options)
    (parts / "0.png").write_bytes(b"no image")
    cli("predict", tiny_bundle, parts, *options, "--max-bad-images", 1, "--force")
    assert [path.name for path in maps.iterdir()] == ["1.png"]


def test_regions_are_in_pixels_of_an_image_that_was_resized(cli, bundle_copy, dataset, tmp_path):
    manifest = open_bundle(bundle_copy).manifest
    spec, low = msgspec.structs.replace(manifest.input, fixed_size=False), 0.05
    threshold = msgspec.structs.replace(manifest.threshold, pixel=low)
    write_manifest(bundle_copy, msgspec.structs.replace(manifest, input=spec, threshold=threshold))
    image = Image.open(next((dataset / "test/scratch").iterdir())).resize((256, 192))
    (tmp_path / "parts").mkdir()
    image.save(tmp_path / "parts/large.png")
    options = ("--regions", "--coco", "--min-area", 60, "-o", tmp_path / "out", "--backend", "onnxruntime-cpu")
    (record,) = cli("predict", bundle_copy, tmp_path / "parts", "--json", *options).lines
    labels = json.loads((tmp_path / "out/regions.coco.json").read_text(encoding="utf-8"))["annotations"]
    assert [region["area"] for region in record["regions"]] == [each["area"] for each in labels]
    assert record["regions"][0]["width"] > 64


@pytest.mark.parametrize("option", ["--out", "--overlay"])
def test_nothing_is_written_into_bundles_and_runs(cli, tiny_bundle, tiny_run, dataset, tmp_path, option):
    (tmp_path / "link").symlink_to(tiny_bundle)
    table = ("--csv",) if option == "--out" else ()
    for folder, kind in ((tiny_bundle / "maps", "bundle"), (tmp_path / "link", "bundle"), (tiny_run, "run")):
        said = cli("predict", tiny_bundle, dataset / "test/good", option, folder, *table, code=2).stderr
        assert f", which is a {kind}" in said
        assert f"received: {option} {folder}" in said
    said = cli("score", tiny_bundle, dataset, "-o", tiny_bundle / "scores", code=2).stderr
    assert ", which is a bundle" in said
    assert not (tiny_bundle / "scores").exists()


def test_a_name_with_a_line_feed_and_a_reason_stand_in_one_line(cli, tiny_bundle, dataset, tmp_path):
    parts = tmp_path / "parts"
    parts.mkdir()
    image = Image.open(next((dataset / "test/good").iterdir()))
    image.save(parts / "a\nb.png")
    image.resize((80, 64)).save(parts / "wide\n.png")
    options = ("--backend", "onnxruntime-cpu", "--max-bad-images", 1, "-o", tmp_path / "out", "--csv")
    said = cli("predict", tiny_bundle, parts, *options)
    assert "a\\nb.png" in said.stdout
    reason = "wide\\n.png' has the wrong size; expected 64 × 64 pixels; received 80 × 64 pixels"
    assert reason in said.stderr
    lines = (tmp_path / "out/verdicts.csv").read_text(encoding="utf-8-sig").splitlines()
    assert len(lines) == 3
    assert reason in lines[2]


def test_what_decided_is_named(cli, tiny_bundle, dataset):
    image = next((dataset / "test/good").iterdir())
    (record,) = (json.loads(line) for line in cli("predict", tiny_bundle, image, "--json").stdout.splitlines())
    assert (record["backend"], record["precision"]) in {("onnxruntime-cpu", "fp32"), ("openvino", "fp32")}
    said = cli("predict", tiny_bundle, image, "--backend", "onnxruntime-cpu").stdout
    assert "decided in FP32 by onnxruntime-cpu\n" in said


def test_images_that_were_trained_on_are_named(cli, tiny_bundle, tiny_run, dataset):
    trained = Run(tiny_run).config.train_images
    folders = (dataset / "train/good", dataset / "test/good")
    said = {}
    for detector in (tiny_bundle, tiny_run):
        (remark,) = cli("predict", detector, *folders, "--json").lines[-1]["remarks"]
        said[detector] = remark["kind"], remark["count"]
        assert all("train/good" in name for name in remark["first"])
    assert set(said.values()) == {("trained_on", len(trained))}
    assert "trained on" not in cli("predict", tiny_bundle, folders[1]).stderr


def test_several_bundles_may_decide_in_other_precisions(capsys):
    facts = {"image": "a.png", "verdict": "good", "score": 1.0, "threshold": 2.0, "margin": -0.5}
    by = [{"bundle": "one", "backend": "openvino", "precision": "int8"}]
    by.append({"bundle": "two", "backend": "onnxruntime-cpu", "precision": "fp32"})
    show_verdicts([{**facts, **each} for each in (*by, *by)])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("decided")]
    assert lines == ["decided in INT8 by openvino (one)", "decided in FP32 by onnxruntime-cpu (two)"]


@pytest.mark.parametrize("also", [False, True])
def test_a_precision_can_be_asked_for(cli, students_bundle, tiny_bundle, dataset, tmp_path, also):
    image = sorted((dataset / "test/good").iterdir())[0]
    others = ("--also", shutil.copytree(students_bundle, tmp_path / "copy.kdx")) if also else ()
    for precision in ("fp32", "int8"):
        command = ("predict", students_bundle, image, *others, "--precision", precision, "--json")
        assert {record["precision"] for record in cli(*command).lines} == {precision}
    refused = cli("predict", tiny_bundle, image, *others, "--precision", "int8", code=2).stderr
    assert "holds no int8 graph" in refused


@needs_links
def test_a_bundle_that_is_named_twice_is_refused(cli, tiny_bundle, bundle_copy, dataset, tmp_path):
    (tmp_path / "link.kdx").symlink_to(tiny_bundle)
    image = dataset / "test/good/012.png"
    for again in (tiny_bundle, tmp_path / "link.kdx"):
        said = cli("predict", tiny_bundle, image, "--also", bundle_copy, "--also", again, code=2).stderr
        assert "a bundle is named twice" in said
        assert f"received: --also {again}" in said


def test_force_without_anything_to_replace_is_refused(cli, tiny_bundle, dataset):
    said = cli("predict", tiny_bundle, dataset / "test/good", "--force", code=2).stderr
    assert "--force would change nothing without --overlay or --out" in said
