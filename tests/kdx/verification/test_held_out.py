"""BF16 and INT8 must keep FP32's verdicts on held-out good images and synthetic defects, and need
enough of them."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from PIL import Image

from kd_export.precision.exact_answers import ExactAnswers
from kd_export.precision.gate import Gate
from kd_export.precision.quantize import quantize
from kd_export.precision.runners import run_onnxruntime
from kd_train.data.gate_images import DrawnDefects, GoodImages
from kd_train.training.run_folder import Run
from kd_train.training.run_images import held_out_files
from kdx.bundle.open import open_bundle
from kdx.bundle.store import write_manifest
from kdx.bundle.variants import Variant
from kdx.calibration.rates import quantile_with_interval
from kdx.imaging.images import InputSpec
from kdx.imaging.tiling import plan_tiles
from kdx.runtime.backend import Outputs
from kdx.verification.held_out import (
    LEAST_DEFECTS,
    LEAST_GOOD,
    HeldOut,
    HeldOutScores,
    _thresholds_without,
    compare_verdicts,
    rate_bound,
)
from kdx.verification.judge import Decided, Evidence, judge
from kdx.verification.tolerances import LIMITS

INT8 = LIMITS["int8"]

GOOD = np.linspace(0.1, 0.3, 100)
DEFECTS = np.linspace(0.25, 0.8, 200)
EXACT = HeldOutScores(GOOD, DEFECTS)


def judged(good, defects, exact=EXACT, limits=INT8):
    """Judge a variant by its scores of held-out images; its golden ones are FP32's."""
    golden = np.array([0.1, 0.2, 0.8])
    evidence = Evidence(np.zeros((3, 1, 1, 1), np.uint8), held_out=HeldOut([], []))
    return judge("x", limits, evidence, (golden, golden), held_out=(exact, HeldOutScores(good, defects)))


# On numbers


def test_golden_images_alone_whose_order_is_reversed_prove_nothing() -> None:
    scores = np.array([0.200, 0.201, 0.202, 0.203])
    found = judge("x", INT8, Evidence(np.zeros((4, 1, 1, 1), np.uint8)), (scores, scores[::-1].copy()))
    assert (found.compared, found.passed) == (0, False)
    assert found.faults == ["there is no evidence: no two golden images are further apart than the margin of 15%"]


def test_without_an_image_beyond_the_margin_a_calibrated_variant_has_proved_nothing() -> None:
    scores = np.array([0.200, 0.201, 0.202, 0.203])
    evidence = Evidence(np.zeros((4, 1, 1, 1), np.uint8), thresholds=(0.2, 0.2))
    assert not judge("x", INT8, evidence, (scores, scores)).passed
    clear = Decided((0.2, 0.2), np.array([0.1, 0.5]), np.array([0.1, 0.5]))
    assert judge("x", INT8, evidence, (scores, scores), decided=clear).passed
    turned = Decided((0.2, 0.2), np.array([0.1, 0.5]), np.array([0.1, 0.15]))
    assert judge("x", INT8, evidence, (scores, scores), decided=turned).flips == 1
    # Golden tiles have no threshold where it is of frames that are divided by a level map.
    found = judge("x", INT8, Evidence(evidence.golden), (scores, scores), decided=turned)
    assert found.faults[0].startswith("1 of 2 pairs of golden images are ordered, or further images decided, diff")


def test_scores_that_move_alike_keep_every_verdict() -> None:
    found = judged(1.2 * GOOD, 1.2 * DEFECTS)
    assert found.passed
    assert (found.verdicts.flips, found.verdicts.missed) == (0, 0)
    assert found.verdicts.auroc == found.verdicts.auroc_reference
    assert found.verdicts.rate_bound == pytest.approx(1 - 0.05 ** (1 / 100))


def test_lost_defects_refuse_a_variant() -> None:
    """The verdicts near the threshold turn; the order of a few golden images shows nothing of
    it."""
    lost = np.where(DEFECTS < 0.4, 0.9 * GOOD.max(), DEFECTS)
    found = judged(GOOD, lost)
    assert not found.passed
    assert found.verdicts.missed == int(((DEFECTS > 0.3) & (DEFECTS < 0.4)).sum()) == found.verdicts.flips
    assert "of 300 verdicts on held-out good images and synthetic defects flipped, allowed are 6" in found.faults[0]


