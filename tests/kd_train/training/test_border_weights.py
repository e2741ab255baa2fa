"""Border weights of a run: when they are measured, and that nothing is deployed without them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from msgspec import UNSET

import kd_train.training.students
from kd_export.graph.border import weights_of_level
from kd_train.evaluation.baseline import EagerBaseline
from kd_train.evaluation.reference_detector import load_detector
from kd_train.training.from_options import recipe_of
from kd_train.training.options import TrainOptions
from kd_train.training.quantization import quantize_run
from kd_train.training.run_folder import Run
from kd_train.training.tiled_detector import fuse_tiles
from kd_train.training.train import train
from kd_train.training.trained_pair import fuse, load_pair
from kdx.bundle.open import open_bundle
from kdx.errors import CheckpointError, OptionError
from kdx.imaging.images import read_image
from kdx.imaging.tiling import TileRequest
from kdx.progress import SILENT
from kdx.storage.json_records import INT8_FOLDER
from kdx.workflows.export import export_run
from tests.tiny_training import TINY

OPTIONS = replace(TINY, border_weights="on")


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory) -> Path:
    """A finished run with border weights; no test may change it."""
    run = tmp_path_factory.mktemp("border") / "run"
    train(dataset, run, OPTIONS)
    return run


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def training_images(run: Run) -> np.ndarray:
    names = run.config.train_images
    paths = sorted(path for path in (Path(run.config.data) / "train/good").glob("*.png") if path.name in names)
    return np.stack([read_image(path, run.config.input) for path in paths])


def test_weights_are_those_of_the_training_images(trained) -> None:
    run = Run(trained)
    assert run.config.schema == 4
    (weights,) = run.config.border_weights
    bare = msgspec.structs.replace(run.config, border_weights=UNSET)
    with torch.inference_mode():
        maps = fuse(bare, load_pair(run)[0])(torch.from_numpy(training_images(run)))[0].double().numpy()
    # The weights of a level are tested where they are defined; here, of which maps it is.
    np.testing.assert_allclose(weights, weights_of_level(np.mean(maps**2, axis=0)), rtol=1e-5)
    assert min(weights) < 1


def test_bundle_run_and_eager_baseline_have_the_weights(trained, tmp_path) -> None:
    """The export compares every backend with the run's detector; the bundle names the weights."""
    bundle, certificate, refused = export_run(trained, tmp_path / "b.kdx", progress=SILENT)
    assert certificate.passed
    assert not refused
    run = Run(trained)
    assert open_bundle(bundle.path).manifest.provenance.border_weights == list(run.config.border_weights)
    golden = bundle.golden()
    with load_detector(trained) as detector:
        verdicts = [detector(image) for image in golden.images]
    np.testing.assert_allclose([each.score for each in verdicts], golden.scores[:, 0], rtol=1e-5)
    pair = load_pair(run)[0]
    weights = run.config.border_weights
    baseline = EagerBaseline(pair, run.config.input, run.config.recipe.size, border_weights=weights)
    np.testing.assert_allclose(baseline.run(golden.images).scores, golden.scores, rtol=1e-4)
    plain = EagerBaseline(pair, run.config.input, run.config.recipe.size)
    assert not np.allclose(plain.run(golden.images).maps, golden.maps, rtol=1e-3)


def test_a_kill_before_they_are_written_is_named_and_resumed(trained, dataset, tmp_path, monkeypatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(kd_train.training.students, "measure_border_weights", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(dataset, tmp_path / "run", OPTIONS)
    killed = Run(tmp_path / "run")
    assert killed.checkpoint("last").epoch == 1
    (remark,) = killed.remarks()
    assert "border weights were not measured" in str(remark)
    with pytest.raises(CheckpointError, match="border weights"):
        quantize_run(killed.path, TrainOptions(epochs=1, workers=0, device="cpu"))
    train(dataset, tmp_path / "run", replace(OPTIONS, resume=True))
    assert Run(tmp_path / "run").config.border_weights == Run(trained).config.border_weights
    assert not Run(tmp_path / "run").remarks()


def test_a_finished_run_keeps_them(run, dataset) -> None:
    before = (run / "run.json").read_bytes()
    train(dataset, run, replace(OPTIONS, resume=True))
    assert (run / "run.json").read_bytes() == before


def test_the_int8_stage_has_those_of_its_run(run) -> None:
    quantize_run(run, TrainOptions(epochs=1, workers=0, device="cpu"))
    stage = Run(run / INT8_FOLDER)
    assert stage.config.border_weights == Run(run).config.border_weights
    border = fuse(stage.config, load_pair(stage)[0]).tail.border
    assert len(border) == 1


def test_without_them_a_run_is_written_as_before(dataset, tmp_path) -> None:
    train(dataset, tmp_path / "run", TINY)
    record = json.loads((tmp_path / "run/run.json").read_text(encoding="utf-8"))
    assert record["schema"] == 3
    assert "border_weights" not in record
    assert record["recipe"]["border_weights"] is False


def test_tiles_of_a_run_have_no_weights(trained) -> None:
    run = Run(trained)
    side = run.config.input.height
    tiles = TileRequest(frame=(4 * side, 4 * side), tile=side)
    detector, _ = fuse_tiles(run, load_pair(run)[0], tiles)
    assert (len(detector.tail.border), detector.border_weights) == (0, ())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (TrainOptions(backbone="compact-m"), True),
        (TrainOptions(backbone="compact-m", border_weights="off"), False),
        (TrainOptions(backbone="compact-m", tile=64), False),
        (TrainOptions(backbone="tf_efficientnet_lite0"), False),
        (TrainOptions(), False),
        (TrainOptions(border_weights="on"), True),
    ],
)
def test_compact_pairs_have_them_and_the_papers_do_not(options, expected) -> None:
    assert recipe_of(options).border_weights is expected


def test_tiles_do_not_take_them() -> None:
    with pytest.raises(OptionError, match="are of whole images"):
        recipe_of(TrainOptions(border_weights="on", tile=64))
