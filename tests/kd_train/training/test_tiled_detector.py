"""From large images to a bundle for whole frames: trained on tiles, exported, calibrated."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import kdx
from kd_train.training.from_options import recipe_of
from kd_train.training.tiled_detector import fuse_tiles, require_large_enough
from kdx.bundle.open import open_bundle
from kdx.errors import DataError, OptionError
from kdx.imaging.images import InputSpec
from kdx.imaging.tiling import TileRequest
from kdx.runtime.tiled import graph_backend
from tests.frames import FRAME, TILE
from tests.tiny_training import TINY


def test_every_tile_is_trained_on(tiled, cli):
    said = cli("inspect", tiled / "tile.kdx", "--json").json["manifest"]
    assert said["input"]["height"] == said["input"]["width"] == TILE
    assert tuple(said["tiling"]["frame"]) == FRAME
    assert said["tiling"]["batch"] == said["max_batch"] == 2
    assert "tiles" in cli("inspect", tiled / "tile.kdx").stdout


def test_golden_images_are_tiles_and_show_the_defect(tiled):
    golden = open_bundle(tiled / "tile.kdx").golden()
    assert golden.images.shape[1:] == (TILE, TILE, 1)
    defective = [image for name, image in zip(golden.names, golden.images, strict=True) if "defective" in name]
    assert len(defective) == 1
    assert (defective[0] == 255).sum() >= 4 * 40  # the whole scratch


def test_frames_are_judged_alike_in_every_backend(tiled, large_frames):
    path = large_frames / "test/scratch/000.png"
    maps = []
    for backend in ("onnxruntime-cpu", "openvino"):
        with kdx.load(tiled / "tile.kdx", backend=backend, threads=1, precision="fp32") as detector:
            verdict = detector(kdx.read_image(path, detector.input))
            assert verdict.anomaly_map.shape == FRAME
            assert verdict.score == verdict.anomaly_map.max()
            assert verdict.decision.value == ("defective" if verdict.score > verdict.threshold else "good")
            maps.append(verdict.anomaly_map)
    np.testing.assert_allclose(maps[0], maps[1], atol=1e-4 * np.ptp(maps[0]))


def test_the_run_judges_frames_as_its_bundle_does(tiled, large_frames):
    with kdx.load(tiled / "run", threads=1) as run, kdx.load(tiled / "tile.kdx", "onnxruntime-cpu", 1) as bundle:
        frame = kdx.read_image(large_frames / "test/good/000.png", run.input)
        assert run(frame).score == pytest.approx(bundle(frame).score, rel=1e-4)
        assert len(bundle.batch([frame, frame])) == 2


@pytest.mark.slow
def test_commands_take_frames(tiled, large_frames, cli, tmp_path):
    assert cli("evaluate", tiled / "tile.kdx", large_frames, "--json").json["pixel_auroc"] is not None
    cli("verify", tiled / "tile.kdx")
    said = cli("predict", tiled / "tile.kdx", large_frames / "test/scratch", "--json", code=None)
    assert len(said.lines) >= 2
    assert cli("selftest", tiled / "tile.kdx", "--json").json["passed"]
    record = cli("bench", tiled / "tile.kdx", "--runs", 20, "--warm-up", 1, "--json").json
    assert record["map_size"] == list(FRAME)
    assert {row["batch"] for row in record["results"]} == {1}


def test_the_graph_is_below_the_tiles(tiled):
    golden = open_bundle(tiled / "tile.kdx").golden()
    with kdx.load(tiled / "tile.kdx", "onnxruntime-cpu", 1) as detector:
        scores = graph_backend(detector.backend).run(golden.images[:2]).scores
        np.testing.assert_allclose(scores, golden.scores[:2], rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--frame", "40x300"), "smaller than a tile"),
        (("--overlap", "63"), "overlap does not fit"),
        (("--overlap", "much"), "invalid --overlap"),
        (("--tile", "68"), "does not fit the networks"),
        (("--tile", "128"), "another scale"),
        (("--tile-batch", "0"), "--tile-batch is out of range"),
        (("--frame", "x"), "--frame is not a size"),
        (("--input-size", "96x160"), "for whole images"),
    ],
)
def test_bad_export_options(tiled, cli, tmp_path, options, said):
    result = cli("export", tiled / "run", "-o", tmp_path / "no.kdx", *options, code=2)
    assert said in result.stderr
    assert not (tmp_path / "no.kdx").exists()


def test_tiles_need_both_sizes(tiny_run, cli, tmp_path):
    for options in (("--tile", 64), ("--frame", "96x160"), ("--overlap", "32")):
        result = cli("export", tiny_run, "-o", tmp_path / "no.kdx", *options, code=2)
        assert "tiles need the frame's size" in result.stderr


@pytest.mark.parametrize(
    ("image_size", "trained", "said"),
    [((64, 128), (64, 128), "tiles are squares"), (64, (64, 128), "another scale"), (64, (128, 64), "another scale")],
)
def test_tiles_show_parts_as_training_did_along_both_sides(image_size, trained, said):
    spec = InputSpec(height=trained[0], width=trained[1])
    recipe = recipe_of(replace(TINY, image_size=image_size))
    config = SimpleNamespace(recipe=recipe, input=spec, frame=None, tile=None)
    with pytest.raises(OptionError, match=said):
        fuse_tiles(SimpleNamespace(config=config), SimpleNamespace(spec=None), TileRequest((256, 256), 64))


def test_tiles_have_about_the_size_of_those_trained_on():
    config = SimpleNamespace(recipe=recipe_of(TINY), input=InputSpec(height=64, width=64), frame=None, tile=64)
    with pytest.raises(OptionError, match="another scale") as caught:
        fuse_tiles(SimpleNamespace(config=config), SimpleNamespace(spec=None), TileRequest((256, 256), 128))
    assert caught.value.expected == "tiles of about 64 × 64 pixels, the size of those trained on"
    assert caught.value.fix == "leave out `tile`, or train on tiles: kdx train DATA --tile 128"


def test_images_of_which_no_tile_can_be_cut_are_named(tmp_path):
    tile = InputSpec(height=64, width=64)
    for name, size in {"frame": (300, 64), "close": (59, 60), "thin": (300, 60), "small": (40, 40)}.items():
        Image.new("L", size).save(tmp_path / f"{name}.png")
    require_large_enough([tmp_path / "frame.png", tmp_path / "close.png"], tile)
    with pytest.raises(DataError, match=r"^2 images are smaller than a tile: .*thin.png, .*small.png\n"):
        require_large_enough(sorted(tmp_path.iterdir(), reverse=True), tile)


@pytest.mark.slow
def test_a_pair_trained_on_whole_images_keeps_its_scale(tiny_run, cli, tmp_path):
    result = cli("export", tiny_run, "-o", tmp_path / "no.kdx", "--frame", "256x256", "--tile", 128, code=2)
    assert "trained at another scale" in result.stderr
    cli("export", tiny_run, "-o", tmp_path / "yes.kdx", "--frame", "96x100", "--tile", 64)
    with kdx.load(tmp_path / "yes.kdx", "onnxruntime-cpu", 1) as detector:
        assert detector(np.full((96, 100), 90, np.uint8)).anomaly_map.shape == (96, 100)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--tile", 128), "smaller than a tile"),
        (("--tile", 70), "does not fit the networks"),
        (("--tile", 64, "--score", "sum"), "cannot judge tiles"),
        (("--tile", 64, "--method", "mixed-teacher"), "cannot judge tiles"),
    ],
)
def test_bad_training_options(large_frames, cli, tiny_options, tmp_path, options, said):
    result = cli("train", large_frames, "-o", tmp_path / "run", "--epochs", 1, *tiny_options, *options, code=2)
    assert said in result.stderr


def test_a_run_is_not_resumed_with_other_tiles(tiled, large_frames, cli, tiny_options, tmp_path):
    run = shutil.copytree(tiled / "run", tmp_path / "run")
    result = cli("train", large_frames, "-o", run, "--resume", "--epochs", 1, *tiny_options, code=2)
    assert "tile" in result.stderr


@pytest.mark.slow
def test_frames_of_several_sizes_need_the_cameras(large_frames, cli, tiny_options, tmp_path):
    mixed = shutil.copytree(large_frames, tmp_path / "mixed")
    Image.new("L", (200, 100), 77).save(mixed / "train/good/900.png")
    cli("train", mixed, "-o", tmp_path / "run", "--tile", TILE, "--odd-images", "keep", "--epochs", 1, *tiny_options)
    result = cli("export", tmp_path / "run", "-o", tmp_path / "no.kdx", code=2)
    assert "--frame" in result.stderr
    cli("export", tmp_path / "run", "-o", tmp_path / "yes.kdx", "--frame", "100x200")


def test_a_run_on_frames_of_several_sizes_is_no_detector(tiled, tmp_path):
    run = shutil.copytree(tiled / "run", tmp_path / "a run")
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    (run / "run.json").write_text(json.dumps({**record, "frame": None}), encoding="utf-8")
    with pytest.raises(OptionError, match="trained on tiles of frames of several sizes") as caught:
        kdx.load(run)
    assert caught.value.fix.endswith(f"kdx export '{run}' -o NAME.kdx --frame HxW")
