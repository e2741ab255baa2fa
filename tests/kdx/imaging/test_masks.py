"""Defect masks: which file is whose, what in it is a defect, and that nothing vanishes on the way
to a map's size."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdx.errors import DataError, ImageError
from kdx.folders.data_folder import open_folder
from kdx.imaging.field_of_view import FieldOfView
from kdx.imaging.masks import pair_by_name, read_mask
from kdx.imaging.resampling import any_within
from tests.tiff import tiff

MARKED = np.zeros((6, 8), bool)
MARKED[1, 2] = MARKED[4, 3:7] = True


def written(path: Path, values: np.ndarray, **options) -> Path:
    Image.fromarray(values).save(path, **options)
    return path


# What is a defect


@pytest.mark.parametrize("kind", ["png", "tif", "bmp", "gif", "pgm"])
@pytest.mark.parametrize("value", [1, 3, 128, 255])
def test_whatever_is_not_zero_is_defective(tmp_path, kind, value):
    file = written(tmp_path / f"m.{kind}", MARKED.astype(np.uint8) * np.uint8(value))
    np.testing.assert_array_equal(read_mask(file), MARKED)


@pytest.mark.parametrize("kind", ["png", "tif", "pgm"])
@pytest.mark.parametrize("value", [1, 255, 256, 65535])
def test_sixteen_bits_are_looked_at_before_any_scaling(tmp_path, kind, value):
    file = written(tmp_path / f"m.{kind}", MARKED.astype(np.uint16) * np.uint16(value))
    np.testing.assert_array_equal(read_mask(file), MARKED)


@pytest.mark.parametrize("colour", [(1, 0, 0), (0, 0, 1), (0, 1, 0), (255, 0, 0)])
@pytest.mark.parametrize("kind", ["png", "tif", "bmp"])
def test_any_channel_is_enough_however_dark(tmp_path, colour, kind):
    file = written(tmp_path / f"m.{kind}", MARKED[..., None] * np.array(colour, np.uint8))
    np.testing.assert_array_equal(read_mask(file), MARKED)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint32, np.float32])
@pytest.mark.parametrize("value", [1, -1, 0.001])
def test_wide_numbers_are_compared_with_zero(tmp_path, dtype, value):
    values = (MARKED * value).astype(dtype) if np.can_cast(type(value), dtype, "same_kind") else MARKED.astype(dtype)
    (tmp_path / "m.tif").write_bytes(tiff((values, {})))
    np.testing.assert_array_equal(read_mask(tmp_path / "m.tif"), MARKED)


def test_one_bit_masks(tmp_path):
    Image.fromarray(MARKED).save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), MARKED)


@pytest.mark.parametrize("kind", ["png", "gif", "tif", "bmp"])
@pytest.mark.parametrize("colours", [[(0, 0, 0), (1, 0, 0)], [(255, 255, 255), (0, 0, 0)], [(0, 0, 0), (128, 0, 0)]])
def test_of_a_palette_the_colours_count(tmp_path, kind, colours):
    defect = next(index for index, colour in enumerate(colours) if any(colour))
    image = Image.fromarray(np.where(MARKED, defect, 1 - defect).astype(np.uint8), "P")
    image.putpalette([value for colour in colours for value in colour])
    image.save(tmp_path / f"m.{kind}")
    np.testing.assert_array_equal(read_mask(tmp_path / f"m.{kind}"), MARKED)


def test_a_palette_in_which_the_defects_are_black_too_is_refused(tmp_path):
    image = Image.fromarray(MARKED.astype(np.uint8), "P")
    image.putpalette([0, 0, 0, 0, 0, 0])
    image.save(tmp_path / "m.png")
    with pytest.raises(ImageError, match="several palette entries that are black"):
        read_mask(tmp_path / "m.png")


def test_opaque_alpha_marks_nothing_and_any_other_is_refused(tmp_path):
    values = np.dstack([MARKED * np.uint8(255)] * 3 + [np.full(MARKED.shape, 255, np.uint8)])
    np.testing.assert_array_equal(read_mask(written(tmp_path / "m.png", values)), MARKED)
    values[..., 3] = MARKED * 255
    with pytest.raises(ImageError, match="has transparent pixels"):
        read_mask(written(tmp_path / "m.png", values))


def test_a_mask_is_turned_as_its_own_tag_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    file = written(tmp_path / "m.png", np.rot90(MARKED).astype(np.uint8), exif=exif)
    np.testing.assert_array_equal(read_mask(file, (8, 6)), MARKED)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("m.jpg", {}, "JPEG"),
        ("m.png", {"format": "JPEG"}, "JPEG"),
        ("m.webp", {"quality": 90}, "lossy WebP"),
        ("m.tif", {"compression": "jpeg"}, "TIFF with jpeg compression"),
    ],
)
def test_lossy_masks_are_refused(tmp_path, name, options, said):
    file = written(tmp_path / name, np.kron(MARKED, np.ones((8, 8), bool)).astype(np.uint8) * 255, **options)
    with pytest.raises(ImageError, match="is in a lossy format") as caught:
        read_mask(file)
    assert caught.value.received == said


@pytest.mark.parametrize("exif", [b"", Image.Exif()])
def test_lossless_webp_is_read(tmp_path, exif):
    values = np.kron(MARKED, np.ones((4, 4), bool)).astype(np.uint8) * 255
    file = written(tmp_path / "m.webp", np.dstack([values] * 3), lossless=True, exif=exif)
    np.testing.assert_array_equal(read_mask(file), values > 0)


def test_kinds_whose_zeros_nobody_knows_are_refused(tmp_path):
    (tmp_path / "m.tif").write_bytes(tiff((np.dstack([MARKED.astype(np.uint16)] * 3), {})))
    with pytest.raises(ImageError, match="16-bit colour"):
        read_mask(tmp_path / "m.tif")
    Image.fromarray(MARKED.astype(np.uint8)).convert("CMYK").save(tmp_path / "m.tif")
    with pytest.raises(ImageError, match="CMYK"):
        read_mask(tmp_path / "m.tif")


def test_a_mask_of_another_size_than_its_image(tmp_path):
    file = written(tmp_path / "m.png", MARKED)
    with pytest.raises(ImageError, match="another size than its image"):
        read_mask(file, (8, 7))
    with pytest.raises(ImageError, match="another size") as caught:
        read_mask(file, (6, 8))
    assert "EXIF orientation" in caught.value.fix


# Nothing vanishes


@pytest.mark.parametrize("side", [1, 2, 3, 5])
def test_small_defects_survive_the_reduction(side):
    rng = np.random.default_rng(side)
    for _ in range(50):
        mask = np.zeros((768, 768), bool)
        row, column = rng.integers(0, 768 - side, 2)
        mask[row : row + side, column : column + side] = True
        cells = any_within(mask, (64, 64))
        expected = mask.reshape(64, 12, 64, 12).any(axis=(1, 3))
        np.testing.assert_array_equal(cells, expected)
        assert cells.any()


@pytest.mark.parametrize("size", [(768, 768), (97, 61), (16, 16), (5, 7), (64, 100)])
@pytest.mark.parametrize("map_size", [(64, 64), (7, 5), (1, 1)])
def test_every_pixel_marks_a_cell_and_every_cell_its_own(size, map_size):
    """Also where the map is finer than the mask, and where neither divides the other."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        row, column = (int(rng.integers(0, length)) for length in size)
        mask = np.zeros(size, bool)
        mask[row, column] = True
        found = np.argwhere(any_within(mask, map_size))
        assert len(found)
        for axis, place in enumerate((row, column)):
            cell = size[axis] / map_size[axis]
            low, high = found[:, axis].min(), found[:, axis].max()
            assert low * cell <= place + 1e-6  # begins at or before the pixel
            assert place < (high + 1) * cell + 1e-6
            assert (low + 1) * cell > place - 1e-6
            assert high * cell < place + 1 + 1e-6


