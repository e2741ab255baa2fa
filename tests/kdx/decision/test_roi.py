"""Regions of interest: which pixels of a map count, that others never do, and that no other
threshold decides."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import kdx
from kd_train.evaluation.metrics import per_region_overlap
from kdx.bundle.manifest import ROI
from kdx.bundle.open import open_bundle
from kdx.decision.post_processing import PostProcessing
from kdx.decision.roi import RoiFrame, StaleCalibrationWarning, propose_mask, roi_of
from kdx.errors import DataError, InputError, KdxError, OptionError
from kdx.imaging.field_of_view import WHOLE, FieldOfView

FRAME = RoiFrame((8, 8), (4, 4), WHOLE, "max")


def mask_of(*excluded: tuple[int, int], size: tuple[int, int] = (8, 8)) -> np.ndarray:
    mask = np.full(size, 255, np.uint8)
    for row, column in excluded:
        mask[row, column] = 0
    return mask


@pytest.fixture(scope="module")
def left(tiny_bundle, tmp_path_factory) -> Path:
    """A file in which the left third and one pixel on the right are excluded."""
    mask = np.full(open_bundle(tiny_bundle).golden().images[0].shape[:2], 255, np.uint8)
    mask[:, : mask.shape[1] // 3] = 0
    mask[40, 50] = 0
    path = tmp_path_factory.mktemp("roi") / "left.png"
    Image.fromarray(mask).save(path)
    return path


@pytest.fixture(scope="module")
def within(cli, tiny_bundle, dataset, left, tmp_path_factory) -> Path:
    """A bundle with that region, calibrated in it."""
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("within") / "tile.kdx"))
    cli("roi", bundle, "--set", left)
    cli("calibrate", bundle, dataset, "--false-reject-rate", 0.2, "--review-rate", 0.5, "--backend", "onnxruntime-cpu")
    return bundle


# Which pixels count


def test_a_pixel_counts_when_all_it_covers_is_included():
    counted = FRAME.roi(mask_of((0, 1), (5, 5))).counted
    assert np.argwhere(~counted).tolist() == [[0, 0], [2, 2]]


def test_what_the_map_does_not_cover_matters_not():
    frame = RoiFrame((8, 8), (4, 4), FieldOfView(0.5), "max")
    assert frame.roi(mask_of((0, 0), (1, 4), (6, 3))).counted.all()
    assert np.argwhere(~frame.roi(mask_of((2, 2), (5, 4))).counted).tolist() == [[0, 0], [3, 2]]


def test_a_pixel_that_two_share_counts_for_neither():
    assert np.argwhere(~RoiFrame((8, 8), (3, 3), WHOLE, "max").roi(mask_of((2, 0))).counted).tolist() == [
        [0, 0],
        [1, 0],
    ]


@pytest.mark.parametrize(
    ("image", "map_", "share"),
    [((10, 7), (4, 3), Fraction(1)), ((5, 6), (8, 9), Fraction(1)), ((16, 12), (7, 5), Fraction(7, 8)),
     ((9, 9), (9, 9), Fraction(1)), ((30, 20), (11, 13), Fraction(3, 5))],
)  # fmt: skip
def test_the_definition_by_hand(image, map_, share):
    """In exact fractions, pixel by pixel."""
    mask = np.where(np.random.default_rng(3).random(image) < 0.1, 0, 255).astype(np.uint8)

    def touched(index: int, axis: int) -> range:
        margin = image[axis] * (1 - share) / 2
        step = image[axis] * share / map_[axis]
        return range(math.floor(margin + index * step), math.ceil(margin + (index + 1) * step))

    expected = [
        [all(mask[y, x] for y in touched(i, 0) for x in touched(j, 1)) for j in range(map_[1])] for i in range(map_[0])
    ]
    assert 0 < np.sum(expected) < len(expected) * len(expected[0])
    assert RoiFrame(image, map_, FieldOfView(float(share)), "max").roi(mask).counted.tolist() == expected


# What they score


@pytest.mark.parametrize("rule", ["max", "sum"])
def test_the_score_is_of_the_pixels_that_count(rule):
    maps = np.random.default_rng(0).random((3, 4, 4), np.float32)
    maps[:, 0, 0] = 9
    kept, scores = (
        RoiFrame((8, 8), (4, 4), WHOLE, rule).roi(mask_of((1, 1))).apply(maps, np.full((3, 1), 9, np.float32))
    )
    by_hand = [getattr(np.delete(each.ravel(), 0), rule)() for each in maps]
    assert scores[:, 0].tolist() == pytest.approx(by_hand, rel=1e-6)
    assert (kept[:, 0, 0] == 0).all()
    assert np.array_equal(kept.reshape(3, -1)[:, 1:], maps.reshape(3, -1)[:, 1:])


def test_what_is_not_finite_stays_so_wherever_it_lies():
    roi = FRAME.roi(mask_of((0, 0)))
    maps = np.ones((2, 4, 4), np.float32)
    maps[0, 3, 3] = np.nan
    scores = roi.apply(maps, np.array([[1.0], [np.inf]], np.float32))[1]
    assert not np.isfinite(scores).any()


def test_methods_that_score_another_map_take_none(tiny_bundle):
    import msgspec

    manifest = open_bundle(tiny_bundle).manifest
    rules = {}
    for join in ("single", "score_first", "confirmed", "score_second", "score_both"):
        spec = {**manifest.pair_spec, "join": join, "score": "sum"}
        rules[join] = RoiFrame.of(msgspec.structs.replace(manifest, pair_spec=spec)).rule
    taken = {"single": "sum", "score_first": "sum"}
    assert rules == {**dict.fromkeys(rules), **taken}
    with pytest.raises(InputError, match="does not come from the returned map alone"):
        RoiFrame((8, 8), (4, 4), WHOLE, None).roi(mask_of((0, 0)))


@pytest.mark.parametrize("backend", ["onnxruntime-cpu", "openvino"])
def test_every_backend_scores_the_pixels_that_count(within, tiny_bundle, dataset, backend):
    pytest.importorskip(backend.split("-")[0])
    with (
        kdx.load(within, backend=backend, threads=1) as detector,
        kdx.load(tiny_bundle, backend=backend, threads=1) as whole,
    ):
        counted = roi_of(open_bundle(within)).counted
        images = [kdx.read_image(path, detector.input) for path in sorted((dataset / "test").glob("*/*"))]
        verdicts = [detector(image) for image in images]
        for verdict, batched, image in zip(verdicts, detector.batch(images), images, strict=True):
            raw = whole(image)
            assert verdict.score == raw.anomaly_map[counted].max() == verdict.anomaly_map.max()
            assert (verdict.anomaly_map[~counted] == 0).all()
            assert batched.score == pytest.approx(verdict.score, rel=1e-5)
        assert any(verdict.score < whole(image).score for verdict, image in zip(verdicts, images, strict=True))
        assert {verdict.threshold for verdict in verdicts} == {open_bundle(within).manifest.threshold.score}
        assert kdx.Decision.UNDECIDED not in {verdict.decision for verdict in verdicts}
        regions = detector.regions(replace(verdicts[0], pixel_threshold=verdicts[0].score / 2))
        assert regions
        assert all(region.left >= detector.input.width // 3 for region in regions)


# One region for a call


def test_a_call_in_another_region_has_a_score_and_no_decision(within, tiny_bundle, frame, left):
    theirs = np.asarray(Image.open(left))
    with kdx.load(within, backend="onnxruntime-cpu") as own, kdx.load(tiny_bundle, backend="onnxruntime-cpu") as whole:
        assert own(frame, roi=theirs).decision is own(frame).decision is not kdx.Decision.UNDECIDED
        verdict = whole(frame, roi=theirs)
        assert verdict.score == own(frame).score
        assert (verdict.decision, verdict.threshold, verdict.margin) == (kdx.Decision.UNDECIDED, None, None)
        prepared = own.region_of_interest(np.ascontiguousarray(theirs[:, ::-1]))
        assert own(frame, roi=prepared).decision is kdx.Decision.UNDECIDED
        with pytest.raises(InputError, match="does not fit"):
            own(frame, roi=theirs[1:])


def test_a_run_takes_none(tiny_run, frame):
    with kdx.load(tiny_run) as detector, pytest.raises(InputError, match="export it"):
        detector(frame, roi=frame[..., 0])


# A threshold of another region


def test_a_threshold_of_another_region_decides_nothing(cli, tiny_bundle, dataset, left, frame, tmp_path):
    from kdx.loading.selftest import run_selftest
    from kdx.runtime.backend_table import find_backend
    from kdx.verification.certificate import verify

    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "tile.kdx"))
    before = open_bundle(bundle).manifest
    shown = cli("roi", bundle, "--set", left).stdout
    assert "every verdict is undecided until kdx calibrate" in shown
    with pytest.warns(StaleCalibrationWarning), kdx.load(bundle, backend="onnxruntime-cpu") as detector:
        assert detector(frame).decision is kdx.Decision.UNDECIDED
    predicted = cli("predict", bundle, dataset / "test/good", "--json", "--backend", "onnxruntime-cpu")
    assert {record["verdict"] for record in predicted.lines} == {"undecided"}
    assert "the region of interest was changed" in predicted.stderr
    assert "the region of interest was changed" in cli("inspect", bundle).stdout
    assert cli("inspect", bundle, "--json").json["changed_after_calibration"] == "the region of interest"
    tested = run_selftest(bundle, backend="onnxruntime-cpu")
    assert not tested.passed
    assert "region of interest" in tested.checks[-1].said
    certificate = verify(open_bundle(bundle), [find_backend("onnxruntime-cpu")])
    assert certificate.passed
    assert {each.flips for each in certificate.comparisons} == {None}
    # Taken away again, it is the bundle that was calibrated.
    cli("roi", bundle, "--remove")
    assert open_bundle(bundle).manifest == before
    assert not (bundle / ROI).exists()


def test_calibration_is_of_the_region(cli, within, dataset):
    opened = open_bundle(within)
    threshold = opened.manifest.threshold
    assert threshold.roi_sha256 == opened.manifest.files[ROI]
    assert threshold.pixel == pytest.approx(threshold.score)
    evaluated = cli("evaluate", within, dataset, "--backend", "onnxruntime-cpu", "--json").json
    for record in cli("predict", within, dataset / "test/good", "--json", "--backend", "onnxruntime-cpu").lines:
        name = record["image"].removeprefix(f"{dataset.as_posix()}/")
        assert record["score"] == pytest.approx(evaluated["scores"][name], rel=1e-6)
    certificate = cli("verify", within, "--json").json
    assert {each["flips"] for each in certificate["comparisons"]} == {0}
    assert cli("selftest", within, "--backend", "onnxruntime-cpu", "--json").json["passed"] is True
    shown = cli("roi", within, "--json").json
    assert shown["included"]["map"] == shown["included"]["image"] == pytest.approx((64 * 43 - 1) / 64**2)
    assert (shown["changed"], shown["changed_after_calibration"]) == (False, False)


def test_a_flip_in_the_region_is_found(within):
    """Certificates compare the decisions that the line makes."""
    from kdx.runtime.backend import Outputs
    from kdx.verification.comparison import compare_batch

    opened = open_bundle(within)
    golden, roi = opened.golden(), roi_of(opened)

    class Replayed:
        name = "replayed"

        def run(self, images):
            index = [int(np.flatnonzero((golden.images == image).all(axis=(1, 2, 3)))[0]) for image in images]
            return Outputs(golden.maps[index], golden.scores[index])

    scores = np.sort(roi.apply(golden.maps, golden.scores)[1][:, 0])
    middle = float(scores[:2].mean())
    same = compare_batch(Replayed(), golden, 1, (middle, middle), post_processing=PostProcessing(roi=roi))
    moved = compare_batch(
        Replayed(), golden, 1, (middle, float(scores[-1]) * 2), post_processing=PostProcessing(roi=roi)
    )
    assert (same.flips, moved.flips) == (0, len(scores) - 1)


def test_a_log_of_another_region_is_not_written_to(within, tiny_bundle, tmp_path, frame):
    from kdx.errors import OutputError
    from kdx.monitoring.drift import find_drift
    from kdx.monitoring.verdict_log import read_log

    log = tmp_path / "line.log"
    with kdx.load(within, backend="onnxruntime-cpu", precision="fp32", log=log) as detector:
        detector(frame)
    with pytest.raises(OutputError, match="region of interest"):
        kdx.load(tiny_bundle, backend="onnxruntime-cpu", precision="fp32", log=log)
    with pytest.raises(DataError, match="region of interest"):
        find_drift(open_bundle(tiny_bundle), read_log(log))


def test_a_signature_goes(cli, tiny_bundle, left, tmp_path):
    pytest.importorskip("cryptography")
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "tile.kdx"))
    cli("sign", "--new-key", tmp_path / "line")
    cli("sign", bundle, "--key", tmp_path / "line.key")
    assert cli("roi", bundle, "--set", left, "--json").json["signature_removed"] is True
    assert "not signed" in cli("inspect", bundle, "--require-signature", tmp_path / "line.pub", code=2).stderr


def test_an_altered_region_is_refused(within, tmp_path):
    bundle = Path(shutil.copytree(within, tmp_path / "tile.kdx"))
    Image.new("L", (64, 64), 255).save(bundle / ROI)
    with pytest.raises(KdxError, match="was altered"):
        kdx.load(bundle)


def test_triton_serves_no_region(cli, within, tmp_path):
    pytest.importorskip("tritonclient")
    assert "scores whole images" in cli("triton", within, "-o", tmp_path / "repo", code=2).stderr


def test_triton_serves_no_tiles(cli, tiled, tmp_path):
    pytest.importorskip("tritonclient")
    assert "which judges tiles" in cli("triton", tiled / "tile.kdx", "-o", tmp_path / "repo", code=2).stderr


# Bad input


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (np.full((8, 9), 255, np.uint8), "does not fit"),
        (np.full((8, 8, 1), 255, np.uint8), "does not fit"),
        (np.ones((8, 8), bool), "does not fit"),
        ([[255]], "does not fit"),
        (np.full((8, 8), 255, np.uint8), "excludes nothing"),
        (np.zeros((8, 8), np.uint8), "includes nothing"),
        (mask_of(*((y, x) for y in range(8) for x in range(0, 8, 2))), "no pixel of the map lies completely"),
        (np.full((8, 8), 1, np.uint8), "other values than 0 and 255"),
    ],
)
def test_regions_that_cannot_be(mask, said):
    with pytest.raises(InputError, match=said):
        FRAME.roi(mask)


def test_files_that_cannot_be(cli, tiny_bundle, left, tmp_path):
    size = Image.open(left).size
    Image.new("L", (9, 9)).save(tmp_path / "size.png")
    Image.open(left).convert("RGB").save(tmp_path / "colour.png")
    Image.open(left).save(tmp_path / "lossy.jpg", quality=20)
    (tmp_path / "text.png").write_text("no image", encoding="utf-8")
    (tmp_path / "short.png").write_bytes(left.read_bytes()[:60])
    Image.new("L", size, 255).save(tmp_path / "full.png")
    said = {
        "size.png": "another size", "colour.png": "not greyscale", "lossy.jpg": "other values", "text.png": "read",
        "short.png": "damaged", "full.png": "excludes nothing", "none.png": "does not exist",
    }  # fmt: skip
    before = open_bundle(tiny_bundle).manifest
    for name, text in said.items():
        assert text in cli("roi", tiny_bundle, "--set", tmp_path / name, code=2).stderr
    assert "exclude each other" in cli("roi", tiny_bundle, "--set", left, "--remove", code=2).stderr
    assert open_bundle(tiny_bundle).manifest == before


# Proposals


def disc_images(count: int) -> list[np.ndarray]:
    """Discs of texture, a little displaced, before a background that a camera sees with noise."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:64, :64]
    images = []
    for _ in range(count):
        y, x = 32 + rng.integers(-1, 2, 2)
        part = (rows - y) ** 2 + (columns - x) ** 2 < 20**2
        image = np.where(part, rng.integers(80, 200, (64, 64)), 30) + rng.normal(0, 1.5, (64, 64))
        images.append(np.clip(image, 0, 255).astype(np.uint8)[..., None])
    return images