def test_what_separates_defects_worse_is_refused_without_a_flip() -> None:
    """Good images rise towards the threshold and cross none: what calibration at another rate would
    choose is worse."""
    found = judged(np.where(GOOD < 0.29, 0.29, GOOD), DEFECTS)
    assert found.verdicts.flips == 0
    assert not found.passed
    assert "image AUROC on synthetic defects" in found.faults[0]


def test_a_verdict_near_the_threshold_may_turn() -> None:
    defects = DEFECTS.copy()
    near = int(np.flatnonzero(GOOD.max() < DEFECTS)[0])
    defects[near] = 0.999 * GOOD.max()
    found = judged(GOOD, defects)
    assert found.passed
    assert (found.verdicts.flips, found.verdicts.missed, found.verdicts.flipped_images) == (1, 1, 1)


def test_defects_drawn_on_one_image_are_not_independent() -> None:
    exact = HeldOutScores(np.linspace(0.1, 0.2, 10), np.full(30, 0.3))
    lost = np.full(30, 0.3)
    lost[[4, 14, 24]] = 0.1
    found = compare_verdicts(exact, HeldOutScores(exact.good, lost))
    assert (found.flips, found.flipped_images) == (3, 1)
    assert found.rate_bound == pytest.approx(rate_bound(1, 10))
    assert "3 of 40 verdicts flipped" in found.describe()
    assert "does not hold for real defects" in found.describe()


def test_an_image_does_not_choose_the_threshold_that_judges_it() -> None:
    """Another image is the hottest in the variant: FP32 rejects one good image, the variant
    another."""
    good = np.linspace(0.1, 0.2, 20)
    defects = np.full(60, 0.5)
    moved = good.copy()
    moved[0] = 0.3
    found = compare_verdicts(HeldOutScores(good, defects), HeldOutScores(moved, defects))
    assert (found.flips, found.missed, found.flipped_images) == (2, 0, 2)
    assert found.rate_bound == pytest.approx(rate_bound(2, 20))


@pytest.mark.parametrize(("count", "rate"), [(2, 0.5), (6, 1 / 6), (37, 0.2), (100, 0.01), (250, 0.01), (250, 0.3)])
def test_thresholds_without_one_image_are_those_of_the_others(count, rate) -> None:
    good = np.random.default_rng(count).normal(size=count).round(1)  # with ties
    rank = math.ceil(count * (1 - rate) - 1e-9)
    expected = [np.sort(np.delete(good, index))[rank - 1] for index in range(count)]
    np.testing.assert_array_equal(_thresholds_without(good, rate), expected)


def test_tiles_of_one_frame_are_one_image() -> None:
    """A frame's other tiles do not choose its threshold either, and its flips count once."""
    good = np.concatenate([np.linspace(0.1, 0.2, 20)] * 4)
    exact = HeldOutScores(good, np.full(240, 0.5), frames=20)
    lost = exact.defects.copy()
    lost[[3, 23, 43, 63, 83, 103]] = 0.1
    found = compare_verdicts(exact, HeldOutScores(good, lost, frames=20))
    assert (found.good, found.frames, found.flips, found.flipped_images) == (80, 20, 6, 1)
    assert found.rate_bound == pytest.approx(rate_bound(1, 20))
    assert "on 80 tiles of 20 held-out good images" in found.describe()
    hottest = compare_verdicts(exact, HeldOutScores(np.where(np.arange(80) % 20 == 0, 0.3, good), lost, frames=20))
    assert hottest.flips == 6 + 4 + 4
    few = HeldOutScores(good[:80], exact.defects, frames=LEAST_GOOD - 1)
    assert f"{LEAST_GOOD - 1} held-out good images and 240 synthetic defects are too few" in few.missing


@pytest.mark.parametrize(("shape", "noise"), [(6, 0.02), (6, 0.2), (20, 0.05), (20, 0.4), (100, 0.2)])
def test_the_bound_covers_the_rate_of_further_images(shape, noise) -> None:
    """Of images that were not compared, fewer flip than the bound says in 95 % of draws; three
    standard errors off."""
    rng = np.random.default_rng([shape, int(1000 * noise)])

    def drawn(count: int) -> tuple[HeldOutScores, HeldOutScores]:
        good = np.exp(rng.normal(0, 0.25, count))
        defects = np.tile(good, 3) * np.exp(rng.normal(0.6, 0.4, 3 * count))
        moved = [scores * np.exp(rng.normal(0, noise, len(scores))) for scores in (good, defects)]
        return HeldOutScores(good, defects), HeldOutScores(*moved)

    draws, covered = 300, 0
    for _ in range(draws):
        few, further = drawn(shape), drawn(2000)
        limits = [np.quantile(one.good, min(1, 0.99 * (shape + 1) / shape), method="higher") for one in few]
        flips = (further[0].good > limits[0]) != (further[1].good > limits[1])
        turned = (further[0].defects > limits[0]) != (further[1].defects > limits[1])
        covered += (flips | turned.reshape(3, -1).any(axis=0)).mean() <= compare_verdicts(*few).rate_bound
    assert covered / draws >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / draws)