def test_only_what_the_map_covers_is_marked():
    mask = np.zeros((256, 256), bool)
    mask[:16] = True
    assert not any_within(mask, (28, 28), FieldOfView(224 / 256)).any()
    mask[16, 100] = True
    assert np.argwhere(any_within(mask, (28, 28), FieldOfView(224 / 256))).tolist() == [[0, 10]]


# Whose mask


def test_masks_are_found_by_name_whatever_the_suffixes():
    images = [Path(f"test/scratch/{name}") for name in ("a.png", "b.jpg", "C.TIF", "d.bmp", "e.png")]
    masks = [Path(f"gt/{name}") for name in ("a_mask.png", "b.bmp", "c_mask.tif", "D.PNG", "z.png")]
    paired = pair_by_name(images, masks)
    assert list(paired.masks.values()) == [*masks[:4], None]
    assert paired.unused == (masks[4],)


@pytest.mark.parametrize(
    ("images", "masks", "said"),
    [(["a.png"], ["a.png", "a_mask.png"], "two masks fit"), (["a.png", "a.jpg"], ["a.png"], "fits two images")],
)
def test_what_is_not_certain_is_refused(images, masks, said):
    with pytest.raises(DataError, match=said):
        pair_by_name([Path("test") / name for name in images], [Path("gt") / name for name in masks])


