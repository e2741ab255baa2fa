"""The images of a compact teacher: variants that depend on their index alone, then further ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kd_train.data.distillation_images import VARIANTS, DistillationImages, read_further
from kd_train.data.image_records import BadImages, scan_images
from kd_train.data.image_set import ImageSet
from kdx.errors import DataError, TrainingError
from kdx.imaging.images import InputSpec
from kdx.progress import SILENT
from tests.images import solar_cells

MEAN = STD = (0.5, 0.5, 0.5)
SIZE = 48
SPEC = InputSpec(height=SIZE, width=SIZE)


def write(folder: Path, count: int, size: int = SIZE) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{index}.png" for index in range(count)]
    for path, pixels in zip(paths, solar_cells(count, (size, size)), strict=True):
        Image.fromarray(pixels).save(path)
    return paths


def read(paths: list[Path], memory_mib: int = 64) -> ImageSet:
    bad = BadImages(0)
    return ImageSet(scan_images(paths, bad), SPEC, bad, memory_mib=memory_mib, workers=0)


@pytest.fixture
def good(tmp_path) -> ImageSet:
    return read(write(tmp_path / "good", 3))


def normalised(batch: torch.Tensor) -> torch.Tensor:
    return batch.permute(0, 3, 1, 2).float() / 127.5 - 1


def varied(images: DistillationImages, batches: list[list[int]]) -> dict[int, torch.Tensor]:
    found = {}
    for indices, batch in zip(batches, images.batches(batches), strict=True):
        found.update(zip(indices, images.vary(normalised(batch), indices), strict=True))
    return found


def test_ten_variants_of_each_image(good):
    images = DistillationImages(good, None, 0, MEAN, STD, colour=True)
    assert len(images) == 3 * VARIANTS == 30
    found = varied(images, [list(range(30))])
    originals = normalised(next(good.batches([[0, 1, 2]])))
    for number, original in enumerate(originals):
        variants = [found[VARIANTS * number + variant] for variant in range(VARIANTS)]
        assert torch.equal(variants[0], original)
        assert torch.allclose(variants[6], original.flip(-1), atol=1e-6)
        assert torch.allclose(variants[7], original.flip(-2), atol=1e-6)
        for damaged in variants[1:6]:
            changed = (damaged - original).abs().amax(0) > 1e-4
            assert 0 < float(changed.float().mean()) < 0.8
        texture, damaged_texture = variants[8:]
        assert float((texture - original).abs().mean()) > 0.02
        assert not torch.equal(texture, damaged_texture)
    assert all(float(each.abs().max()) <= 1 + 1e-5 for each in found.values())


def test_a_variant_depends_on_its_index_alone(good):
    images = DistillationImages(good, None, 5, MEAN, STD, colour=False)
    order = np.random.default_rng(0).permutation(30).tolist()
    together, apart = varied(images, [list(range(30))]), varied(images, [[index] for index in order])
    assert all(torch.equal(together[index], apart[index]) for index in order)
    kept = DistillationImages(good, None, 5, MEAN, STD, colour=False, memory_mib=64)
    first, again = (varied(kept, [order[:7], order[7:]]) for _ in range(2))
    assert all(torch.equal(together[index], found[index]) for found in (first, again) for index in order)
    other = varied(DistillationImages(good, None, 6, MEAN, STD, colour=False), [list(range(30))])
    assert not torch.equal(together[1], other[1])


@pytest.mark.parametrize("memory_mib", [64, 0])
def test_further_images_come_after_them_as_they_are(tmp_path, good, memory_mib):
    folder = tmp_path / "further"
    write(folder, 2, size=64)
    (folder / "notes.txt").write_text("no image", encoding="utf-8")
    further, remarks = read_further([folder], SPEC, BadImages(0), memory_mib=memory_mib, workers=0, progress=SILENT)
    assert [remark.kind for remark in remarks] == ["not_an_image"]
    images = DistillationImages(good, further, 0, MEAN, STD, colour=True)
    assert len(images) == 32
    # In batches of both, of one kind, and in any order.
    found = varied(images, [[31, 0, 30], [10], [20, 31], [30]])
    wanted = normalised(next(further.batches([[0, 1]])))
    assert torch.equal(found[30], wanted[0])
    assert torch.equal(found[31], wanted[1])
    originals = normalised(next(good.batches([[0, 1, 2]])))
    assert all(torch.equal(found[10 * number], originals[number]) for number in range(3))


def test_folders_of_further_images_that_are_of_no_use(tmp_path):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "broken", 1)
    (tmp_path / "broken" / "0.png").write_bytes(b"\x89PNG")
    for name, error, said in (
        ("missing", DataError, "there is no folder"),
        ("empty", DataError, "holds no images"),
        ("broken", TrainingError, "cannot be used"),
    ):
        with pytest.raises(error, match=said):
            read_further([tmp_path / name], SPEC, BadImages(0), memory_mib=64, workers=0, progress=SILENT)
    assert read_further([], SPEC, BadImages(0), memory_mib=64, workers=0, progress=SILENT) == (None, [])