@pytest.mark.parametrize(("images", "flipped", "passes"), [(6, 0, 1), (6, 1, 0), (9, 1, 0), (10, 1, 1), (14, 2, 1)])
def test_few_images_must_bound_how_many_flip(images, flipped, passes) -> None:
    good, defects = np.linspace(0.1, 0.2, images), np.full(3 * images, 0.3)
    lost = defects.copy()
    lost[:flipped] = 0.199
    found = judged(good, lost, HeldOutScores(good, defects))
    assert found.passed == passes
    if not passes:
        assert f"verdicts flipped on {flipped} of {images} held-out good images" in found.faults[0]
        assert "with 95 % confidence; allowed are 40%" in found.faults[0]


def test_few_images_may_not_lose_many_of_the_defects_that_are_found() -> None:
    """Three defects on one image: within the flips that are allowed, but a third of what FP32
    rejects."""
    good, defects = np.linspace(0.1, 0.2, 20), np.full(60, 0.15)
    defects[[*range(7), 20, 40]] = 0.5
    lost = defects.copy()
    lost[[0, 20, 40]] = 0.15
    found = judged(good, lost, HeldOutScores(good, defects))
    assert (found.verdicts.flips, found.verdicts.flipped_images, found.verdicts.caught) == (3, 1, 9)
    assert "3 of 9 synthetic defects that FP32 rejects are missed, allowed are 10%" in found.faults[0]


def test_defects_of_which_fp32_rejects_none_prove_nothing() -> None:
    found = judged(GOOD, 0.5 * GOOD, HeldOutScores(GOOD, 0.5 * GOOD))
    assert "FP32 rejects none of the synthetic defects" in found.faults[0]


def test_labels_of_one_kind_prove_nothing() -> None:
    scores = np.array([0.200, 0.201, 0.202, 0.203])
    images = np.zeros((4, 1, 1, 1), np.uint8)
    for labels, passes in (([True] * 4, False), ([False] * 4, False), ([False, False, True, True], True)):
        evidence = Evidence(images, images=images, is_defective=np.array(labels))
        assert judge("x", INT8, evidence, (scores, scores)).passed == passes


@pytest.mark.parametrize(
    ("events", "trials", "bound"), [(0, 20, 0.1391), (0, 200, 0.01487), (3, 100, 0.0757), (5, 5, 1.0)]
)
def test_the_bound_is_clopper_and_pearsons(events, trials, bound) -> None:
    assert rate_bound(events, trials) == pytest.approx(bound, rel=1e-2)


@pytest.mark.parametrize(("good", "defects"), [(LEAST_GOOD - 1, 200), (100, LEAST_DEFECTS - 1), (0, 0)])
def test_too_little_evidence_refuses_even_what_is_identical(good, defects) -> None:
    exact = HeldOutScores(GOOD[:good], DEFECTS[:defects])
    found = judged(exact.good, exact.defects, exact)
    assert not found.passed
    assert f"{good} held-out good images and {defects} synthetic defects are too few" in found.faults[0]


def test_scores_that_are_not_finite_are_refused() -> None:
    assert not judged(GOOD, np.where(DEFECTS > 0.5, np.nan, DEFECTS)).passed


# The images


def test_images_are_the_same_in_every_loop_and_defects_stand_on_their_good_image(tiny_run) -> None:
    run = Run(tiny_run)
    good = GoodImages(held_out_files(run), run.config.input)
    defects = DrawnDefects(good, seed=0)
    assert (len(good), len(defects)) == (6, 18)
    first, second = list(defects), list(defects)
    for index, (one, again) in enumerate(zip(first, second, strict=True)):
        np.testing.assert_array_equal(one, again)
        assert one.dtype == np.uint8
        assert 0 < (one != good[index % 6]).mean() < 0.5, "a defect changes a part of its image"
    trained = set(run.config.train_images.values())
    assert not trained.intersection(run.config.validation_images.values())


