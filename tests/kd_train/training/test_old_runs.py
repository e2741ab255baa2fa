"""A run of kdx 0.1.0, interrupted in its third epoch, scores, exports, evaluates and resumes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import kdx
from kd_train.evaluation.reference_detector import load_detector
from kd_train.training.options import TrainOptions
from kd_train.training.run_folder import Run
from kd_train.training.train import train

FIXTURE = Path(__file__).parents[2] / "fixtures/run_v1"
IMAGES = FIXTURE / "images"

# As the run began, see README.md beside it.
OPTIONS = TrainOptions(
    backbone="test_resnet",
    weights="random",
    taps="act1,layer1",
    image_size=64,
    epochs=4,
    batch_size=2,
    learning_rate=1.5,
    validation_fraction=0.5,
    workers=0,
    device="cpu",
    resume=True,
)


@pytest.fixture(scope="module")
def expected() -> Any:
    return json.loads((FIXTURE / "expected.json").read_text(encoding="utf-8"))


@pytest.fixture
def old_run(tmp_path) -> Path:
    """A copy that the test may change."""
    return Path(shutil.copytree(FIXTURE / "run", tmp_path / "run"))


def scores(run: Path, which: str) -> dict[str, float]:
    detector = load_detector(run, which=which, threads=1)
    images = sorted((IMAGES / "test").glob("*/*.png"))
    return {
        path.relative_to(IMAGES).as_posix(): detector(kdx.read_image(path, detector.input)).score for path in images
    }


@pytest.mark.parametrize("which", ["last", "best"])
def test_an_old_run_scores_as_it_did(old_run, expected, which):
    assert Run(old_run).checkpoint(which).epoch == expected["interrupted"][which]["epoch"]
    assert scores(old_run, which) == pytest.approx(expected["interrupted"][which]["scores"], rel=1e-4)


@pytest.mark.slow
def test_an_old_run_is_exported_and_evaluated(cli, old_run, expected, tmp_path):
    cli("export", old_run, "-o", tmp_path / "old.kdx", "--checkpoint", "best", "--max-batch", 1)
    detector = kdx.load(tmp_path / "old.kdx", backend="onnxruntime-cpu")
    for name, score in expected["interrupted"]["best"]["scores"].items():
        assert detector(kdx.read_image(IMAGES / name, detector.input)).score == pytest.approx(score, rel=1e-4)
    said = expected["interrupted"]["last"]["scores"]
    good, bad = ([score for name, score in said.items() if kind in name] for kind in ("good", "scratch"))
    auroc = sum(b > g for b in bad for g in good) / (len(good) * len(bad))
    assert cli("evaluate", old_run, IMAGES, "--json").json["image_auroc"] == pytest.approx(auroc)


def test_an_old_run_is_resumed_where_it_was_interrupted(old_run, expected):
    history = train(IMAGES, old_run, OPTIONS).history
    losses = [loss for epoch in history for loss in (epoch.train_loss, epoch.validation_loss)]
    assert losses == pytest.approx([loss for epoch in expected["history"] for loss in epoch], rel=1e-2)
    for which in ("last", "best"):
        assert Run(old_run).checkpoint(which).epoch == expected["resumed"][which]["epoch"]
        assert scores(old_run, which) == pytest.approx(expected["resumed"][which]["scores"], rel=1e-2)


@pytest.mark.slow
def test_an_old_run_with_a_distance_of_its_own_is_exported_and_resumed(cli, old_run, expected, tmp_path):
    # Once an option; on unit vectors both distances are the same number.
    for name in ("run.json", "last.json", "best.json"):
        record = json.loads((old_run / name).read_text(encoding="utf-8"))
        record["recipe"]["distance"] = "cosine"
        for tap in record["pair_spec" if name == "run.json" else "spec"]["maps"][0]["taps"]:
            tap["distance"] = "cosine"
        (old_run / name).write_text(json.dumps(record), encoding="utf-8")
    cli("export", old_run, "-o", tmp_path / "old.kdx", "--max-batch", 1)
    taps = kdx.open_bundle(tmp_path / "old.kdx").manifest.pair_spec["maps"][0]["taps"]
    assert {tap["distance"] for tap in taps} == {"cosine"}
    assert scores(old_run, "last") == pytest.approx(expected["interrupted"]["last"]["scores"], rel=1e-3)
    assert train(IMAGES, old_run, OPTIONS).resumed_after == 2
    assert scores(old_run, "last") == pytest.approx(expected["resumed"]["last"]["scores"], rel=1e-2)
