"""The images of several products, from which a shared teacher learns: what is held out, and how
often each product's images are taken."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kd_train.data.image_set import ImageSet
from kd_train.training.from_options import recipe_of
from kd_train.training.run_folder import Run
from kd_train.training.train import distil_union
from kd_train.training.training_images import read_training_images
from kd_train.training.union_images import Member, MemberFiles, UnionImages, read_union, repeats
from kdx.errors import CheckpointError, DataError
from kdx.progress import SILENT
from tests.conftest import write_dataset
from tests.kd_train.training.test_distillation import COMPACT, InterruptingTask
from tests.kd_train.training.test_trainer import assert_same

OPTIONS = replace(COMPACT, teacher_epochs=1)


def union(members: dict[str, Path], **changes: object) -> UnionImages:
    options = replace(OPTIONS, **changes)
    return read_union({name: Member(data, options) for name, data in members.items()}, SILENT)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"a": 10, "b": 10}, {"a": 1, "b": 1}),
        ({"a": 100, "b": 25}, {"a": 1, "b": 1}),  # a quarter
        ({"a": 100, "b": 24}, {"a": 1, "b": 2}),
        ({"a": 1000, "b": 30, "c": 3}, {"a": 1, "b": 9, "c": 84}),
        ({"a": 4, "b": 0}, {"a": 1, "b": 1}),
    ],
)
def test_a_small_product_is_taken_until_it_has_a_quarter_of_the_largest(counts, expected):
    assert repeats(counts) == expected
    for name, count in counts.items():
        assert not count or 4 * count * expected[name] >= max(counts.values())


def test_each_products_held_out_images_are_held_out(dataset, cells):
    images = union({"a": dataset, "b": cells})
    for name, data in (("a", dataset), ("b", cells)):
        alone = read_training_images(data, OPTIONS, recipe_of(OPTIONS), SILENT)
        assert [record.path for record in images.products[name]] == [record.path for record in alone.trained]
        assert {record.path for record in alone.held_out} <= {record.path for record in images.held_out}
    assert len(images.held_out_set) == len(images.held_out) == 6 + 8
    assert len(images.train_set) == len(images.trained) == 6 + 8
    assert {name.partition("/")[0] for name in images.hashes(images.trained)} == {"a", "b"}
    assert sorted(images.hashes(images.trained).values()) == sorted(record.sha256 for record in images.trained)
    assert images.remarks == []


def test_parts_of_one_name_are_different_parts_in_each_product(tmp_path):
    members = {name: write_dataset(tmp_path / name) for name in ("a", "b")}
    images = union(members, group_by=r"\d(?=\.png)")
    assert len(images.parts) == 24
    for name, data in members.items():
        own = {path.name: part for path, part in images.parts.items() if path.is_relative_to(data)}
        assert (own["001.png"], own["011.png"], own["002.png"]) == (f"{name}/1", f"{name}/1", f"{name}/2")


def test_the_pixels_are_those_of_each_product(dataset, cells):
    """In memory, and read from the files: both in the order of the records."""
    kept = union({"a": dataset, "b": cells})
    read_again = union({"a": dataset, "b": cells}, memory_mib=0)
    indices = [[0, 13, 6], [5, 7]]
    for ours, theirs, chosen in zip(
        kept.train_set.batches(indices), read_again.train_set.batches(indices), indices, strict=True
    ):
        files = [Image.open(kept.trained[index].path) for index in chosen]
        expected = torch.stack([torch.frombuffer(bytearray(file.tobytes()), dtype=torch.uint8) for file in files])
        assert torch.equal(ours.reshape(len(chosen), -1), expected)
        assert torch.equal(theirs, ours)


def test_pixels_are_kept_if_those_of_all_products_fit(tmp_path):
    """Only the total counts: neither how large one product is, nor the order of the products."""
    folders = {}
    for name, count in (("few", 4), ("some", 9), ("many", 12)):
        folders[name] = tmp_path / name
        folders[name].mkdir()
        for index in range(count):
            noise = np.random.default_rng([count, index]).integers(0, 256, (320, 320), dtype=np.uint8)
            Image.fromarray(noise).save(folders[name] / f"{index}.png")

    def kept(*names: str) -> bool:
        images = union({name: folders[name] for name in names}, memory_mib=2, image_size=320, odd_images="keep").images
        assert images.pixel_bytes == 320 * 320 * len(images)
        return images.in_memory

    assert kept("few", "many")  # many alone take more than half
    assert kept("many", "few")
    assert not kept("some", "many")  # each alone would fit
    assert not kept("many", "some")


def test_members_hold_no_pixels_and_joining_copies_none(dataset, cells):
    images = union({"a": dataset, "b": cells})
    assert [type(member) for member in images.members.values()] == [MemberFiles] * 2
    read = [read_training_images(data, OPTIONS, recipe_of(OPTIONS), SILENT).images for data in (dataset, cells)]
    joined = ImageSet.joined(read)
    parts = [(each, index) for each in read for index in range(len(each))]
    assert len(joined) == len(parts)
    for position, (each, index) in enumerate(parts):
        assert np.shares_memory(joined[position], each[index])


def test_images_of_small_products_are_taken_several_times_and_counted_once(dataset, cells, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(cells.iterdir())[:3]:
        shutil.copy(path, few)
    images = union({"a": dataset, "b": few}, validation_fraction=0.1)
    assert [len(records) for records in images.products.values()] == [11, 2]
    assert len(images.train_set) == 11 + 2 * 2
    assert images.train_set.different == 13


def test_what_another_product_holds_out_is_not_learnt(dataset, tmp_path):
    """Two products of the same images, which are divided in another way: a copy counts once."""
    copied = Path(shutil.copytree(dataset / "train/good", tmp_path / "copied"))
    members = {
        "a": Member(dataset, OPTIONS),
        "b": Member(copied, replace(OPTIONS, validation_fraction=0.25)),
    }
    images = read_union(members, SILENT)
    learnt, held_out = ({record.sha256 for record in side} for side in (images.trained, images.held_out))
    assert not learnt & held_out
    assert len(learnt) == len(images.trained)
    (said,) = images.remarks
    assert (said.kind, said.count) == ("held_out_of_other_product", 12 - 3 - len(learnt))
    assert learnt | held_out == {record.sha256 for record in images.images.records}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda image: image.resize((48, 64)), "expected: width 64\n  received: width 48"),
        (lambda image: Image.merge("RGB", (image, image, image.point(lambda value: value // 2))), "channels 3"),
    ],
)
def test_products_of_different_inputs_share_no_teacher(dataset, cells, tmp_path, change, said):
    for path in cells.iterdir():
        change(Image.open(path)).save(tmp_path / path.name)
    with pytest.raises(DataError, match=said) as error:
        union({"a": dataset, "b": tmp_path})
    assert "'a' and 'b' make different inputs" in error.value.message


def test_a_teacher_of_a_union_resumes_to_the_same_bytes(dataset, cells, tmp_path):
    members = {"a": Member(dataset, OPTIONS), "b": Member(cells, OPTIONS)}
    whole = distil_union(members, tmp_path / "whole", OPTIONS).run
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        distil_union(members, run, OPTIONS, InterruptingTask("compact teacher", 2))
    with pytest.raises(CheckpointError, match="no epoch") as error:
        Run(run).checkpoint("last")
    assert error.value.fix == "continue with the catalogue that began it: kdx train-many"
    resumed = distil_union(members, run, replace(OPTIONS, resume=True)).run
    assert_same(run / "teacher", tmp_path / "whole/teacher")
    assert resumed.config.teacher_sha256 == whole.config.teacher_sha256
    assert resumed.config.distilled.images == 14
    with pytest.raises(CheckpointError, match="began with other images"):
        distil_union({"a": members["a"]}, run, replace(OPTIONS, resume=True))
    assert Run(run).config.train_images == whole.config.train_images