def test_of_large_frames_tiles_are_judged(tiled) -> None:
    bundle = open_bundle(tiled / "tile.kdx")
    run = Run(tiled / "run")
    good = GoodImages(held_out_files(run), bundle.manifest.input, bundle.manifest.tiling)
    images = list(good)
    assert len(images) == 4 * len(run.config.validation_images)
    assert {image.shape for image in images} == {(64, 64, 1)}
    assert len({image.tobytes() for image in images}) > len(run.config.validation_images)
    assert good.frames == len(run.config.validation_images)
    judged = bundle.manifest.variants["int8"].judged
    assert all((each.verdicts.good, each.verdicts.frames) == (len(images), good.frames) for each in judged)


def test_of_pieces_of_frames_tiles_are_judged_at_their_own_scale(tmp_path) -> None:
    spec, tiling = InputSpec(height=64, width=64, channels=1), plan_tiles((1024, 2048), (64, 64), overlap=16, halo=8)
    for folder, size, count in (("pieces", (128, 192), 12), ("tiles", (64, 64), 3)):
        (tmp_path / folder).mkdir()
        paths = [tmp_path / folder / f"{index}.png" for index in range(3)]
        whole = np.random.default_rng(0).integers(0, 256, (3, *size)).astype(np.uint8)
        for path, pixels in zip(paths, whole, strict=True):
            Image.fromarray(pixels).save(path)
        good = GoodImages(paths, spec, tiling)
        assert (len(good), good.frames) == (count, 3)
        assert len({image.tobytes() for image in good}) == count
        corners = [(row, column) for row in range(0, size[0], 64) for column in range(0, size[1], 64)]
        cut = {each[row : row + 64, column : column + 64].tobytes() for each in whole for row, column in corners}
        assert {image.tobytes() for image in good} <= cut


# The gate


@pytest.mark.slow
@pytest.mark.usefixtures("short_search")
def test_a_graph_that_loses_defects_is_not_written(tiny_run, raw_bundle) -> None:
    """Golden images in order, and the verdicts on others turned: refused by these."""
    run = Run(tiny_run)
    good = GoodImages(held_out_files(run), run.config.input)
    golden = open_bundle(raw_bundle).golden().images
    model = onnx.load(raw_bundle / "model.onnx")
    known = {image.tobytes() for image in golden}

    def other(graph: onnx.ModelProto, images: object) -> Outputs:
        images = list(images)
        outputs = run_onnxruntime(graph, images)
        is_known = np.array([[image.tobytes() in known] for image in images])
        return Outputs(outputs.maps, np.where(is_known, outputs.scores, 1 / outputs.scores))

    runners = {"x": run_onnxruntime, "other": other}
    evidence = Evidence(golden, held_out=HeldOut(good, DrawnDefects(good, 0)))
    gate = Gate(ExactAnswers(model, evidence, runners), INT8)
    graph, report = gate.pass_int8(quantize(model, np.stack(list(good))))
    assert graph is None
    assert "verdicts on held-out good images and synthetic defects flipped" in report.reason
    assert "x: " not in report.reason


# The command


@pytest.mark.slow
def test_export_says_in_numbers_what_was_compared(tiny_run, tmp_path, cli) -> None:
    bundle = tmp_path / "tile.kdx"
    said = cli("export", tiny_run, "-o", bundle, "--precision", "fp32,int8").stdout
    assert "of 24 verdicts flipped on 6 held-out good images and 18 synthetic defects on them" in said
    judged = open_bundle(bundle).manifest.variants["int8"].judged
    assert all((each.verdicts.good, each.verdicts.defects) == (6, 18) for each in judged)
    certificate = cli("verify", bundle, "--json").json
    for each in certificate["judged"]["int8"]:
        assert each["verdicts"]["rate_bound"] == pytest.approx(rate_bound(each["verdicts"]["flipped_images"], 6))
    assert "synthetic defects on them" in cli("verify", bundle).stdout
    assert "synthetic defects on them" in cli("inspect", bundle).stdout


@pytest.mark.slow
def test_without_the_held_out_files_int8_is_refused_and_fp32_stands(tiny_run, dataset, tmp_path, cli) -> None:
    run = Run(tiny_run)
    data = Path(shutil.copytree(dataset, tmp_path / "cells"))
    for name in run.config.validation_images:
        (data / "train/good" / Path(name).name).unlink()
    options = ("--precision", "fp32,int8", "--calibration-data", data)
    said = cli("export", tiny_run, "-o", tmp_path / "tile.kdx", *options, code=1).stdout
    assert "no int8: it is judged on images that were held out of training" in said
    assert "contains none of the 6 good images that were held out" in said
    assert "--calibration-data" in said
    assert open_bundle(tmp_path / "tile.kdx").manifest.precisions == ["fp32"]