@pytest.mark.parametrize("kind", ["bmp", "tif", "png"])
def test_masks_of_other_names_and_formats_give_the_same_figures(cli, tiny_bundle, dataset, dataset_copy, kind):
    for mask in sorted((dataset_copy / "ground_truth/scratch").iterdir()):
        with Image.open(mask) as image:
            image.load()
        mask.unlink()
        image.save(mask.with_name(mask.stem.removesuffix("_mask") + f".{kind}"))
    first, second = (cli("evaluate", tiny_bundle, data, "--json").json for data in (dataset, dataset_copy))
    assert second["pixel_auroc"] == first["pixel_auroc"] is not None
    assert second["pro"] == first["pro"]


def test_masks_that_lie_beside_their_images_are_not_scored_as_images(dataset_copy):
    for mask in (dataset_copy / "ground_truth/scratch").iterdir():
        shutil.move(mask, dataset_copy / "test/scratch")
    test = open_folder(dataset_copy).test
    assert len(test) == 8
    assert [image.mask.name for image in test if image.mask] == [f"{number:03d}_mask.png" for number in range(16, 20)]


def test_masks_that_fit_no_image_are_named(cli, tiny_bundle, dataset_copy):
    spare = dataset_copy / "ground_truth/scratch/999_mask.png"
    shutil.copy(dataset_copy / "ground_truth/scratch/016_mask.png", spare)
    found = cli("evaluate", tiny_bundle, dataset_copy, "--json")
    assert found.json["masks"]["unused"] == [str(spare)]
    assert "1 mask belongs to no image" in found.stderr
    for mask in (dataset_copy / "ground_truth/scratch").iterdir():
        mask.rename(mask.with_name("other" + mask.name))
    stderr = cli("evaluate", tiny_bundle, dataset_copy, code=2).stderr
    assert "none of the masks in" in stderr


def test_masks_directly_in_ground_truth_are_named(cli, tiny_bundle, dataset_copy):
    truth = dataset_copy / "ground_truth"
    shutil.move(truth / "scratch/016_mask.png", truth / "016_mask.png")
    (truth / "017.npy").write_bytes(b"x")
    found = cli("evaluate", tiny_bundle, dataset_copy, "--json")
    assert found.json["masks"]["unused"] == [str(truth / "016_mask.png")]
    assert found.json["masks"]["without"] == [str(dataset_copy / "test/scratch/016.png")]
    assert any("ground_truth/017.npy" in one["first"] for one in found.json["remarks"])
    for mask in (truth / "scratch").iterdir():
        shutil.move(mask, truth)
    stderr = cli("evaluate", tiny_bundle, dataset_copy, code=2).stderr
    assert "none of the masks in" in stderr
    assert "ground_truth/DEFECT_TYPE/NAME.png" in stderr


# What evaluate and report say


def blank(path: Path, value: int) -> None:
    with Image.open(path) as image:
        size = image.size
    Image.new("L", size, value).save(path)


