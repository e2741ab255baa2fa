"""The INT8 stage of every method, of tiles and compact teachers; its detectors for cameras."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from kd_export.onnx.onnx_export import export_onnx
from kd_export.precision.quantize import quantize_by
from kd_export.precision.runners import run_onnxruntime
from kd_train.training.options import TrainOptions
from kd_train.training.quantization import quantize_run
from kd_train.training.run_folder import Run
from kd_train.training.tiled_detector import fuse_tiles
from kd_train.training.train import train
from kd_train.training.trained_pair import fuse, load_pair
from kdx.imaging.images import read_image
from kdx.imaging.tiling import TileRequest
from kdx.storage.json_records import INT8_FOLDER
from tests.conftest import CAMERA
from tests.tiny_training import TINY

pytestmark = pytest.mark.slow
OPTIONS = TrainOptions(epochs=1, workers=0, device="cpu")


def with_stage(run: Path, copy: Path) -> Run:
    """Copy a run that no test may change, and quantise the copy."""
    copied = Path(shutil.copytree(run, copy))
    (record,) = quantize_run(copied, OPTIONS).history
    assert np.isfinite([record.train_loss, record.validation_loss]).all()
    stage = Run(copied).int8()
    assert stage is not None
    return stage


def graph_of(detector, plan, folder: Path) -> onnx.ModelProto:
    """Return the INT8 graph of a detector of the structure that the fixtures have exported."""
    export_onnx(detector, folder / "model.onnx", max_batch=8, metadata={})
    return quantize_by(onnx.load(folder / "model.onnx"), plan)


def test_every_method_learns_in_int8_for_cameras_of_either_order(trained, tmp_path):
    """The graph for a BGR camera gives the scores of the graph for an RGB camera, and both those of
    PyTorch."""
    stage = with_stage(trained.folder / "run", tmp_path / "run")
    pair, _ = load_pair(stage)
    files = sorted(Path(stage.config.data).glob("test/*/*.png"))[:3]
    images = np.stack([read_image(path, stage.config.input) for path in files])
    # Channels that differ, unlike those of the grey pictures.
    images = np.stack([images[..., 0], images[::-1, ..., 0], 255 - images[..., 0]], axis=-1)
    rgb, bgr = (fuse(stage.config, pair, stage.input_for(None, order)) for order in ("rgb", "bgr"))
    with torch.inference_mode():
        scores, other, wrong = (
            detector(torch.from_numpy(np.ascontiguousarray(seen)))[1].numpy()[:, 0]
            for detector, seen in ((rgb, images), (bgr, images[..., ::-1]), (rgb, images[..., ::-1]))
        )
    # Both orders add the same products in another order, so a sum between two steps may be rounded
    # to the other one. The picture whose score depends most on the order shows that it is right.
    np.testing.assert_allclose(scores, other, rtol=0.02)
    most = np.abs(wrong / scores - 1).argmax()
    assert not np.isclose(scores[most], wrong[most], rtol=1e-3)
    np.testing.assert_allclose(scores[most], other[most], rtol=1e-3)
    plan, (height, width) = stage.config.quantized.plan, CAMERA
    frames = np.stack([np.asarray(Image.fromarray(image).resize((width, height))) for image in images])
    with torch.inference_mode():
        scores = fuse(stage.config, pair, stage.input_for(CAMERA))(torch.from_numpy(frames))[1].numpy()[:, 0]
    for order, seen in (("rgb", frames), ("bgr", np.ascontiguousarray(frames[..., ::-1]))):
        graph = graph_of(pair.detector(stage.input_for(CAMERA, order)), plan, tmp_path)
        np.testing.assert_allclose(run_onnxruntime(graph, seen).scores[:, 0], scores, rtol=0.02)


def test_tiles(tiled, tmp_path):
    stage = with_stage(tiled / "run", tmp_path / "run")
    pair, _ = load_pair(stage)
    detector, tiling = fuse_tiles(stage, pair, TileRequest())
    assert detector.quantizer is not None
    assert tiling.count > 1


def test_a_compact_teacher(dataset, tmp_path):
    options = replace(
        TINY, backbone="compact-s", teacher_from="test_resnet", taps="layer2,layer3", epochs=1, teacher_epochs=1
    )
    run = train(dataset, tmp_path / "run", options).run
    stage = with_stage(run.path, tmp_path / "copy")
    assert stage.config.distilled == run.config.distilled
    assert len(stage.config.quantized.plan.nodes) > 10
    assert stage.config.quantized.plan.residual_additions == 0
    assert not (stage.path / "teacher").exists()
    detector = fuse(stage.config, load_pair(stage)[0])
    files = sorted(dataset.glob("train/good/*.png"))
    shown = [file for file in files if file.name in stage.config.train_images]
    images = torch.from_numpy(np.stack([read_image(file, stage.config.input) for file in shown]))
    with torch.inference_mode():
        (maps,) = detector.unweighted_maps(images)
        weighted, _ = detector(images)
    torch.testing.assert_close(weighted, detector.tail.border[0](maps))
    assert (stage.path.parent.name, stage.path.name) == ("copy", INT8_FOLDER)
