"""Images for training: scanned, split, and the same from memory and from disk."""

from __future__ import annotations

import hashlib
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kd_train.data.image_records import BadImages, ImageRecord, choose_input, parts_of_copies, scan_images, split_images
from kd_train.data.image_set import ImageSet
from kd_train.datasets.elpv_package import write_mvtec_layout
from kdx.errors import DataError, TrainingError
from kdx.folders.copies import within
from kdx.folders.data_folder import open_folder
from kdx.imaging.images import InputSpec
from kdx.storage.files import hash_of_hashes

MONO = InputSpec(height=64, width=64, channels=1)


def record(name: str, *, content: str | None = None, width: int = 64, height: int = 64, grey: bool = True):
    digest = hashlib.sha256((content or name).encode()).hexdigest()
    return ImageRecord(Path(f"/data/{name}.png"), digest, width, height, grey)


def records(count: int) -> list[ImageRecord]:
    return [record(f"{index:04d}") for index in range(count)]


def split(images, *, validation=0.2, fraction=1.0, seed=0):
    return split_images(images, validation_fraction=validation, train_fraction=fraction, seed=seed)


@pytest.fixture
def good(dataset) -> tuple[Path, ...]:
    return open_folder(dataset).good


# Scanning


def test_scan_reads_headers_and_hashes(good):
    found = scan_images(good, BadImages(0))
    assert [r.path for r in found] == list(good)
    assert all((r.width, r.height, r.is_grey) == (64, 64, True) for r in found)
    assert found[0].sha256 == hashlib.sha256(good[0].read_bytes()).hexdigest()


def test_scan_tells_colour_from_grey_and_width_from_height(tmp_path):
    Image.new("RGB", (20, 10)).save(tmp_path / "colour.png")
    Image.fromarray(np.zeros((10, 20), np.uint16)).save(tmp_path / "deep.png")
    colour, deep = scan_images([tmp_path / "colour.png", tmp_path / "deep.png"], BadImages(0))
    assert (colour.width, colour.height, colour.is_grey) == (20, 10, False)
    assert deep.is_grey