@pytest.mark.slow
def test_masks_that_contradict_their_folder_are_named(cli, tiny_bundle, dataset_copy):
    masks = dataset_copy / "ground_truth"
    blank(masks / "scratch/016_mask.png", 0)
    blank(masks / "scratch/017_mask.png", 255)
    (masks / "good").mkdir()
    for name in ("012", "013"):
        shutil.copy(masks / "scratch/018_mask.png", masks / f"good/{name}.png")
    blank(masks / "good/013.png", 0)
    result = cli("evaluate", tiny_bundle, dataset_copy, "--json")
    found, test = result.json["masks"], dataset_copy / "test"
    assert found["empty"] == [str(test / "scratch/016.png")]
    assert found["full"] == [str(test / "scratch/017.png")]
    assert found["on_good"] == [str(test / "good/012.png")]
    assert found["without"] == found["outside"] == found["unused"] == []
    for said in ("1 mask of a defective image marks no pixel", " every pixel", "1 mask of a good image marks pixels"):
        assert said in result.stderr
    text = cli("evaluate", tiny_bundle, dataset_copy)
    assert "1 mask of a defective image marks no pixel" in text.stderr
    page = dataset_copy / "report.html"
    notes = cli("report", tiny_bundle, dataset_copy, "-o", page, "--no-latency", "--json").json["notes"]
    assert sum("mask of" in note for note in notes) == 3


@pytest.mark.slow
def test_masks_that_seem_inverted_are_named(cli, tiny_bundle, dataset_copy):
    masks = sorted((dataset_copy / "ground_truth/scratch").iterdir())
    said = "masks mark more than half of their image"
    for index, mask in enumerate(masks, start=1):
        with Image.open(mask) as image:
            inverted = Image.eval(image.convert("L"), lambda value: 255 if value == 0 else 0)
        inverted.save(mask)
        result = cli("evaluate", tiny_bundle, dataset_copy, "--json")
        assert len(result.json["masks"]["large"]) == index
        assert (f"{index} {said}" in result.stderr) is (index > 2)  # 4 masks: 2 of them may show large defects
    page = dataset_copy / "report.html"
    notes = cli("report", tiny_bundle, dataset_copy, "-o", page, "--no-latency", "--json").json["notes"]
    assert sum(said in note for note in notes) == 1


def test_an_image_without_mask_does_not_count_as_good_pixels(cli, tiny_bundle, dataset_copy):
    """Its defect would: every pixel that the map rightly shows would be a false alarm."""
    (dataset_copy / "ground_truth/scratch/017_mask.png").unlink()
    partly = cli("evaluate", tiny_bundle, dataset_copy, "--json").json
    (dataset_copy / "test/scratch/017.png").unlink()
    without = cli("evaluate", tiny_bundle, dataset_copy, "--json").json
    assert partly["pixel_auroc"] == without["pixel_auroc"]
    assert partly["pro"] == without["pro"]
    assert partly["defective"] == 4


@pytest.mark.parametrize("how", ["transparent", "JPEG", "size"])
def test_a_mask_that_cannot_be_used_stops_before_anything_is_scored(cli, tiny_bundle, dataset_copy, how):
    mask = dataset_copy / "ground_truth/scratch/019_mask.png"
    with Image.open(mask) as image:
        image.load()
    if how == "transparent":
        image = Image.merge("LA", (image, image))
    image = image.resize((32, 32)) if how == "size" else image
    image.save(mask, format="JPEG" if how == "JPEG" else "PNG")
    assert "019_mask.png" in cli("evaluate", tiny_bundle, dataset_copy, code=2).stderr


def test_one_pixel_is_a_region_of_pixel_figures(tiny_bundle, dataset_copy):
    import kdx
    from kd_train.evaluation.evaluate import score_images

    for mask in (dataset_copy / "ground_truth/scratch").iterdir():
        with Image.open(mask) as image:
            values = np.zeros(image.size[::-1], np.uint8)
        values[31, 33] = 1
        Image.fromarray(values).save(mask)
    with kdx.load(tiny_bundle) as detector:
        scored = score_images(detector, open_folder(dataset_copy).test)
    assert scored.masks is not None
    assert [mask.any() for mask in scored.masks.values()] == [False] * 4 + [True] * 4
