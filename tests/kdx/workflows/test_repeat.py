"""``kdx repeat``: real parts, each photographed many times by a noisy camera."""

from __future__ import annotations

import json
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import kdx
from kdx.bundle.open import open_bundle
from kdx.calibration.by_hand import GivenThreshold
from kdx.calibration.repeatability import repeatability
from kdx.decision.verdict import Decision
from kdx.errors import DataError
from kdx.imaging.image_identity import identify
from kdx.runtime.banded import judge_path
from kdx.workflows.calibrate import CalibrationRequest, calibrate_folder
from kdx.workflows.repeat import RepeatStudy, Repetition, repeat
from tests.images import DEFECTS, published_folder
from tests.platforms import needs_links

ORT = ("--backend", "onnxruntime-cpu")


def photograph(image: Path, folder: Path, count: int, noise: float = 2.0) -> Path:
    """Write a part's image many times, each with the noise of a sensor."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.asarray(Image.open(image)).astype(float)
    for index in range(count):
        noisy = pixels + np.random.default_rng(index).normal(0, noise, pixels.shape)
        Image.fromarray(noisy.clip(1, 254).round().astype(np.uint8)).save(folder / f"{index:03d}.png")
    return folder


@pytest.fixture(scope="module", params=DEFECTS)
def real(request, tmp_path_factory, tiny_bundle) -> tuple[Path, Path, Path]:
    """A bundle that is calibrated on a published data set, its good images, and a part of it."""
    folder = tmp_path_factory.mktemp(request.param)
    good, _ = published_folder(folder, request.param, good=20, defective=1)
    bundle = Path(shutil.copytree(tiny_bundle, folder / "tile.kdx"))
    calibrate_folder(bundle, good, CalibrationRequest(0.1, backend="onnxruntime-cpu"))
    return bundle, good, photograph(good / "004.png", folder / "part", 26)


def test_the_study_is_that_of_the_detectors_scores(real, cli, tmp_path):
    bundle, _, part = real
    with kdx.load(bundle, "onnxruntime-cpu") as detector:
        verdicts = [detector(kdx.read_image(path, detector.input)) for path in sorted(part.iterdir())]
        threshold, precision = detector.threshold, detector.precision
    scores = np.array([each.score for each in verdicts])
    found = cli("repeat", bundle, part, *ORT, "--json").json
    assert [each["score"] for each in found["repetitions"]] == pytest.approx(scores, rel=1e-5)
    assert [each["verdict"] for each in found["repetitions"]] == [each.decision.value for each in verdicts]
    assert [each["image"] for each in found["repetitions"]] == [str(path) for path in sorted(part.iterdir())]
    assert (found["sigma"], found["mean"]) == pytest.approx((scores.std(ddof=1), scores.mean()), rel=1e-4)
    assert found["cg"] == pytest.approx(0.2 * threshold / (6 * scores.std(ddof=1)), rel=1e-4)
    assert (found["images"], found["threshold"], found["precision"]) == (26, threshold, precision)
    assert found["sigma"] < found["sigma_of_good"]
    assert {each["kind"] for each in found["remarks"]} <= {"apart"}
    picture = tmp_path / "pictures/part [1].png"
    pytest.importorskip("matplotlib", reason="matplotlib draws the picture")
    said = cli("repeat", bundle, part, "--picture", picture, *ORT).stdout
    assert f"standard deviation {found['sigma']:.4g}" in said
    assert f"Cg {found['cg']:.4g}" in said
    with Image.open(picture) as drawn:
        assert (drawn.format, drawn.size) == ("PNG", (1350, 720))
    cli("repeat", bundle, part, "--picture", picture, *ORT, code=2)  # it exists
    cli("repeat", bundle, part, "--picture", picture, "--force", *ORT)


def test_verdicts_that_change_at_a_threshold_among_the_scores_are_counted(real):
    bundle, good, part = real
    copy = Path(shutil.copytree(bundle, part.parent / "middle.kdx", dirs_exist_ok=True))
    middle = repeat(copy, part, "onnxruntime-cpu").found.mean
    request = CalibrationRequest(backend="onnxruntime-cpu", by_hand=GivenThreshold(middle, None, "to see"))
    calibrate_folder(copy, good, request)
    found = repeat(copy, part, "onnxruntime-cpu").found
    assert found.changed > 5
    assert sum(found.verdicts.values()) == 26
    assert found.margin_in_sigmas < 0.1


def test_other_parts_are_named(real, tmp_path):
    bundle, good, part = real
    mixed = repeat(bundle, good, "onnxruntime-cpu")
    assert mixed.found.is_mixed
    assert "mixed_parts" in {each.kind for each in mixed.remarks}
    folder = Path(shutil.copytree(part, tmp_path / "part"))
    usual = repeat(bundle, part, "onnxruntime-cpu").found.mean
    other = max(mixed.repetitions, key=lambda each: abs(each.score - usual))
    shutil.copy(other.image, folder / "other.png")
    (remark,) = [each for each in repeat(bundle, folder, "onnxruntime-cpu").remarks if each.kind == "apart"]
    assert str(folder / "other.png") in remark.first


@needs_links
def test_copies_frames_without_a_part_and_unreadable_files_are_no_repetitions(bundle_copy, cells, cli, tmp_path):
    part = photograph(cells / "00.png", tmp_path / "part", 12)
    before = repeat(bundle_copy, part, "onnxruntime-cpu")
    assert {each.kind for each in before.remarks} >= {"few_images"}
    grey = Image.open(part / "002.png").convert("L")
    Image.merge("RGB", (grey, grey, grey.point(lambda value: value ^ 1))).save(part / "blue.png")
    coloured = repeat(bundle_copy, part, "onnxruntime-cpu").remarks
    assert [Path(each.first[0]).name for each in coloured if each.kind == "colour_for_mono"] == ["blue.png"]
    (part / "blue.png").unlink()
    shutil.copy(part / "000.png", part / "copy.png")
    Image.new("L", (64, 64), 0).save(part / "lamp-off.png")
    (part / "torn.png").write_bytes((part / "001.png").read_bytes()[:200])
    (part / "gone.png").symlink_to("nowhere.png")
    assert "torn.png" in cli("repeat", bundle_copy, part, "--max-bad-images", 1, *ORT, code=2).stderr
    found = repeat(bundle_copy, part, "onnxruntime-cpu", max_bad_images=2)
    assert [Path(path).name for path in found.bad_images] == ["gone.png", "torn.png"]
    named = {each.kind: [Path(path).name for path in each.first] for each in found.remarks}
    assert (named["copies"], named["no_part"]) == (["copy.png"], ["lamp-off.png"])
    assert [each for each in found.repetitions if each.score is not None] == before.repetitions
    (frame,) = [each for each in found.repetitions if each.score is None]
    assert (Path(frame.image).name, frame.verdict) == ("lamp-off.png", "undecided")
    assert (found.found.sigma, found.found.verdicts["undecided"]) == (before.found.sigma, 1)
    # A frame that is decided defective has a score, whatever it shows.
    request = CalibrationRequest(backend="onnxruntime-cpu", by_hand=GivenThreshold(0.0, None, "to see"))
    calibrate_folder(bundle_copy, cells, request)
    decided = repeat(bundle_copy, part, "onnxruntime-cpu", max_bad_images=2)
    assert (decided.found.images, decided.found.verdicts) == (13, {"defective": 13})
    assert all(each.score is not None for each in decided.repetitions)
    assert "no_part" not in {each.kind for each in decided.remarks}


def test_images_that_were_trained_on_or_chose_the_threshold_are_named(bundle_copy, dataset, tmp_path):
    def counts() -> dict[str, int]:
        return {each.kind: each.count for each in repeat(bundle_copy, part, "onnxruntime-cpu").remarks}

    part = Path(shutil.copytree(dataset / "train/good", tmp_path / "part"))
    opened = open_bundle(bundle_copy)
    trained = opened.training_images()
    seen = next(path for path in part.iterdir() if identify(path).file in trained)
    Image.open(seen).save(part / "nearly.jpg", quality=90)
    found = counts()
    assert (found["trained_on"], found["near_trained_on"], found["calibrated_on"]) == (6, 1, 6)
    opened.with_thresholds(opened.manifest.threshold)  # as earlier releases did
    found = counts()
    assert (found["calibration_unknown"], "calibrated_on" in found) == (13, False)


def test_no_map_stays_in_memory(bundle_copy, cells, tmp_path, monkeypatch):
    maps: list[weakref.ref] = []

    def judge(detector, path):
        assert not [each for each in maps[:-1] if each() is not None]
        verdict, frame = judge_path(detector, path)
        maps.append(weakref.ref(verdict.anomaly_map))
        return verdict, frame

    monkeypatch.setattr("kdx.workflows.repeat.judge_path", judge)
    repeat(bundle_copy, photograph(cells / "00.png", tmp_path / "part", 12), "onnxruntime-cpu")
    assert len(maps) == 12


def test_the_study_is_printed_though_its_picture_cannot_be_written(bundle_copy, cells, cli, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="matplotlib draws the picture")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device", "p.png")

    monkeypatch.setattr("kdx.workflows.repeat_plot.write_plot", fail)
    part = photograph(cells / "00.png", tmp_path / "part", 12)
    command = ("repeat", bundle_copy, part, "--picture", tmp_path / "p.png", *ORT)
    said = cli(*command, code=2)
    assert "repeatability: standard deviation" in said.stdout
    assert "picture:" not in said.stdout
    study, _ = json.JSONDecoder().raw_decode(cli(*command, "--json", code=2).stdout)
    assert study["images"] == 12


def test_a_far_score_makes_no_more_bars():
    pytest.importorskip("matplotlib", reason="matplotlib draws the picture")
    from kdx.workflows.repeat_plot import draw

    def bars(last: float) -> int:
        scores = np.append(np.linspace(0.1, 0.1001, 30), last)
        found = repeatability(scores, [Decision.GOOD] * len(scores), 2.0)
        each = [Repetition(f"{index}.png", float(score), "good") for index, score in enumerate(scores)]
        _, distribution = draw(RepeatStudy(found, each, "onnxruntime-cpu", "fp32"), "tile.kdx").axes
        return len(distribution.patches)

    assert bars(0.1001) == bars(1.0) == 7


def test_what_is_no_study_is_refused(bundle_copy, raw_bundle, cells, cli, tmp_path):
    few = photograph(cells / "00.png", tmp_path / "few", 3)
    assert "at least 10 different images" in cli("repeat", bundle_copy, few, *ORT, code=2).stderr
    for index in range(20):
        shutil.copy(few / "000.png", few / f"copy-{index}.png")
    Image.new("L", (64, 64), 0).save(few / "lamp-off.png")
    said = cli("repeat", bundle_copy, few, *ORT, code=2).stderr
    assert "received: 3, without 20 copies and 1 frame that shows no part" in said
    with pytest.raises(DataError, match="holds folders of images"):
        repeat(bundle_copy, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images were found"):
        repeat(bundle_copy, tmp_path / "empty")
    with pytest.raises(DataError, match="there is no folder"):
        repeat(bundle_copy, tmp_path / "none")
    with pytest.raises(DataError, match="has no threshold"):
        repeat(raw_bundle, few, "onnxruntime-cpu")
    said = cli("repeat", bundle_copy, few, "--picture", tmp_path / "p.svg", *ORT, code=2).stderr
    assert "the picture is a PNG file" in said
    assert "--force would change nothing" in cli("repeat", bundle_copy, few, "--force", *ORT, code=2).stderr
