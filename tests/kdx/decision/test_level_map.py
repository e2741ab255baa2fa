"""Normalisation per position: what it divides by, that it is honest, and that no other threshold
decides."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from scipy.ndimage import maximum_filter

import kdx
from kdx.bundle.checked_files import Graph
from kdx.bundle.manifest import INDEX, LEVEL
from kdx.bundle.open import open_bundle
from kdx.bundle.store import write_manifest
from kdx.calibration.level_fit import FEWEST_FITTED, FittedLevel, fit_level
from kdx.calibration.threshold import calibrate
from kdx.decision.level_map import FLOOR, Level, level_from, level_of
from kdx.decision.post_processing import PostProcessing
from kdx.decision.roi import RoiFrame, StaleCalibrationWarning
from kdx.decision.rule import DecisionRule
from kdx.errors import BundleError, DataError, InputError
from kdx.imaging.field_of_view import WHOLE
from kdx.imaging.image_identity import KnownImages
from kdx.imaging.images import InputSpec
from kdx.runtime.backend import Outputs
from kdx.runtime.detector import Detector
from kdx.storage.files import sha256_file

SIZE = 32
ORT = ("--backend", "onnxruntime-cpu")


@pytest.fixture(scope="module")
def levelled(cli, tiny_bundle, cells, tmp_path_factory) -> Path:
    """A bundle that was calibrated per position."""
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("levelled") / "tile.kdx"))
    cli("calibrate", bundle, cells, "--per-position", "--false-reject-rate", 0.2, "--review-rate", 0.5, *ORT)
    return bundle


# The definition


def test_a_level_is_the_widened_maximum_and_nowhere_nearly_nothing():
    hottest = np.full((8, 10), 1, np.float32)
    hottest[2, 3], hottest[6:, 6:] = 5, 0
    values = level_from(hottest, "max").values
    assert (values[1:4, 2:5] == 5).all()
    assert (values == 5).sum() == 9
    assert (values[7, 7:] == FLOOR).all()
    assert np.array_equal(values, np.maximum(maximum_filter(hottest, 3, mode="nearest"), np.float32(FLOOR)))
    # The median is of the pixels that count.
    assert level_from(hottest, "max", hottest == 5).values.min() == 5 * FLOOR


@pytest.mark.parametrize("hottest", [np.zeros((8, 8)), np.full((8, 8), np.nan), np.full((8, 8), np.inf)])
def test_maps_that_give_no_level(hottest):
    with pytest.raises(DataError, match="yield no level map"):
        level_from(hottest.astype(np.float32), "max")


@pytest.mark.parametrize("rule", ["max", "sum"])
def test_the_score_is_of_the_normalised_map_and_then_of_the_region(rule):
    rng = np.random.default_rng(0)
    maps, values = rng.random((3, 4, 4), np.float32), rng.random((4, 4), np.float32) + np.float32(0.1)
    mask = np.full((8, 8), 255, np.uint8)
    mask[0, 0] = 0
    raw = np.ones((3, 1), np.float32)
    raw[2] = np.nan
    kept, scores = PostProcessing(Level(values, rule), RoiFrame((8, 8), (4, 4), WHOLE, rule).roi(mask)).apply(maps, raw)
    by_hand = [getattr((each / values).ravel()[1:], rule)() for each in maps]
    assert scores[:2, 0].tolist() == pytest.approx(by_hand[:2], rel=1e-6)
    assert np.isnan(scores[2, 0])
    assert (kept[:, 0, 0] == 0).all()
    whole = Level(values, rule).apply(maps[0], raw[0])  # one image without a batch
    assert whole[1].tolist() == pytest.approx([getattr(maps[0] / values, rule)()], rel=1e-6)
    assert PostProcessing().apply(maps, raw) == (maps, raw)


# A hot stripe that good parts have, and a faint defect in a calm place


class Stripe:
    """Gives the image itself as its map."""

    name = "stripe"

    def run(self, images):
        maps = images[..., 0].astype(np.float32)
        return Outputs(maps, maps.max(axis=(1, 2))[:, None])


@dataclass(frozen=True)
class Synthetic:
    """As much of a bundle as calibration asks for."""

    path: Path
    manifest: object

    def training_images(self) -> KnownImages:
        return KnownImages()

    def graph_of(self, precision: str) -> Graph:
        return Graph.of(self.path)

    def golden(self) -> SimpleNamespace:
        return SimpleNamespace(images=np.empty((0, SIZE, SIZE, 1), np.uint8))


def part(rng: np.random.Generator, *, defect: int = 0) -> np.ndarray:
    image = rng.normal(20, 3, (SIZE, SIZE, 1))
    image[:, 20 + rng.integers(-1, 1)] = rng.normal(190, 5, (SIZE, 1))  # the edge moves by a pixel
    image[5:7, 5:7] += defect
    return image.astype(np.uint8)


def test_a_faint_defect_in_a_calm_place_is_found_only_per_position(tiny_bundle, tmp_path):
    from PIL import Image

    rng = np.random.default_rng(1)
    manifest = msgspec.structs.replace(open_bundle(tiny_bundle).manifest, map_size=(SIZE, SIZE), files={})
    bundle = Synthetic(tmp_path / "graph", manifest)
    bundle.path.write_bytes(b"")
    paths = [tmp_path / f"{index:03d}.png" for index in range(80)]
    for path in paths:
        Image.fromarray(part(rng)[..., 0]).save(path)
    fresh, bad = [part(rng) for _ in range(200)], [part(rng, defect=60) for _ in range(20)]

    detector = Detector(Stripe(), InputSpec(height=SIZE, width=SIZE, channels=1), DecisionRule(), max_batch=8)
    detector.threshold = calibrate(bundle, detector, paths, 0.05).threshold.score
    assert np.mean([verdict.score > detector.threshold for verdict in detector.batch(bad)]) <= 0.2  # as good ones

    fitted = fit_level(bundle, detector, paths, 0.05)
    detector.level = fitted.level
    found = calibrate(bundle, detector, paths, 0.05, level=fitted.record, fitted=fitted.images)
    detector.threshold = found.threshold.score
    assert all(verdict.score > detector.threshold for verdict in detector.batch(bad))
    rejected = np.mean([verdict.score > detector.threshold for verdict in detector.batch(fresh)])
    assert rejected <= 0.1  # 5 % were asked for, of 200
    assert_halves(fitted, found, paths)
    # On what the level was fitted on, no score exceeds 1: a threshold from those would be too low.
    fitted_on = [path for path in paths if sha256_file(path) in fitted.images]
    own = [detector(kdx.read_image(path, detector.input)).score for path in fitted_on]
    assert max(own) <= 1 < found.threshold.scores[-1]


def assert_halves(fitted: FittedLevel, found, paths: list[Path]) -> None:
    from kdx.storage.files import hash_of_hashes

    others = {sha256_file(path) for path in paths} - fitted.images
    assert (fitted.record.images, found.threshold.images) == (len(paths) // 2, len(paths) - len(paths) // 2)
    assert found.threshold.data_sha256 == hash_of_hashes(others)
    assert fitted.record.data_sha256 == hash_of_hashes(fitted.images)


# Real images


@pytest.mark.parametrize("backend", ["onnxruntime-cpu", "openvino"])
def test_every_backend_divides_by_the_level(levelled, tiny_bundle, dataset, backend):
    pytest.importorskip(backend.split("-")[0])
    level = level_of(open_bundle(levelled)).values
    with (
        kdx.load(levelled, backend=backend, threads=1, precision="fp32") as detector,
        kdx.load(tiny_bundle, backend=backend, threads=1, precision="fp32") as raw,
    ):
        images = [kdx.read_image(path, detector.input) for path in sorted((dataset / "test").glob("*/*"))]
        outputs = detector.outputs(images)
        for number, (image, batched) in enumerate(zip(images, detector.batch(images), strict=True)):
            verdict, expected = detector(image), raw(image).anomaly_map / level
            assert np.array_equal(verdict.anomaly_map, expected)
            assert verdict.score == expected.max()
            assert verdict.threshold == detector.threshold == open_bundle(levelled).manifest.threshold.score
            assert verdict.decision is not kdx.Decision.UNDECIDED
            assert batched.score == pytest.approx(verdict.score, rel=1e-5)
            assert outputs.scores[number, 0] == pytest.approx(verdict.score, rel=1e-5)


def test_the_commands_follow(cli, levelled, dataset, cells, tmp_path):
    manifest = open_bundle(levelled).manifest
    threshold = manifest.threshold
    assert threshold.level.sha256 == manifest.files[LEVEL]
    assert (threshold.level.images, threshold.images) == (8, 8)
    assert threshold.pixel == pytest.approx(threshold.score)
    assert len(threshold.scores) == 8
    evaluated = cli("evaluate", levelled, dataset, *ORT, "--json").json
    for record in cli("predict", levelled, dataset / "test/good", "--json", *ORT).lines:
        name = record["image"].removeprefix(f"{dataset.as_posix()}/")
        assert record["score"] == pytest.approx(evaluated["scores"][name], rel=1e-6)
    assert {each["flips"] for each in cli("verify", levelled, "--json").json["comparisons"]} == {0}
    assert cli("selftest", levelled, *ORT, "--json").json["passed"] is True
    assert "fitted on 8 other good images" in cli("inspect", levelled).stdout


def test_a_calibration_is_whole(cli, levelled, tiny_bundle, cells, tmp_path):
    bundle = Path(shutil.copytree(levelled, tmp_path / "tile.kdx"))
    before = (bundle / LEVEL).read_bytes()
    shown = cli("calibrate", bundle, cells, "--per-position", "--false-reject-rate", 0.2, *ORT).stdout
    assert "per position: 8 other good images" in shown
    assert (bundle / LEVEL).read_bytes() == before
    assert (
        cli("calibrate", bundle, cells, "--false-reject-rate", 0.2, *ORT, "--json").json["threshold"]["level"] is None
    )
    manifest = open_bundle(bundle).manifest
    assert (manifest.level_sha256, manifest.threshold.images) == (None, 16)
    assert not (bundle / LEVEL).exists()
    assert manifest.files == open_bundle(tiny_bundle).manifest.files


def test_a_threshold_of_another_level_decides_nothing(cli, levelled, dataset, frame, tmp_path):
    from kdx.errors import OutputError

    bundle = Path(shutil.copytree(levelled, tmp_path / "tile.kdx"))
    manifest = open_bundle(bundle).manifest
    np.save(bundle / LEVEL, np.load(bundle / LEVEL) * np.float32(1.5))
    with pytest.raises(BundleError, match="was altered"):
        kdx.load(bundle)
    write_manifest(bundle, manifest)
    with pytest.warns(StaleCalibrationWarning, match="level map"), kdx.load(bundle, backend="onnxruntime-cpu") as other:
        assert other(frame).decision is kdx.Decision.UNDECIDED
    assert "the level map was changed" in cli("inspect", bundle).stdout
    assert "the level map was changed" in cli("selftest", bundle, *ORT, code=1).stdout
    log = tmp_path / "line.log"
    with kdx.load(levelled, backend="onnxruntime-cpu", precision="fp32", log=log) as detector:
        detector(frame)
    with pytest.warns(StaleCalibrationWarning), pytest.raises(OutputError, match="level map"):
        kdx.load(bundle, backend="onnxruntime-cpu", precision="fp32", log=log)


def test_images_that_the_level_was_fitted_on_are_no_defects(cli, tiny_bundle, cells, tmp_path):
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "tile.kdx"))
    options = ("--per-position", *ORT, "--with-defects")
    first, second = tmp_path / "first", tmp_path / "second"
    for index, path in enumerate(sorted(cells.iterdir(), key=sha256_file)):
        folder = first if index < 8 else second
        folder.mkdir(exist_ok=True)
        shutil.copy(path, folder)
    for folder in (first, second):
        assert (
            "8 images are both good and defective" in cli("calibrate", bundle, cells, *options, folder, code=2).stderr
        )


@pytest.mark.slow
def test_large_frames_have_a_level_of_frames(cli, tiled, make_images, tmp_path):
    from tests.frames import FRAME, write_frames

    bundle = Path(shutil.copytree(tiled / "tile.kdx", tmp_path / "tile.kdx"))
    write_frames(tmp_path / "frames", {"old": 34, "new": 12})
    cli("calibrate", bundle, tmp_path / "frames/new", "--per-position", "--false-reject-rate", 0.2)
    manifest = open_bundle(bundle).manifest
    assert level_of(open_bundle(bundle)).values.shape == manifest.camera_map_size != manifest.map_size
    certificate = cli("verify", bundle, "--json").json
    assert certificate["passed"] is True
    assert {each["flips"] for each in certificate["comparisons"]} == {None}
    with kdx.load(bundle, backend="onnxruntime-cpu", precision="fp32") as detector:
        frame = np.full((*FRAME, detector.input.channels), 120, np.uint8)
        frame[::3] = 60
        assert detector(frame).score == detector(frame).anomaly_map.max()


def test_triton_normalises_nothing(cli, levelled, tmp_path):
    pytest.importorskip("tritonclient")
    assert "does not normalise" in cli("triton", levelled, "-o", tmp_path / "repo", code=2).stderr


# Bad input


def test_too_few_images_are_refused_with_the_number(cli, tiny_bundle, cells, tmp_path):
    before = open_bundle(tiny_bundle).manifest
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(cells.iterdir())[: 2 * FEWEST_FITTED - 1]:
        shutil.copy(path, few)
        shutil.copy(path, few / f"copy-{path.name}")
    for folder, rate, needed in ((few, 0.5, 2 * FEWEST_FITTED), (cells, 0.05, 37)):
        said = cli("calibrate", tiny_bundle, folder, "--per-position", "--false-reject-rate", rate, code=2).stderr
        assert f"at least {needed}" in said
    assert (
        "out of range"
        in cli("calibrate", tiny_bundle, cells, "--per-position", "--false-reject-rate", 0, code=2).stderr
    )
    assert open_bundle(tiny_bundle).manifest == before


def test_unreadable_images_count_once(cli, levelled, cells, tmp_path):
    bundle = Path(shutil.copytree(levelled, tmp_path / "tile.kdx"))
    folder = Path(shutil.copytree(cells, tmp_path / "cells"))
    for index in range(3):
        (folder / f"bad{index}.png").write_bytes(b"no image %d" % index)
    options = ("--per-position", "--false-reject-rate", 0.2, *ORT)
    assert "not a readable image" in cli("calibrate", bundle, folder, *options, code=2).stderr
    shown = cli("calibrate", bundle, folder, *options, "--max-bad-images", 3, "--json").json
    assert len(shown["bad_images"]) == 3
    assert shown["threshold"]["images"] + shown["threshold"]["level"]["images"] == 16


@pytest.mark.parametrize("join", ["confirmed", "score_second"])
def test_methods_that_score_another_map_take_none(tiny_bundle, join):
    bundle = open_bundle(tiny_bundle)
    manifest = msgspec.structs.replace(bundle.manifest, pair_spec={**bundle.manifest.pair_spec, "join": join})
    with pytest.raises(InputError, match="does not come from the returned map alone"):
        fit_level(Synthetic(bundle.path, manifest), None, [], 0.1)


def test_an_unknown_distance_does_not_hinder_a_level_map(levelled, tmp_path):
    bundle = open_bundle(shutil.copytree(levelled, tmp_path / "tile.kdx"))
    spec = msgspec.to_builtins(bundle.manifest.pair_spec)
    spec["maps"][0]["taps"][0]["distance"] = "manhattan"
    write_manifest(bundle.path, msgspec.structs.replace(bundle.manifest, pair_spec=spec))
    opened = open_bundle(bundle.path)
    assert opened.manifest.pair is None
    assert level_of(opened).rule == level_of(bundle).rule
    assert RoiFrame.of(opened.manifest) == RoiFrame.of(bundle.manifest)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda level: level[1:], "does not fit the map"),
        (lambda level: level.reshape(-1), "does not fit the map"),
        (lambda level: level * 0, "has invalid values"),
        (lambda level: -level, "has invalid values"),
        (lambda level: level * np.float32(np.nan), "has invalid values"),
        (lambda level: level * np.float32(np.inf), "has invalid values"),
        (lambda level: level.astype(np.float64), "cannot be read"),
    ],
)
def test_files_that_cannot_be(levelled, tmp_path, change, said):
    bundle = Path(shutil.copytree(levelled, tmp_path / "tile.kdx"))
    np.save(bundle / LEVEL, change(np.load(bundle / LEVEL)))
    write_manifest(bundle, open_bundle(levelled).manifest)
    with pytest.raises(BundleError, match=said):
        open_bundle(bundle)
    (bundle / LEVEL).unlink()
    with pytest.raises(BundleError, match=f"'{LEVEL}' is missing"):
        open_bundle(bundle)
    assert (bundle / INDEX).is_file()
