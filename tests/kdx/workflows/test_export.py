"""Options of an export that contradict each other, and what an export says of its bundle."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from kdx.bundle.manifest import SIGNATURE
from kdx.bundle.open import open_bundle
from kdx.calibration.by_hand import GivenThreshold
from kdx.calibration.rates import quantile_with_interval
from kdx.errors import OptionError
from kdx.imaging.tiling import TileRequest
from kdx.progress import SILENT
from kdx.workflows.calibrate import CalibrationRequest, calibrate_each
from kdx.workflows.export import export_run, first_rate, lost_with, seam_remarks


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        ({"input_size": (64, 64)}, "give `frame` and `tile`"),
        ({"max_batch": 4}, "give `tile_batch`"),
    ],
)
def test_options_of_whole_images_are_refused_for_tiles(tiny_run, tmp_path, options, fix):
    tiles = TileRequest(frame=(128, 128), tile=64)
    with pytest.raises(OptionError, match="is for whole images") as caught:
        export_run(tiny_run, tmp_path / "tile.kdx", progress=SILENT, tiles=tiles, **options)
    assert caught.value.fix == fix
    assert not (tmp_path / "tile.kdx").exists()


@pytest.fixture
def small(tmp_path, monkeypatch) -> Path:
    """An image of which no tile can be cut, and which is the only one that a run finds."""
    (tmp_path / "images").mkdir()
    path = tmp_path / "images/small.png"
    Image.new("L", (40, 200)).save(path)
    monkeypatch.setattr("kd_train.training.run_images.held_out_files", lambda *_: [path])
    monkeypatch.setattr("kd_train.training.run_images.training_files", lambda *_: [path])
    monkeypatch.setattr("kd_export.bundle_export.export_bundle", lambda *_, precisions, **__: (None, precisions, {}))
    return path


def test_precisions_are_refused_where_no_tile_can_be_cut(tiled, small, tmp_path, monkeypatch):
    options = {"progress": SILENT, "precisions": ("fp32", "bf16", "int8")}
    said = f"1 image is smaller than a tile: {small}; choose a smaller `tile`, or train on larger images"
    reason = f"it is judged on images that were held out of training: {said}"
    _, kept, refused = export_run(tiled / "run", tmp_path / "tile.kdx", **options)
    assert (kept, refused) == (["fp32"], {"bf16": reason, "int8": reason})
    monkeypatch.setattr("kd_train.training.run_images.held_out_files", lambda *_: [])
    _, kept, refused = export_run(tiled / "run", tmp_path / "tile.kdx", **options)
    assert (kept, refused) == (["fp32", "bf16"], {"int8": said})


def test_seams_are_remarked_on_with_what_helps(tiled):
    manifest = open_bundle(tiled / "tile.kdx").manifest

    def said(asked: int | None, **changed: object) -> list[str]:
        tiling = msgspec.structs.replace(manifest.tiling, **changed)
        return [str(each) for each in seam_remarks(msgspec.structs.replace(manifest, tiling=tiling), asked)]

    larger = "train on a larger `tile`, or with shallower taps"
    less = "leave out `overlap`, and what these networks need is measured"
    assert said(None, seam=0.01) == []
    assert said(None, seam=0.123, rows=[0], columns=[0]) == []
    assert seam_remarks(msgspec.structs.replace(manifest, tiling=None), None) == []
    (plain,) = said(None, seam=0.123, overlap=32, halo=16)
    assert plain == (
        f"{manifest.tiling.count} tiles of a frame may show seams: even 16 pixels from its edge a tile's map is off by "
        f"up to 12.3 % of its range; {larger}"
    )
    assert larger in said(40, seam=0.123, overlap=40, halo=16)[0]
    assert less in said(32, seam=0.123, overlap=32, halo=16)[0]
    assert less in said(0, seam=0.123, overlap=0, halo=0)[0]


@pytest.mark.slow
def test_a_chosen_overlap_that_shows_seams_is_noted(tiled, cli, tmp_path):
    command = ("export", tiled / "run", "-o", tmp_path / "tile.kdx", "--overlap", 0)
    (note,) = [each for each in cli(*command, "--json").json["remarks"] if each["kind"] == "seams"]
    assert "leave out --overlap" in note["text"]
    shown = cli(*command, "--force")
    assert "tiles of a frame may show seams" in shown.stderr
    assert "of their range where tiles meet" in shown.stdout


@pytest.mark.parametrize(("images", "rate"), [(0, 0.01), (1, 0.5), (6, 0.15), (98, 0.011), (99, 0.01), (200, 0.01)])
def test_the_rate_to_begin_with_is_one_that_the_held_out_images_can_promise(run_copy, images, rate):
    path = run_copy / "run.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["validation_images"] = {f"{index}.png": f"{index:064x}" for index in range(images)}
    path.write_text(json.dumps(record), encoding="utf-8")
    assert first_rate(run_copy) == rate
    if images:
        quantile_with_interval(np.arange(images, dtype=float), rate)


@pytest.mark.slow
def test_what_is_gone_with_a_replaced_bundle_is_named(tiny_run, bundle_copy, raw_bundle, cli):
    threshold = open_bundle(bundle_copy).manifest.threshold.score
    (bundle_copy / SIGNATURE).write_text("{}", encoding="utf-8")
    (said,) = lost_with(bundle_copy)
    assert str(said) == (
        "2 things of the replaced bundle are gone, and parts are undecided until kdx calibrate: "
        f"threshold {threshold:.4g}, signature"
    )
    (said,) = lost_with(bundle_copy, ())  # its place is taken by a calibrated one
    assert str(said) == "1 thing of the replaced bundle is gone: signature"
    assert lost_with(raw_bundle) == lost_with(bundle_copy / "none") == []
    (bundle_copy / SIGNATURE).unlink()
    cli("export", tiny_run, "-o", bundle_copy, code=2)
    told = cli("export", tiny_run, "-o", bundle_copy, "--force", "--json").json["remarks"]
    assert [each["first"] for each in told if each["kind"] == "gone_with_replaced"] == [[f"threshold {threshold:.4g}"]]


def test_what_a_person_set_is_gone_with_a_calibrated_bundle_too(bundle_copy, cells):
    for given in (None, GivenThreshold(0.42, None, "as on line 3")):
        request = CalibrationRequest(0.2, per_position=True, backend="onnxruntime-cpu", by_hand=given)
        calibrate_each(open_bundle(bundle_copy), sorted(cells.iterdir()), request)
    (bundle_copy / "engines/orin").mkdir(parents=True)
    (said,) = lost_with(bundle_copy, ())
    assert said.first == ("threshold 0.42 set by hand", "level map", "engine orin")
    (said,) = lost_with(bundle_copy, open_bundle(bundle_copy).manifest.files)
    assert said.first == ("threshold 0.42 set by hand", "engine orin")


@pytest.mark.slow
def test_a_window_at_another_scale_than_the_training_images_is_named(tiny_run, cli, tmp_path):
    window = ("--input-size", "96x128", "--crop", "32,16,32,32")
    result = cli("export", tiny_run, "-o", tmp_path / "tile.kdx", *window)
    assert "1 window has other sides than the training images, 64x64" in result.stderr
    assert "--crop of 32x32" in result.stderr
