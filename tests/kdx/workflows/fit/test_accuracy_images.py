"""The images on which kdx fit measures accuracy: whether it notices that they changed, and how far
the figures are from those of other images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kdx.folders.data_folder import GOOD, TestImage, open_folder
from kdx.imaging.images import InputSpec
from kdx.progress import SILENT
from kdx.workflows.fit.accuracy_images import (
    AccuracyImages,
    auroc_error,
    auroc_error_of_parts,
    find_accuracy_images,
)
from kdx.workflows.fit.fit_folder import FitFolder
from kdx.workflows.fit.material import Material
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


# The standard error of synthetic defects


@pytest.mark.parametrize("of_a_part", [1, 3])
def test_what_shows_one_part_is_drawn_together(of_a_part):
    rng = np.random.default_rng(0)
    good, defects = rng.normal(0, 1, 24), rng.normal(1, 1, 24)
    one = {
        f"test/{kind}/{i:04d}.png": s for kind, side in ((GOOD, good), ("scar", defects)) for i, s in enumerate(side)
    }
    every = one | {f"test/{kind}/{i:04d}.png": s for kind in ("blob", "patch") for i, s in enumerate(defects)}
    parts = {f"{i:04d}": f"part {i // of_a_part}" for i in range(24)}
    # Two more defects on each image that score the same tell nothing new.
    assert auroc_error_of_parts(every, parts) == pytest.approx(auroc_error_of_parts(one, parts))
    area = float((defects[:, None] > good).mean())
    assert auroc_error_of_parts(every, parts) > 1.1 * auroc_error(area, 24, 72)


def test_images_of_a_single_part_count_as_parts():
    scores = {
        f"test/{kind}/{i:04d}.png": float(i + above) for kind, above in ((GOOD, 0), ("scar", 2)) for i in range(9)
    }
    single = auroc_error_of_parts(scores, {f"{i:04d}": "the only one" for i in range(9)})
    assert single == auroc_error_of_parts(scores, {f"{i:04d}": str(i) for i in range(9)}) > 0


def test_synthetic_images_know_the_part_that_they_are_drawn_on(dataset, tmp_path):
    good = sorted((dataset / "train/good").iterdir())[:4]
    material = Material(open_folder(dataset / "train/good"), (), parts={good[0]: "tile 7", good[2]: "tile 7"})
    spec = InputSpec(height=64, width=64, channels=1)
    images = find_accuracy_images(material, FitFolder(tmp_path, {}), good, spec, SILENT, seed=0)
    assert images.parts == {"0000": "tile 7", "0001": str(good[1]), "0002": "tile 7", "0003": str(good[3])}
    assert {image.path.stem for image in images.test} == images.parts.keys()