@pytest.mark.slow
def test_where_the_data_have_moved_fp32_is_written(tiny_run, tmp_path, cli) -> None:
    options = ("--precision", "fp32,int8,bf16", "--calibration-data", tmp_path / "moved")
    said = cli("export", tiny_run, "-o", tmp_path / "tile.kdx", *options, code=1).stdout
    for precision in ("bf16", "int8"):
        assert f"no {precision}: it is judged on images that were held out of training: the folder" in said
    assert open_bundle(tmp_path / "tile.kdx").manifest.precisions == ["fp32"]


@pytest.mark.slow
def test_where_only_the_training_images_are_gone_int8_is_refused(tiny_run, dataset, tmp_path, cli) -> None:
    """The held-out images are there, so that nothing but the scales of INT8 is missing."""
    data = Path(shutil.copytree(dataset, tmp_path / "cells"))
    kept = {Path(name).name for name in Run(tiny_run).config.validation_images}
    for path in (data / "train/good").iterdir():
        if path.name not in kept:
            path.unlink()
    options = ("--precision", "fp32,int8", "--calibration-data", data)
    said = cli("export", tiny_run, "-o", tmp_path / "tile.kdx", *options, code=1).stdout
    assert "no int8: " in said
    assert "contains none of the training images; name the folder of the training data: --calibration-data" in " ".join(
        said.split()
    )
    assert open_bundle(tmp_path / "tile.kdx").manifest.precisions == ["fp32"]


@pytest.mark.slow
@pytest.mark.usefixtures("short_search")
def test_too_few_held_out_files_refuse_int8(tiny_run, dataset, tmp_path, cli) -> None:
    data = Path(shutil.copytree(dataset, tmp_path / "cells"))
    names = sorted(Run(tiny_run).config.validation_images)
    for name in names[LEAST_GOOD - 1 :]:
        (data / "train/good" / Path(name).name).unlink()
    options = ("--precision", "fp32,int8", "--calibration-data", data)
    said = cli("export", tiny_run, "-o", tmp_path / "tile.kdx", *options, code=1)
    assert "5 held-out good images and 15 synthetic defects are too few" in said.stdout
    assert f"'{data}' does not contain 1 image of 6 that were held out: {names[-1]}" in said.stderr
    assert open_bundle(tmp_path / "tile.kdx").manifest.precisions == ["fp32"]


# The figures that follow


def test_evaluate_names_the_test_images_on_which_layers_were_chosen(bundle_copy, dataset, cli) -> None:
    # BF16 is computed from the FP32 graph: a bundle that declares it holds no other file.
    manifest = open_bundle(bundle_copy).manifest
    variants = {"bf16": Variant(file="model.onnx", convolutions=1, kept=[])}
    write_manifest(bundle_copy, msgspec.structs.replace(manifest, variants=variants))
    said = cli("evaluate", bundle_copy, dataset, "--precision", "fp32", "--backend", "onnxruntime-cpu", "--json").json
    (golden,) = [each for each in said["remarks"] if each["kind"] == "golden"]
    assert golden["count"] == sum("defective" in name for name in manifest.golden) == 1
    assert golden["first"] == [str(dataset / "test/scratch/016.png")]
    assert said["defective"] == 4


def test_evaluate_knows_the_golden_tiles_of_large_frames(tiled, large_frames) -> None:
    from kd_train.data.golden_images import golden_among
    from kdx.folders.data_folder import open_folder

    test = open_folder(large_frames).test
    assert golden_among(open_bundle(tiled / "tile.kdx"), test) == [large_frames / "test/scratch/000.png"]
    assert golden_among(open_bundle(tiled / "tile.kdx"), [image for image in test if not image.is_defective]) == []


@pytest.mark.parametrize("count", [6, 20, 50, 99, 100, 114, 150, 199, 250, 299, 400])
def test_thresholds_are_those_of_calibrate(count):
    scores = np.random.default_rng(count).permutation(np.linspace(0.1, 0.9, count))
    held_out = HeldOutScores(scores, DEFECTS)
    rate = held_out.false_reject_rate
    chosen, _ = quantile_with_interval(scores, rate)
    assert held_out.threshold == chosen
    others, _ = quantile_with_interval(np.sort(scores)[:-1], rate)
    assert int((np.sort(scores)[:-1] > others).sum()) == held_out.above_others