def test_scan_names_a_bad_file(good, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    bad = BadImages(1)
    assert len(scan_images([*good, tmp_path / "bad.png"], bad)) == len(good)
    assert list(bad.reasons) == [tmp_path / "bad.png"]
    with pytest.raises(TrainingError, match=r"bad\.png"):
        scan_images([*good, tmp_path / "bad.png"], BadImages(0))


def test_a_file_that_fails_twice_counts_once():
    bad = BadImages(1)
    bad.add(Path("a.png"), "first")
    bad.add(Path("a.png"), "second")
    assert len(bad.reasons) == 1


# Input


def test_images_of_one_size_are_a_cameras():
    spec = choose_input([record("a", width=640, height=480), record("b", width=640, height=480)], 256)
    assert (spec.height, spec.width, spec.fixed_size) == (480, 640, True)


def test_images_of_many_sizes_are_brought_to_the_networks():
    spec = choose_input([record("a", width=640, height=480), record("b")], 256)
    assert (spec.height, spec.width, spec.fixed_size) == (256, 256, False)


@pytest.mark.parametrize(
    ("greys", "channels", "expected"),
    [
        ([True, True], "auto", 1),
        ([True, False], "auto", 3),
        ([False, False], "auto", 3),
        ([True, True], "3", 3),
        ([False, False], "1", 1),
    ],
)
def test_channels(greys, channels, expected):
    images = [record(str(index), grey=grey) for index, grey in enumerate(greys)]
    assert choose_input(images, 64, channels=channels).channels == expected


# Splitting


def test_split_depends_on_the_seed_alone():
    images = records(50)
    shuffled = images.copy()
    random.Random(1).shuffle(shuffled)
    np.random.seed(123)
    assert split(images) == split(shuffled)
    assert split(images, seed=1) != split(images)


def test_split_is_a_partition():
    train, held_out = split(records(50))
    assert (len(train), len(held_out)) == (40, 10)
    assert {r.path for r in train} | {r.path for r in held_out} == {r.path for r in records(50)}


@pytest.mark.parametrize("seed", range(5))
def test_equal_files_stay_on_one_side(seed):
    copies = [record(f"{index}-{copy}", content=str(index)) for index in range(10) for copy in range(3)]
    train, held_out = split(copies, validation=0.5, seed=seed)
    assert not {r.sha256 for r in train} & {r.sha256 for r in held_out}


@pytest.mark.parametrize("seed", range(6))
def test_a_copy_does_not_divide_a_part(seed):
    """The copy of a1 is used, and has no part of its own; that of b1 has the name of another."""
    images = [*map(record, ("a1", "a2", "b1", "b2")), *records(8)]
    images += [record("copy", content="a1"), record("other", content="b1"), record("other2")]
    parts = {image.path: image.path.name[0] for image in images if image.path.name[0] in "abo"}
    train, held_out = split_images(images, validation_fraction=0.3, train_fraction=1.0, seed=seed, parts=parts)
    for part in ({"a1", "a2"}, {"b1", "b2", "other2"}):
        digests = {hashlib.sha256(name.encode()).hexdigest() for name in part}
        sides = [digests & {image.sha256 for image in side} for side in (train, held_out)]
        assert digests in sides
    joined = parts_of_copies(images, parts)
    assert joined[Path("/data/copy.png")] == joined[Path("/data/a2.png")] != joined[Path("/data/b2.png")]


def test_the_copy_that_is_not_used_is_named():
    images = [record("a", content="x"), *records(4), record("z", content="x")]
    (remark,) = within([(image.path, image.identity) for image in images])
    used = {image.path for side in split(images) for image in side}
    assert remark.first == ("/data/a.png",)
    assert used == {image.path for image in images[1:]}


def test_train_fraction_shrinks_the_training_side_only():
    train, held_out = split(records(100))
    few, same = split(records(100), fraction=0.1)
    assert same == held_out
    assert len(few) == 8
    assert {r.path for r in few} < {r.path for r in train}


def test_train_fraction_leaves_two():
    assert len(split(records(10), fraction=0.001)[0]) == 2


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_to_split(count):
    with pytest.raises(DataError, match="too few good images"):
        split(records(count))


def test_three_are_enough():
    assert [len(side) for side in split(records(3))] == [2, 1]


def test_a_large_validation_fraction_is_not_blamed_on_the_number_of_images():
    with pytest.raises(DataError) as caught:
        split(records(5), validation=0.9)
    assert "validation" in str(caught.value)


def test_data_hash_does_not_depend_on_the_order():
    assert hash_of_hashes(["a", "b"]) == hash_of_hashes(["b", "a"]) != hash_of_hashes(["a", "c"])


# Delivery


def image_set(paths, spec=MONO, *, memory_mib=64, workers=0, bad=None):
    found = scan_images(paths, BadImages(0))
    return ImageSet(found, spec, bad or BadImages(0), memory_mib=memory_mib, workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("spec", [MONO, InputSpec(height=32, width=48, fixed_size=False)], ids=["camera", "resized"])
def test_images_from_disk_are_those_in_memory(good, spec, workers):
    kept, streamed = image_set(good, spec), image_set(good, spec, memory_mib=0, workers=workers)
    assert kept.in_memory
    assert not streamed.in_memory
    batches = [[3, 0, 7], [11], [5, 5]]
    for ours, theirs in zip(kept.batches(batches), streamed.batches(batches), strict=True):
        assert ours.dtype == torch.uint8
        assert ours.shape[1:] == (spec.height, spec.width, spec.channels)
        assert torch.equal(ours, theirs)


def test_memory_limit_counts_pixels(good):
    large = InputSpec(height=512, width=512, fixed_size=False)  # 12 images of 0.75 MiB
    assert image_set(good, large, memory_mib=9).in_memory
    assert not image_set(good, large, memory_mib=8).in_memory


@pytest.mark.parametrize("memory_mib", [0, 64])
def test_subset_keeps_its_own_order(good, memory_mib):
    images = image_set(good, memory_mib=memory_mib)
    part = images.subset([images.records[7], images.records[2]])
    (ours,) = part.batches([[0, 1]])
    (theirs,) = images.batches([[7, 2]])
    assert torch.equal(ours, theirs)
    assert len(part) == 2


def test_a_damaged_file_is_dropped_and_the_others_keep_their_pixels(good, tmp_path):
    paths = [Path(shutil.copy(path, tmp_path)) for path in good[:4]]
    paths[1].write_bytes(paths[1].read_bytes()[:-300])
    bad = BadImages(1)
    images = image_set(paths, bad=bad)
    assert list(bad.reasons) == [paths[1]]
    assert [r.path for r in images.records] == [paths[0], paths[2], paths[3]]
    (batch,) = images.batches([[1]])
    assert np.array_equal(batch[0, :, :, 0].numpy(), np.asarray(Image.open(paths[2])))


def test_a_file_that_vanishes_while_training_is_named(good, tmp_path):
    paths = [Path(shutil.copy(path, tmp_path)) for path in good[:3]]
    images = image_set(paths, memory_mib=0)
    paths[2].unlink()
    with pytest.raises(TrainingError, match=r"002\.png' does not exist"):
        list(images.batches([[0, 1, 2]]))


# The solar cells


@pytest.fixture
def elpv(tmp_path):
    pytest.importorskip("elpv_dataset", reason="the solar cells")
    return lambda name, **options: (tmp_path / name, write_mvtec_layout(tmp_path / name, **options))


def names(root: Path, part: str) -> set[str]:
    return {path.name for path in (root / part).iterdir()}


def test_elpv_layout(elpv):
    root, counts = elpv("a", max_train=20, max_test=5)
    assert counts == {"train/good": 20, "test/good": 5, "test/defective": 5}
    assert {part: len(names(root, part)) for part in counts} == counts
    folder = open_folder(root)
    assert len(folder.good) == 20
    assert {image.defect_type for image in folder.test} == {"good", "defective"}
    assert all(image.mask is None for image in folder.test)


def test_elpv_parts_do_not_overlap(elpv):
    root, counts = elpv("a", cell_type="poly")
    parts = [names(root, part) for part in counts]
    assert sum(len(part) for part in parts) == len(set().union(*parts)) == sum(counts.values())
    assert abs(counts["train/good"] - counts["test/good"]) <= 1


def test_elpv_is_seeded(elpv):
    one, two, other = (
        elpv(name, max_train=10, max_test=3, seed=seed)[0] for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert names(one, "train/good") == names(two, "train/good") != names(other, "train/good")


def test_elpv_missing(monkeypatch, tmp_path):
    monkeypatch.setattr("kd_train.datasets.elpv_package.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match="not installed"):
        write_mvtec_layout(tmp_path)
