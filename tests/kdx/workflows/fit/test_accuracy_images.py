"""Whether kdx fit notices that the images changed on which accuracy was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kdx.folders.data_folder import TestImage, open_folder
from kdx.workflows.fit.accuracy_images import AccuracyImages
from kdx.workflows.fit.trial_records import LABELLED


def sha256(root: Path, test: tuple[TestImage, ...]) -> str:
    return AccuracyImages(LABELLED, root, test, good_are_held_out=False).sha256


def relabelled(first: TestImage, _second: TestImage) -> TestImage:
    return replace(first, defect_type="dent")


def moved(first: TestImage, _second: TestImage) -> TestImage:
    target = first.path.parent.parent / "lot" / first.path.parent.name / first.path.name
    target.parent.mkdir(parents=True)
    return replace(first, path=first.path.rename(target))


def replaced(first: TestImage, _second: TestImage) -> TestImage:
    content = bytearray(first.path.read_bytes())
    content[-1] ^= 1  # of the same size
    first.path.write_bytes(content)
    return first


def with_another_mask(first: TestImage, second: TestImage) -> TestImage:
    return replace(first, mask=second.mask)


def with_changed_mask(first: TestImage, _second: TestImage) -> TestImage:
    assert first.mask is not None
    content = bytearray(first.mask.read_bytes())
    content[-1] ^= 1
    first.mask.write_bytes(content)
    return first


def without_mask(first: TestImage, _second: TestImage) -> TestImage:
    return replace(first, mask=None)


@pytest.mark.parametrize("change", [relabelled, moved, replaced, with_another_mask, with_changed_mask, without_mask])
def test_whatever_decides_accuracy_changes_the_hash(dataset_copy, change):
    first, second, *others = (image for image in open_folder(dataset_copy).test if image.is_defective)
    before = sha256(dataset_copy, (first, second, *others))
    assert sha256(dataset_copy, (*others, second, first)) == before
    changed = change(first, second)
    assert sha256(dataset_copy, (changed, second, *others)) != before
