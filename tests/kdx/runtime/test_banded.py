"""Frames read in bands: the same pixels, regions and verdicts as of frames in memory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from PIL import Image

import kdx
from kd_train.training.tiled_detector import are_tiles_asked
from kdx.bundle.manifest import CROP_SCHEMA, INDEX
from kdx.bundle.open import open_bundle
from kdx.bundle.store import write_manifest
from kdx.decision.band_regions import BandRegions
from kdx.decision.map_files import MapPlace, encode_map
from kdx.decision.overlay import heat_layer, render_overlay
from kdx.decision.regions import find_regions, regions_of
from kdx.decision.rule import DecisionRule
from kdx.errors import ImageError, InputError, OptionError
from kdx.imaging.bands import BandedFrame, checked_pixels
from kdx.imaging.field_of_view import WHOLE
from kdx.imaging.frame_faults import faults_of, values_of
from kdx.imaging.images import InputSpec
from kdx.imaging.tiling import TileRequest
from kdx.runtime.detector import Detector
from kdx.workflows.export import require_sizes
from kdx.workflows.repeat import repeat

tifffile = pytest.importorskip("tifffile")

HEIGHT, WIDTH = 600, 530
LAYOUTS = ({"rowsperstrip": 7}, {"rowsperstrip": 600}, {"tile": (64, 48)}, {"tile": (32, 32), "compression": "zlib"})

XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'


def pixels_of(channels: int) -> np.ndarray:
    rng = np.random.default_rng(channels)
    return rng.integers(0, 256, (HEIGHT, WIDTH, channels)).astype(np.uint8)


def write(path: Path, pixels: np.ndarray, **layout: object) -> Path:
    photometric = "rgb" if pixels.shape[-1] == 3 else "minisblack"
    tifffile.imwrite(path, pixels[..., 0] if pixels.shape[-1] == 1 else pixels, photometric=photometric, **layout)
    return path


# Pixels


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_bands_hold_the_pixels_of_the_file(tmp_path, layout, channels):
    pixels = pixels_of(channels)
    spec = InputSpec(height=HEIGHT, width=WIDTH, channels=channels, channel_order="bgr" if channels == 3 else "rgb")
    path = write(tmp_path / "frame.tif", pixels, **layout)
    whole = kdx.read_image(path, spec)
    with BandedFrame(path, spec) as frame:
        for top in (0, 0, 30, 200, 201, 500):
            rows, columns = slice(top, top + 100), slice(17, 170)
            assert (frame[rows, columns] == whole[rows, columns]).all()
            assert len(frame._rows) <= 100 + max(layout.get("rowsperstrip", 0), 64)
        samples = frame.samples
    assert values_of(samples) == values_of(whole)
    assert (checked_pixels(path, msgspec.structs.replace(spec, bands=True)) == samples).all()
    assert (checked_pixels(path, spec) == whole).all()


def test_tables_that_jpeg_strips_share_reach_the_decoder(tmp_path):
    path = write(tmp_path / "frame.tif", pixels_of(1), rowsperstrip=50)
    with BandedFrame(path, InputSpec(height=HEIGHT, width=WIDTH, channels=1)) as frame:
        page, given = frame._page, []
        decode = page.decode
        page.jpegtables, page.jpegheader = b"tables", b"header"

        class Moving(type(page)):
            """Finds its decoder as that of JPEG does: it reads elsewhere in the file."""

            @property
            def decode(self):
                self.parent.filehandle.seek(0)
                return lambda *place, **options: given.append(options) or decode(*place)

        page.__class__ = Moving
        assert (frame[0:100, 0:WIDTH] == pixels_of(1)[:100]).all()
    assert given == [{"jpegtables": b"tables", "jpegheader": b"header"}] * 2


def test_jpeg_strips_that_share_tables_are_read(tmp_path):
    pytest.importorskip("imagecodecs")
    path = tmp_path / "frame.tif"
    smooth = np.add.outer(np.arange(HEIGHT), np.arange(WIDTH)) // 5
    Image.fromarray(smooth.astype(np.uint8)).save(path, compression="jpeg", strip_size=1 << 15)
    spec = InputSpec(height=HEIGHT, width=WIDTH, channels=1)
    with BandedFrame(path, spec) as frame:
        assert frame._page.jpegtables
        assert frame._height < HEIGHT
        difference = frame[0:HEIGHT, 0:WIDTH].astype(int) - kdx.read_image(path, spec)
    assert np.abs(difference).max() <= 1  # two decoders


def test_samples_of_a_frame_are_its_own_samples():
    frame = pixels_of(1)
    for height in (100, 255, 256, 511, 512, 600):
        part = np.ascontiguousarray(frame[:height])
        down = max(1, height // 256)
        assert values_of(part[::down, :: WIDTH // 256]) == values_of(part)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dtype": np.uint16}, "cannot be read in bands"),
        ({"size": (HEIGHT, WIDTH - 1)}, "cannot be read in bands"),
        ({"pages": 2}, "cannot be read in bands"),
        ({"cut": 2000}, "is damaged"),
        ({"text": b"II*\0"}, "is not a readable TIFF"),
        ({"text": b"no image"}, "is not a readable TIFF"),
        ({"text": None}, "is not a readable TIFF"),
    ],
    ids=str,
)
def test_files_that_cannot_be_read_in_bands_are_refused(tmp_path, options, said):
    path = tmp_path / "frame.tif"
    pixels = np.zeros(options.get("size", (HEIGHT, WIDTH)), options.get("dtype", np.uint8))
    if "text" not in options:
        for _ in range(options.get("pages", 1)):
            tifffile.imwrite(path, pixels, append=path.exists(), rowsperstrip=50, photometric="minisblack")
    elif options["text"] is not None:
        path.write_bytes(options["text"])
    if "cut" in options:
        tifffile.imwrite(path, pixels_of(1)[..., 0], rowsperstrip=50, compression="zlib")
        path.write_bytes(path.read_bytes()[: -options["cut"]])
    with (
        pytest.raises(ImageError, match=said),
        BandedFrame(path, InputSpec(height=HEIGHT, width=WIDTH, channels=1)) as f,
    ):
        f[0:HEIGHT, 0:WIDTH]


@pytest.mark.parametrize(
    ("channels", "options", "said"),
    [
        (1, {"photometric": "miniswhite"}, "MINISWHITE"),
        (1, {"photometric": "rgb"}, "3 samples of 8 bits, RGB"),
        (1, {"photometric": "minisblack", "dtype": np.int8}, "MINISBLACK, int8"),
        (3, {"photometric": "rgb", "planarconfig": "separate"}, "planar configuration SEPARATE"),
        (1, {"photometric": "minisblack", "extratags": [(274, "H", 1, 6, True)]}, "orientation 6"),
        (1, {"photometric": "minisblack", "extratags": [(700, "B", len(XMP), XMP, True)]}, "orientation 8"),
    ],
    ids=str,
)
def test_a_refusal_says_what_is_unusual_about_the_file(tmp_path, channels, options, said):
    samples = 3 if options["photometric"] == "rgb" else 1
    pixels = np.zeros((HEIGHT, WIDTH, samples), options.get("dtype", np.uint8))
    pixels = np.moveaxis(pixels, 2, 0) if "planarconfig" in options else pixels.squeeze()
    tifffile.imwrite(tmp_path / "frame.tif", pixels, rowsperstrip=50, **options)
    with pytest.raises(ImageError) as caught:
        BandedFrame(tmp_path / "frame.tif", InputSpec(height=HEIGHT, width=WIDTH, channels=channels))
    assert said in caught.value.received
    assert said not in caught.value.expected


def test_another_format_of_such_a_frame_is_named(tmp_path):
    spec = InputSpec(height=20_000, width=10_000, channels=1, bands=True)
    Image.new("L", (8, 8)).save(tmp_path / "frame.png")
    with pytest.raises(ImageError, match="cannot be read whole") as caught:
        kdx.read_image(tmp_path / "frame.png", spec)
    assert caught.value.expected == "a TIFF file of 10000 × 20000 pixels, in strips or tiles"
    with pytest.raises(ImageError, match="does not exist"):
        kdx.read_image(tmp_path / "none.png", spec)


# Regions


@pytest.mark.parametrize("seed", range(8))
def test_regions_of_bands_are_those_of_the_whole_map(seed):
    rng = np.random.default_rng(seed)
    anomaly_map = rng.random((60, 40)).astype(np.float32)
    anomaly_map[rng.integers(0, 60)] = 0.99  # equal peaks, and a region as wide as the map
    threshold = (0.4, 0.55, 0.7, 0.9)[seed % 4]
    found, first = BandRegions(threshold), 0
    while first < 60:
        step = int(rng.integers(1, 9))
        found.add(first, anomaly_map[first : first + step])
        first += step
    ours = regions_of(found.patches, anomaly_map.shape, (120, 80), min_area=8.0, pixel_size_um=20.0)
    assert ours == find_regions(anomaly_map, threshold, (120, 80), min_area=8.0, pixel_size_um=20.0)


# Verdicts


@pytest.fixture
def in_bands(tiled, tmp_path) -> Path:
    bundle = open_bundle(Path(shutil.copytree(tiled / "tile.kdx", tmp_path / "banded.kdx")))
    tiling = msgspec.structs.replace(bundle.manifest.tiling, bands=True)
    manifest = msgspec.structs.replace(bundle.manifest, tiling=tiling)
    return write_manifest(bundle.path, msgspec.structs.replace(manifest, schema=manifest.needed_schema)).path


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS[:1] + LAYOUTS[2:3], ids=str)
def test_verdicts_in_bands_equal_those_in_memory(cli, in_bands, tiled, large_frames, tmp_path, layout):
    assert json.loads((in_bands / INDEX).read_text(encoding="utf-8"))["schema"] == CROP_SCHEMA
    with kdx.load(in_bands, "onnxruntime-cpu", 1) as ours, kdx.load(tiled / "tile.kdx", "onnxruntime-cpu", 1) as whole:
        for name in ("test/good/000.png", "test/scratch/000.png"):
            image = kdx.read_image(large_frames / name, whole.input)
            (tmp_path / "parts").mkdir(exist_ok=True)
            path = write(tmp_path / f"parts/{Path(name).parent.name}.tif", image, **layout)
            judged, expected = ours.judge_file(path), whole(image)
            assert (judged.verdict.score, judged.verdict.decision) == (expected.score, expected.decision)
            assert judged.verdict.frame_faults == expected.frame_faults == faults_of(judged.samples, ours.frame_limits)
            assert (judged.verdict.anomaly_map[:, 0] == expected.anomaly_map.max(axis=1)).all()
            assert judged.regions == whole.regions(expected)
    files = [tmp_path / "parts/good.tif", tmp_path / "parts/scratch.tif"]
    records = cli("predict", in_bands, *files, "--regions", "--json", code=None).lines
    plain = cli("predict", tiled / "tile.kdx", *files, "--regions", "--json", code=None).lines
    assert [each["score"] for each in records] == [each["score"] for each in plain]
    assert [each["regions"] for each in records] == [each["regions"] for each in plain]
    refused = cli("predict", in_bands, *files, "--overlay", tmp_path / "heat", code=2).stderr
    assert "never whole in the memory" in refused


@pytest.mark.slow
def test_a_bundle_in_bands_is_calibrated_like_another(cli, in_bands, tiled, large_frames, tmp_path):
    (tmp_path / "frames").mkdir()
    for index, path in enumerate(sorted((large_frames / "test/good").glob("*.png"))):
        write(tmp_path / f"frames/{index}.tif", np.asarray(Image.open(path))[..., None], rowsperstrip=9)
    for bundle in (in_bands, shutil.copytree(tiled / "tile.kdx", tmp_path / "plain.kdx")):
        cli("calibrate", bundle, tmp_path / "frames", "--false-reject-rate", 0.5)
    ours, plain = (open_bundle(path).manifest for path in (in_bands, tmp_path / "plain.kdx"))
    assert (ours.threshold.score, ours.threshold.pixel) == (plain.threshold.score, plain.threshold.pixel)
    assert ours.frame_limits == plain.frame_limits


@pytest.fixture
def frames(large_frames, tmp_path) -> Path:
    """The test images of the large frames as TIFF files, with the masks."""
    folder = tmp_path / "frames"
    shutil.copytree(large_frames / "ground_truth", folder / "ground_truth")
    for path in sorted((large_frames / "test").rglob("*.png")):
        target = folder / path.relative_to(large_frames).with_suffix(".tif")
        target.parent.mkdir(parents=True, exist_ok=True)
        write(target, np.asarray(Image.open(path))[..., None], tile=(64, 48))
    return folder


@pytest.mark.slow
def test_figures_in_bands_are_those_of_the_scores_alone(cli, in_bands, tiled, frames, large_frames):
    plain = cli("evaluate", tiled / "tile.kdx", large_frames, "--backend", "onnxruntime-cpu", "--json").json
    found = cli("evaluate", in_bands, frames, "--backend", "onnxruntime-cpu", "--json").json
    assert list(found["scores"].values()) == list(plain["scores"].values())
    for name in ("image_auroc", "false_reject_rate", "detection_rate", "good", "defective", "bands"):
        assert found[name] == plain[name]
    assert plain["pixel_auroc"] is not None
    assert (found["pixel_auroc"], found["pro"], found["masks"]) == (None, None, None)
    (said,) = [each for each in found["remarks"] if each["kind"] == "no_pixel_figures"]
    assert said["count"] == 6
    shown = cli("evaluate", in_bands, frames)
    assert "6 images have no pixel AUROC and no PRO" in shown.stderr
    assert "no masks were found" not in shown.stdout


@pytest.mark.slow
def test_scores_tables_and_boxes_are_written_in_bands(cli, in_bands, frames, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    images, out = frames / "test", tmp_path / "scores"
    (images / "torn.tif").write_bytes(b"no image")
    options = ("--max-bad-images", 1, "--backend", "onnxruntime-cpu", "-o", tmp_path / "out", "--csv")
    said = cli("predict", in_bands, images, *options, "--coco", "--yolo", "--regions", "--json").lines
    by_name = {Path(each["image"]).relative_to(images).as_posix(): each for each in said if "score" in each}
    assert len(by_name) == 6
    document = json.loads((tmp_path / "out/regions.coco.json").read_text(encoding="utf-8"))
    for image in document["images"]:
        found = [each["bbox"] for each in document["annotations"] if each["image_id"] == image["id"]]
        regions = by_name[image["file_name"]]["regions"]
        assert found == [[each[key] for key in ("left", "top", "width", "height")] for each in regions]
        labels = (tmp_path / "out/labels" / image["file_name"]).with_suffix(".txt").read_text(encoding="ascii")
        assert len(labels.splitlines()) == len(regions)
    assert any(each["regions"] for each in by_name.values())
    for command, kind in (("predict", "--maps=npy"), ("predict", "--masks"), ("score", "--masks"), ("score", "--coco")):
        refused = cli(command, in_bands, images, "-o", tmp_path / "none", kind, code=2).stderr
        assert "never whole in the memory" in refused
        assert f"received: {kind.partition('=')[0]}\n" in refused
    local = ("--backend", "onnxruntime-cpu", "--workers", 1, "--batch", 4, "--max-bad-share", 0.5)
    cli("score", in_bands, images, "-o", out, *local)
    rows = [row for file in sorted((out / "shards").iterdir()) for row in parquet.read_table(file).to_pylist()]
    assert [row["path"] for row in rows if row["error"]] == ["torn.tif"]
    assert {row["path"]: row["score"] for row in rows if not row["error"]} == {
        name: each["score"] for name, each in by_name.items()
    }


@pytest.mark.slow
def test_a_part_is_studied_in_bands(in_bands, frames, tmp_path):
    part = tmp_path / "part"
    part.mkdir()
    pixels = np.asarray(Image.open(frames / "test/good/000.tif")).astype(int)
    for index in range(10):
        noisy = pixels + np.random.default_rng(index).integers(-2, 3, pixels.shape)
        write(part / f"{index}.tif", noisy.clip(0, 255).astype(np.uint8)[..., None], rowsperstrip=40)
    found = repeat(in_bands, part, "onnxruntime-cpu")
    with kdx.load(in_bands, "onnxruntime-cpu", 1) as detector:
        assert found.repetitions[3].score == detector.judge_file(part / "3.tif").verdict.score


def test_the_largest_values_of_rows_are_no_map():
    rows = np.ones((600, 1), np.float32)
    verdict = DecisionRule(threshold=0.5, pixel_threshold=0.5).verdict(rows, np.ones(1, np.float32))
    place = MapPlace(WIDTH, HEIGHT, WHOLE)
    uses = (
        lambda: find_regions(rows, 0.5, (HEIGHT, WIDTH)),
        lambda: Detector.regions(SimpleNamespace(input=InputSpec(height=HEIGHT, width=WIDTH), view=WHOLE), verdict),
        lambda: place.mask(rows, 0.5),
        lambda: encode_map(verdict, place, "npy"),
        lambda: heat_layer(rows, (WIDTH, HEIGHT), 0.5),
        lambda: render_overlay(pixels_of(1), verdict, "frame.tif"),
    )
    for use in uses:
        with pytest.raises(InputError, match="read in bands") as caught:
            use()
        assert caught.value.fix == "use the regions that judge_file returned"


@pytest.mark.slow
def test_commands_that_need_whole_frames_refuse_bundles_in_bands(cli, in_bands, large_frames, tmp_path):
    mask = tmp_path / "mask.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(mask)
    for command in (
        ("report", in_bands, large_frames, "-o", tmp_path / "page.html"),
        ("roi", in_bands, "--from-images", large_frames, "-o", tmp_path / "roi.png"),
        ("roi", in_bands, "--set", mask),
        ("calibrate", in_bands, large_frames, "--false-reject-rate", 0.5, "--per-position"),
        ("bench", in_bands),
        ("bench", in_bands, "--budget-ms", 5),
    ):
        refused = cli(*command, code=2).stderr
        assert f"kdx {command[0]}" in refused
        assert "reads whole frames" in refused
        assert "use kdx predict, watch, score" in refused


@pytest.mark.slow
def test_of_frames_in_bands_the_self_test_times_tiles(cli, in_bands, monkeypatch):
    monkeypatch.setattr("kdx.bundle.bundle.Bundle.camera_images", None)  # the frame may be larger than the memory
    tiles = open_bundle(in_bands).manifest.tiling.count
    command = ("selftest", in_bands, "--backend", "onnxruntime-cpu")
    result = cli(*command, "--json").json
    assert result["passed"]
    assert f"with 2 of the {tiles} tiles of a frame" in result["checks"][2]["said"]
    assert "no verdict was timed" in result["checks"][2]["said"]
    refused = cli(*command, "--budget-ms", 5, code=2).stderr
    assert "the time of a verdict cannot be compared with --budget-ms" in refused
    assert "stages" in cli("bench", in_bands, "--profile", "--runs", 1, "--warm-up", 1, "--json").json


def test_only_tiles_are_judged_in_bands(tiny_bundle, tmp_path):
    with kdx.load(tiny_bundle, "onnxruntime-cpu", 1) as detector, pytest.raises(InputError, match="cut into tiles"):
        detector.judge_file(tmp_path / "frame.tif")


def test_large_frames_are_exported_for_bands_alone():
    with pytest.raises(OptionError, match="larger than the images that are read whole") as caught:
        require_sizes(None, (16384, 16384))
    assert "bands" in caught.value.fix
    require_sizes(None, (16384, 131072), bands=True)
    require_sizes((131072, 2048), (32768, 4096))  # a line scan
    with pytest.raises(OptionError, match="`input_size` is out of range") as caught:
        require_sizes((131072, 4096), None)
    assert caught.value.expected == "at most 268,435,456 pixels"
    for frame in ((16384, 131073), (16384, 7)):
        with pytest.raises(OptionError, match="`frame` is out of range"):
            require_sizes(None, frame, bands=True)
    large = InputSpec(height=131072, width=131072, bands=True)
    with pytest.raises(InputError, match="too large"):
        msgspec.structs.replace(large, bands=msgspec.UNSET)
    with pytest.raises(OptionError, match="frames that are cut into tiles"):
        are_tiles_asked(SimpleNamespace(frame=None, tile=None), TileRequest(bands=True))
