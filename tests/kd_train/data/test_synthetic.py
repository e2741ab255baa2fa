"""Synthetic defects change an image within the mask only, the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from kd_train.data.synthetic import KINDS, draw_blob, draw_scar, paste_patch, write_synthetic
from kdx.errors import DataError
from kdx.folders.data_folder import open_folder, require_test
from kdx.imaging.images import InputSpec
from kdx.imaging.masks import read_mask

SPEC = InputSpec(height=64, width=64, channels=1)


@pytest.fixture(scope="module")
def good(tmp_path_factory, make_images):
    folder = tmp_path_factory.mktemp("good")
    paths = [folder / f"{index}.png" for index in range(5)]
    for path, image in zip(paths, make_images(5), strict=True):
        image.save(path)
    return paths


def rngs(count=50):
    return (np.random.default_rng(seed) for seed in range(count))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(64, 64, 1), (40, 90, 3), (8, 8, 1)])
def test_nothing_changes_beyond_the_mask_and_something_within(kind, shape):
    image = np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8)
    other = np.random.default_rng(8).integers(0, 256, (50, 30, shape[2]), dtype=np.uint8)
    for rng in rngs():
        defective, mask = KINDS[kind](image, other, rng)
        assert defective.shape == shape
        assert defective.dtype == np.uint8
        changed = (defective != image).any(axis=2)
        assert not (changed & ~mask).any()
        assert changed.any()


@pytest.mark.parametrize("grey", [0, 60, 200, 255])
def test_a_blob_is_an_ellipse_that_changes_brightness_by_the_stated_levels(grey):
    image = np.full((200, 200, 1), grey, dtype=np.uint8)
    for rng in rngs():
        defective, mask = draw_blob(image, image, rng)
        change = defective[..., 0].astype(int) - grey
        # Towards the side with room, fully at the middle: 20 to 70 levels.
        assert (change[mask] <= 0).all() if grey > 127 else (change[mask] >= 0).all()
        rows, columns = np.nonzero(mask)
        inside = rows.min() > 0 and rows.max() < 199 and columns.min() > 0 and columns.max() < 199
        assert 20 <= np.abs(change).max() <= 70
        if (
            inside
        ):  # radii of 2 to 8 % of the side: the area of the smallest and the largest ellipse, and a pixel's edge
            assert np.pi * 3**2 < mask.sum() < np.pi * 17**2


def test_a_scar_is_long_and_thin_and_lies_at_any_angle():
    image = np.full((300, 300, 1), 100, dtype=np.uint8)
    angles = []
    for rng in rngs(100):
        _, mask = draw_scar(image, image, rng)
        rows, columns = np.nonzero(mask)
        # Length 10 to 35 % of the side and width 1 to 3 %, unless the image's edge cuts it.
        assert mask.sum() <= 1.1 * (0.35 * 300 + 1) * (0.03 * 300 + 1)
        points = np.stack([rows, columns]).astype(float)
        values, vectors = np.linalg.eigh(np.cov(points))
        if values[1] > 4 * values[0]:
            angles.append(np.arctan2(vectors[0, 1], vectors[1, 1]) % np.pi)
    assert len(angles) > 80
    assert np.histogram(angles, bins=4, range=(0, np.pi))[0].min() > 8


def test_a_patch_is_a_rectangle_of_the_other_image():
    image, other = np.zeros((100, 100, 1), dtype=np.uint8), np.full((100, 100, 1), 100, dtype=np.uint8)
    for rng in rngs():
        defective, mask = paste_patch(image, other, rng)
        rows, columns = np.nonzero(mask)
        assert mask.sum() == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        assert 0.003 < mask.mean() < 0.07
        # Of one grey value, like its origin, and brighter by at most 20 levels: 100 has room above.
        assert np.ptp(defective[mask]) == 0
        assert 100 <= defective[mask].max() <= 120


def test_the_folder_is_a_test_split_with_exact_masks(good, tmp_path):
    write_synthetic(good, tmp_path / "synthetic", SPEC)
    test = require_test(open_folder(tmp_path / "synthetic"))
    assert sum(not image.is_defective for image in test) == len(good)
    assert sum(image.is_defective for image in test) == len(good) * len(KINDS)
    originals = {np.asarray(Image.open(path)).tobytes() for path in good}
    for image in test:
        pixels = np.asarray(Image.open(image.path))
        if image.mask is None:
            assert pixels.tobytes() in originals
            continue
        clean = np.asarray(Image.open(tmp_path / "synthetic/test/good" / image.path.name))
        assert not ((pixels != clean) & ~read_mask(image.mask)).any()


def test_the_same_seed_makes_the_same_files_and_another_others(good, tmp_path):
    for name, seed in (("one", 3), ("same", 3), ("other", 4)):
        write_synthetic(good, tmp_path / name, SPEC, seed=seed)
    names = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.png"))
    same = [(tmp_path / "one" / n).read_bytes() == (tmp_path / "same" / n).read_bytes() for n in names]
    other = [(tmp_path / "one" / n).read_bytes() == (tmp_path / "other" / n).read_bytes() for n in names]
    assert all(same)
    assert not all(other)


def test_many_images_are_thinned_out_evenly(good, tmp_path):
    write_synthetic(good, tmp_path / "few", SPEC, most=3)
    assert len(list((tmp_path / "few/test/good").iterdir())) == 3


def test_one_image_has_no_other_to_take_from(good, tmp_path):
    with pytest.raises(DataError, match="too few held-out good images"):
        write_synthetic(good[:1], tmp_path / "none", SPEC)
    assert not (tmp_path / "none").exists()
