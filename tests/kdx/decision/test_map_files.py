"""Maps and masks as other programs read them back: right values at the right places."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from kdx.decision.map_files import MapFiles, MapPlace, encode_map, map_format
from kdx.decision.regions import find_regions
from kdx.decision.verdict import Decision, Reason, Verdict
from kdx.errors import OptionError
from kdx.imaging.field_of_view import FieldOfView

RNG = np.random.default_rng(4)
# A map of 12 × 20 in an image of 90 × 160, of which the networks see the middle 80 %.
WIDTH, HEIGHT, SHARE = 160, 90, 0.8
PLACE = MapPlace(WIDTH, HEIGHT, FieldOfView(SHARE))


def verdict(values: np.ndarray, threshold: float | None = 0.5, reason: Reason | None = None) -> Verdict:
    decision = Decision.UNDECIDED if reason else Decision.DEFECTIVE
    return Verdict(decision, float(values.max()), threshold, values, threshold, reason=reason)


def random_map() -> np.ndarray:
    return RNG.random((12, 20), np.float32)


def test_numpy_reads_the_values():
    values = random_map()
    content, scale = encode_map(verdict(values), PLACE, "npy")
    read = np.load(io.BytesIO(content))
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, values)
    assert scale == 1


def test_a_tiff_has_the_values_and_shows_imagej_the_places():
    tifffile = pytest.importorskip("tifffile")
    values = random_map()
    content, scale = encode_map(verdict(values), PLACE, "tiff")
    assert scale == 1
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        (page,) = file.pages
        assert (page.dtype, page.shape, page.compression.name) == (np.float32, values.shape, "NONE")
        np.testing.assert_array_equal(page.asarray(), values)
        assert file.is_imagej
        told = file.imagej_metadata
        across, down = (tag[1] / tag[0] for tag in (page.tags["XResolution"].value, page.tags["YResolution"].value))
    assert (told["unit"], told["min"], told["max"]) == ("px", 0.0, 1.0)
    assert (across, down) == pytest.approx((SHARE * WIDTH / 20, SHARE * HEIGHT / 12), rel=1e-6)
    # ImageJ's place of a pixel: (pixel - origin) × size of a pixel.
    left, top = -told["xorigin"] * across, -told["yorigin"] * down
    assert (left, top) == pytest.approx((16, 9), rel=1e-6)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), values)


@pytest.mark.parametrize("highest", [0.9, 7.0, 0.0])
def test_a_png_says_its_scale(highest):
    values = np.linspace(0, highest, 240, dtype=np.float32).reshape(12, 20)
    for threshold in (0.5, None):
        content, scale = encode_map(verdict(values, threshold), PLACE, "png")
        picture = Image.open(io.BytesIO(content))
        stored = np.asarray(picture)
        assert picture.mode.startswith("I")
        np.testing.assert_allclose(stored * scale, values, rtol=0, atol=scale / 2 + 1e-7)
        # Good parts share one scale, twice the threshold; nothing is cut off above it.
        full = max(highest, 2 * (threshold or 0.0))
        assert scale == pytest.approx(full / 65535 if full else 1.0)


def test_a_mask_is_what_the_regions_are():
    values = np.zeros((12, 20), np.float32)
    values[3:6, 4:9], values[10, 17] = 0.7, 0.9
    mask = PLACE.mask(values, 0.5)
    assert (mask.shape, mask.dtype, set(np.unique(mask))) == ((HEIGHT, WIDTH), np.uint8, {0, 255})
    regions = find_regions(values, 0.5, (HEIGHT, WIDTH), view=FieldOfView(SHARE))
    assert len(regions) == 2
    expected = np.zeros_like(mask)
    for region in regions:
        rows, columns = np.arange(HEIGHT) + 0.5, np.arange(WIDTH) + 0.5
        inside = (rows >= region.top) & (rows < region.top + region.height)
        across = (columns >= region.left) & (columns < region.left + region.width)
        expected[np.ix_(inside, across)] = 255
    np.testing.assert_array_equal(mask, expected)
    everywhere = PLACE.mask(np.ones((12, 20), np.float32), 0.5)
    assert not everywhere[:9].any()  # the networks do not see it
    assert everywhere[9:81, 16:144].all()


def test_a_mask_stays_in_the_window_that_the_networks_see():
    place = MapPlace(WIDTH, HEIGHT, FieldOfView(1.0, (100, 20, 40, 60)))
    mask = place.mask(np.ones((12, 20), np.float32), 0.5)
    assert mask[20:80, 100:140].all()
    assert mask.sum() == 255 * 40 * 60
    assert place.steps((12, 20)) == (5.0, 2.0)


def test_files_of_one_stem_and_of_one_name_lie_apart(tmp_path):
    files = MapFiles(tmp_path, "png", masks=True)
    names = ["a.png", "a.jpg", "b/a.png", "a.png.png"]
    targets = [target for name in names for target in files.targets(name).values()]
    assert len(set(targets)) == 12
    written = files.write("b/a.png", verdict(random_map()), PLACE)
    assert written == {"map": tmp_path / "maps/b/a.png.png", "mask": tmp_path / "masks/b/a.png.png"}
    about = json.loads((tmp_path / "maps/b/a.png.json").read_text(encoding="utf-8"))
    assert about["covers"] == {"left": 16.0, "top": 9.0, "right": 144.0, "bottom": 81.0}
    assert (about["image"], about["map"]) == ("b/a.png", "a.png.png")
    assert set(targets) >= {path for path in tmp_path.rglob("*") if path.is_file()}
    assert about["image_size"] == {"width": WIDTH, "height": HEIGHT}
    assert about["scale"] == pytest.approx(1.0 / 65535)
    with Image.open(written["mask"]) as mask:
        assert (mask.mode, mask.size) == ("L", (WIDTH, HEIGHT))


def test_an_invalid_answer_has_no_files(tmp_path):
    values = random_map()
    values[0, 0] = np.nan
    files = MapFiles(tmp_path, "png", masks=True)
    assert files.write("a.png", verdict(values, reason=Reason.NOT_FINITE), PLACE) == {}
    assert not list(tmp_path.iterdir())
    files.write("a.png", verdict(random_map()), PLACE)  # by an earlier call
    files.write("a.png", verdict(values, reason=Reason.NOT_FINITE), PLACE)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_frame_that_shows_no_part_has_a_map_and_no_mask(tmp_path):
    files, shown = MapFiles(tmp_path, "npy", masks=True), random_map()
    files.write("a.png", verdict(shown), PLACE)  # by an earlier call
    empty = shown / 8
    assert files.write("a.png", verdict(empty, reason=Reason.FRAME), PLACE) == {"map": tmp_path / "maps/a.png.npy"}
    np.testing.assert_array_equal(np.load(tmp_path / "maps/a.png.npy"), empty)
    assert not list((tmp_path / "masks").iterdir())


def test_an_unknown_format_is_named():
    with pytest.raises(OptionError, match=r"invalid `maps`(.|\n)*npy or tiff or png(.|\n)*bmp"):
        map_format("bmp")