def test_a_background_that_never_varies_is_left_out():
    mask = propose_mask(disc_images(12))
    distance = np.hypot(*(np.mgrid[:64, :64] - 32))
    assert (mask[distance < 21] == 255).all()
    assert (mask[distance > 27] == 0).all()
    assert set(np.unique(mask)) == {0, 255}


def test_without_a_background_nothing_is_proposed():
    rng = np.random.default_rng(0)
    textured = [rng.integers(0, 255, (32, 32, 3), np.uint8) for _ in range(8)]
    with pytest.raises(DataError, match="no background"):
        propose_mask(textured)
    with pytest.raises(DataError, match="show no parts"):
        propose_mask(textured[:1] * 8)
    with pytest.raises(DataError, match="too few"):
        propose_mask(textured[:4])
    with pytest.raises(OptionError, match="varies"):
        propose_mask(textured, 0.0)


def test_a_proposal_is_looked_at_and_set(cli, tiny_bundle, tmp_path):
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "tile.kdx"))
    (tmp_path / "parts").mkdir()
    for number, image in enumerate(disc_images(6)):
        Image.fromarray(image[..., 0]).save(tmp_path / f"parts/{number}.png")
    options = ("--from-images", tmp_path / "parts", "-o", tmp_path / "roi.png")
    blue = Image.open(tmp_path / "parts/0.png")
    Image.merge("RGB", (blue, blue, blue.point(lambda value: value ^ 1))).save(tmp_path / "parts/0.png")
    found = cli("roi", bundle, *options, "--json").json
    assert ("colour_for_mono", 1) in {(each["kind"], each["count"]) for each in found["remarks"]}
    assert found["included"] == pytest.approx(math.pi * 23**2 / 64**2, rel=0.15)
    assert open_bundle(bundle).manifest.roi_sha256 is None  # proposed, not set
    assert "exists already" in cli("roi", bundle, *options, code=2).stderr
    assert cli("roi", bundle, "--set", tmp_path / "roi.png", "--json").json["changed"] is True
    assert (bundle / ROI).read_bytes() == (tmp_path / "roi.png").read_bytes()
    assert cli("roi", bundle, "--set", tmp_path / "roi.png", "--json").json["changed"] is False


# Metrics and pictures


def test_overlap_within_a_rectangle_is_that_of_the_cut_out():
    rng = np.random.default_rng(1)
    masks = [rng.random((20, 24)) > 0.9 for _ in range(3)]
    maps = [rng.random((20, 24), np.float32) for _ in range(3)]
    counted = np.zeros((20, 24), bool)
    counted[3:15, 5:20] = True
    cut = per_region_overlap([each[3:15, 5:20] for each in masks], [each[3:15, 5:20] for each in maps])
    assert per_region_overlap(masks, maps, counted=counted) == pytest.approx(cut)
    assert cut != pytest.approx(per_region_overlap(masks, maps), abs=1e-3)


def test_what_is_excluded_is_dark_in_heat_maps():
    from kdx.decision.overlay import render_overlay

    image = np.full((320, 320, 1), 200, np.uint8)
    verdict = kdx.Verdict(kdx.Decision.GOOD, 0.1, 1.0, np.zeros((32, 32), np.float32), 1.0)
    included = np.ones((320, 320), bool)
    included[:, :100] = False
    sheet = np.asarray(render_overlay(image, verdict, "part", included=included))[40:, 324:]
    assert (sheet[:, :100] == 70).all()
    assert (sheet[:, 100:] == 200).all()
