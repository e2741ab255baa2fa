"""Thresholds chosen on defects: only when asked for, by one rule, and said wherever they are
shown."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import kdx
from kdx.bundle.open import open_bundle
from kdx.calibration.rates import best_split
from kdx.errors import GateError


def test_between_two_clouds_the_middle_of_the_gap_is_chosen():
    assert best_split(np.array([1.0, 2.0, 3.0]), np.array([5.0, 9.0])) == 4.0


def test_of_equal_sums_the_lower_threshold_misses_fewer():
    # At 2.5 and 3.5 one of two defects is missed; at 1.5 one of two good parts is rejected: no
    # defect passes.
    assert best_split(np.array([1.0, 3.0]), np.array([2.0, 4.0])) == 1.5


def test_it_is_the_smallest_sum_of_both_rates():
    generator = np.random.default_rng(0)
    good, defective = generator.normal(0, 1, 80).round(1), generator.normal(1.5, 1, 30).round(1)
    chosen = best_split(good, defective)

    def cost(threshold: float) -> float:
        return np.mean(defective <= threshold) + np.mean(good > threshold)

    assert cost(chosen) == pytest.approx(min(cost(each) for each in np.linspace(-4, 6, 2001)))


@pytest.mark.parametrize(("good", "defective"), [([5.0, 6.0], [1.0, 2.0]), ([1.0], [1.0]), ([1.0, 2.0], [1.0, 2.0])])
def test_exchanged_or_equal_images_choose_nothing(good, defective):
    with pytest.raises(GateError, match="no threshold separates"):
        best_split(np.array(good), np.array(defective))


@pytest.fixture(scope="module")
def apart(dataset, tmp_path_factory) -> Path:
    """Good images with a checkerboard."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("apart")
    for number, path in enumerate(sorted((dataset / "test/good").iterdir())):
        pixels = np.asarray(Image.open(path)).copy()
        pixels[8:56, 8:56] = 240 * (np.indices((48, 48)).sum(axis=0) // 6 % 2)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def test_the_threshold_says_that_defects_chose_it(cli, tiny_bundle, dataset, apart, tmp_path):
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "tile.kdx"))
    options = ("--backend", "onnxruntime-cpu")
    with kdx.load(bundle, backend="onnxruntime-cpu", precision="fp32") as detector:
        scores = np.array([detector(kdx.read_image(path, detector.input)).score for path in apart.iterdir()])
    shown = cli("calibrate", bundle, dataset, "--with-defects", apart, *options).stdout
    threshold = open_bundle(bundle).manifest.threshold
    good = np.array(threshold.scores)
    assert threshold.pixel == threshold.score == pytest.approx(best_split(good, scores), rel=1e-6)
    chosen = threshold.defects
    assert (chosen.images, threshold.images) == (4, 6)
    assert (chosen.misses, chosen.false_rejects) == ((scores <= threshold.score).sum(), (good > threshold.score).sum())
    assert (threshold.false_reject_rate, threshold.interval) == (chosen.false_rejects / 6, (None, None))
    for text in (shown, cli("inspect", bundle).stdout):
        assert "chosen on defects" in text
        assert f"misses {chosen.misses} of 4 defective images" in text
    # A band below it comes from good images, as ever.
    banded = cli("calibrate", bundle, dataset, "--with-defects", apart, "--review-rate", 0.9, "--json", *options).json
    assert banded["threshold"]["defects"]["images"] == 4
    assert banded["threshold"]["review"]["score"] == good[0] < banded["threshold"]["score"]
    # Not asked for again, it is the good images' alone.
    cli("calibrate", bundle, dataset, "--false-reject-rate", 0.2, *options)
    assert open_bundle(bundle).manifest.threshold.defects is None


@pytest.mark.parametrize("by_hand", [(), ("--threshold", 0.4, "--reason", "as on line 2")])
def test_defects_that_are_left_out_are_named(cli, bundle_copy, dataset, tiny_run, apart, tmp_path, by_hand):
    from PIL import Image

    defects = Path(shutil.copytree(apart, tmp_path / "defects"))
    trained = sorted(json.loads((tiny_run / "run.json").read_text(encoding="utf-8"))["train_images"])
    shutil.copy(dataset / "train/good" / trained[0], defects / "learned.png")
    Image.open(dataset / "train/good" / trained[1]).save(defects / "near.jpg", quality=90)
    shutil.copy(defects / "0.png", defects / "twice.png")
    Image.new("L", (64, 64)).save(defects / "lamp-off.png")
    options = ("--with-defects", defects, *by_hand, "--backend", "onnxruntime-cpu", "--json")
    record = cli("calibrate", bundle_copy, dataset, *options).json
    counted = record["threshold"]["by_hand" if by_hand else "defects"]
    assert (counted["defects"] if by_hand else counted)["images"] == 5
    named = {each["kind"]: [Path(name).name for name in each["first"]] for each in record["remarks"]}
    assert named["trained_on_defects"] == ["learned.png"]
    assert named["near_trained_on_defects"] == ["near.jpg"]
    assert named["copies_of_defects"] == ["twice.png"]
    assert named["no_part"] == ["lamp-off.png"]


def test_what_cannot_be_chosen_on(cli, tiny_bundle, dataset, apart, tmp_path):
    before = open_bundle(tiny_bundle).manifest.threshold
    good = dataset / "train/good"
    good_by_another_name = shutil.copytree(good, tmp_path / "other/scratch")
    (tmp_path / "good").mkdir()
    shutil.copy(next((dataset / "test/good").iterdir()), tmp_path / "good")
    said = {
        ("--with-defects", apart, "--false-reject-rate", 0.1): "chooses the false-reject rate itself",
        ("--with-defects", good): "not a folder of only defective images",
        ("--with-defects", good_by_another_name): "both good and defective",
        ("--with-defects", tmp_path): "not a folder of only defective images",
        ("--with-defects", tmp_path / "none"): "does not exist",
        ("--with-defects", apart, "--review-rate", 1.5): "review rate is out of range",
    }
    for options, text in said.items():
        assert text in cli("calibrate", tiny_bundle, dataset, *options, "--backend", "onnxruntime-cpu", code=2).stderr
    assert open_bundle(tiny_bundle).manifest.threshold == before
