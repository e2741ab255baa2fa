"""Exporting a run that has an INT8 stage: its students, for every camera, or a clear error."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import kdx
from kd_export import bundle_export
from kd_export.precision.quantize import quantize_by
from kd_train.training.options import TrainOptions
from kd_train.training.quantization import quantize_run
from kd_train.training.run_folder import Run
from kd_train.training.train import train
from kd_train.training.trained_pair import fuse, load_pair
from kdx.bundle.variants import Variant, graph_file
from kdx.errors import CheckpointError
from kdx.imaging.images import read_image
from kdx.progress import SILENT
from kdx.storage.json_records import INT8_FOLDER
from kdx.workflows.export import export_run
from tests.students import graph_of
from tests.tiny_training import TINY

pytestmark = pytest.mark.slow
BOTH = ("fp32", "int8")
OPTIONS = TrainOptions(epochs=1, workers=0, device="cpu")
# Of INT8 scores in ONNX Runtime, where one rounding may tip a value to its other neighbour.
ROUNDING = 0.02


@pytest.fixture(scope="module")
def quantised(dataset, tmp_path_factory) -> Path:
    """A run on pictures whose channels differ, with an INT8 stage; no test may change it."""
    folder = tmp_path_factory.mktemp("quantised")
    data = Path(shutil.copytree(dataset, folder / "cells"))
    for file in data.glob("t*/*/*.png"):
        grey = np.asarray(Image.open(file))
        Image.fromarray(np.stack([grey, grey[::-1], 255 - grey], axis=-1)).save(file)
    train(data, folder / "run", replace(TINY, epochs=2))
    quantize_run(folder / "run", OPTIONS)
    return folder / "run"


@pytest.fixture
def run(quantised, tmp_path) -> Path:
    """A copy of the run that the test may change."""
    return Path(shutil.copytree(quantised, tmp_path / "run"))


@pytest.fixture
def unjudged(monkeypatch) -> None:
    """Write the graphs of INT8 students without their gate, for which there are too few images."""

    def write(folder, students, max_batch, metadata, exact, reference) -> tuple[Variant, str]:
        graph = quantize_by(graph_of(students, max_batch), students.quantizer.plan)
        onnx.save(graph, folder / graph_file("int8"))
        return Variant(file=graph_file("int8"), convolutions=1, kept=[]), ""

    monkeypatch.setattr(bundle_export, "write_int8_students", write)


def export(run: Path, out: Path, **options):
    bundle, certificate, refused = export_run(run, out, progress=SILENT, precisions=BOTH, **options)
    assert (certificate.passed, refused) == (True, {})
    return bundle


def scores_in_int8(bundle: Path, images: list[np.ndarray]) -> list[float]:
    with kdx.load(bundle, backend="onnxruntime-cpu", precision="int8") as detector:
        return [detector(image).score for image in images]


def test_the_bundle_holds_the_students_of_the_stage(cli, quantised, tmp_path, unjudged):
    said = cli("export", quantised, "-o", tmp_path / "tile.kdx", "--precision", "fp32,int8").stdout
    assert "int8: trained, 1 convolutions" in said
    bundle, stage = kdx.open_bundle(tmp_path / "tile.kdx"), Run(quantised / INT8_FOLDER)
    origin, quantized = bundle.manifest.provenance.int8, stage.config.quantized
    assert origin.checkpoint_sha256 == stage.checkpoint("last").sha256
    assert origin.teacher_sha256 == quantized.teacher_sha256
    assert (origin.epoch, origin.headroom) == (1, 1.0)
    assert origin.residual_additions == quantized.plan.residual_additions > 0
    assert bundle.manifest.provenance.checkpoint_sha256 == Run(quantised).checkpoint("last").sha256
    golden = bundle.golden("int8")
    with torch.inference_mode():
        scores = fuse(stage.config, load_pair(stage)[0])(torch.from_numpy(golden.images))[1].numpy()
    np.testing.assert_allclose(golden.scores, scores, rtol=1e-4)
    assert not np.allclose(golden.scores, bundle.golden().scores, rtol=1e-3)
    found = scores_in_int8(bundle.path, list(golden.images))
    np.testing.assert_allclose(found, scores[:, 0], rtol=ROUNDING)


def test_a_bgr_camera_of_another_size_gets_the_same_scores(quantised, tmp_path, unjudged):
    size = (80, 72)
    for order in ("rgb", "bgr"):
        export(quantised, tmp_path / f"{order}.kdx", channel_order=order, input_size=size)
    spec = kdx.open_bundle(tmp_path / "rgb.kdx").manifest.input
    files = sorted(Path(Run(quantised).config.data).glob("test/*/*.png"))[:4]
    images = [np.asarray(Image.open(file).resize(size[::-1])) for file in files]
    assert images[0].shape == (spec.height, spec.width, 3)
    rgb = scores_in_int8(tmp_path / "rgb.kdx", images)
    bgr = scores_in_int8(tmp_path / "bgr.kdx", [np.ascontiguousarray(image[..., ::-1]) for image in images])
    np.testing.assert_allclose(bgr, rgb, rtol=ROUNDING)


def test_tiles(tiled, tmp_path, unjudged):
    run = Path(shutil.copytree(tiled / "run", tmp_path / "run"))
    quantize_run(run, OPTIONS)
    for folder in (run, run / INT8_FOLDER):  # as if it had been trained on whole images
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        record |= {"border_weights": [[0.1] * 32], "recipe": {**record["recipe"], "border_weights": True}}
        (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    bundle = export(run, tmp_path / "tile.kdx")
    stage, golden = Run(run / INT8_FOLDER), bundle.golden("int8")
    detector = fuse(stage.config, load_pair(stage)[0], bundle.manifest.input).without_border_weights()
    with torch.inference_mode():
        scores = detector(torch.from_numpy(golden.images))[1].numpy()
    np.testing.assert_allclose(golden.scores, scores, rtol=1e-4)
    frame = read_image(sorted(Path(stage.config.data).glob("test/*/*.png"))[0], bundle.manifest.camera)
    assert np.isfinite(scores_in_int8(bundle.path, [frame])).all()


def test_fp32_alone_knows_nothing_of_the_stage(run, tmp_path):
    (run / INT8_FOLDER / "last.json").unlink()  # an unfinished stage is no obstacle
    bundle, _, _ = export_run(run, tmp_path / "tile.kdx", progress=SILENT)
    assert bundle.manifest.provenance.int8 is None


def test_another_checkpoint_than_the_quantised_one_is_refused(cli, run, tmp_path):
    best = json.loads((run / "best.json").read_text(encoding="utf-8"))
    (run / "best.json").write_text(json.dumps({**best, "sha256": 64 * "0"}), encoding="utf-8")
    options = ("--precision", "fp32,int8", "--checkpoint", "best")
    stderr = cli("export", run, "-o", tmp_path / "tile.kdx", *options, code=2).stderr
    assert "came from another checkpoint" in stderr
    assert "fix: leave out --checkpoint" in stderr
    assert not (tmp_path / "tile.kdx").exists()


def test_an_unfinished_stage_is_refused_with_the_command_that_continues_it(run, tmp_path):
    (run / INT8_FOLDER / "last.json").unlink()
    (run / INT8_FOLDER / "best.json").unlink()
    with pytest.raises(CheckpointError, match=r"no epoch of '.*int8' was completed") as refused:
        export(run, tmp_path / "tile.kdx")
    assert f"kdx quantize {run} --resume --epochs 1" in refused.value.fix


def test_without_images_to_judge_on_there_is_no_int8(run, cells, tmp_path):
    bundle, _, refused = export_run(
        run, tmp_path / "tile.kdx", progress=SILENT, precisions=BOTH, calibration_data=cells
    )
    assert "it is judged on images that were held out of training" in refused["int8"]
    assert bundle.manifest.provenance.int8 is None


def test_advice_on_refused_students_keeps_the_options_of_the_stage(run, dataset, tmp_path, monkeypatch):
    record = run / INT8_FOLDER / "run.json"
    config = json.loads(record.read_text(encoding="utf-8"))
    config["recipe"]["learning_rate"], config["quantized"]["headroom"] = 0.0003, 1.5
    record.write_text(json.dumps({**config, "data": str(dataset)}), encoding="utf-8")
    monkeypatch.setattr(bundle_export, "write_int8_students", lambda *_: (None, "they decide worse"))
    _, _, refused = export_run(run, tmp_path / "tile.kdx", progress=SILENT, precisions=BOTH)
    command = f"kdx quantize {run} --force --epochs 2 --learning-rate 0.0003 --headroom 1.5 --data {dataset}"
    assert refused["int8"].startswith(
        f"they decide worse; students that decide worse than FP32 may need to learn longer: {command}, see"
    )


def test_without_a_stage_the_fp32_students_are_quantised(run, tmp_path, monkeypatch):
    shutil.rmtree(run / INT8_FOLDER)
    seen = []

    def write(folder, evidence, images, progress) -> tuple[None, str]:
        seen.append(len(images))
        return None, "of the test"

    monkeypatch.setattr(bundle_export, "write_int8", write)
    _, _, refused = export_run(run, tmp_path / "tile.kdx", progress=SILENT, precisions=BOTH)
    assert (seen, refused) == ([6], {"int8": "of the test"})
