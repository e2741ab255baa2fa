"""The images of ``kdx fit``."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from kd_train.training.options import TrainOptions
from kdx.errors import TrainingError
from kdx.progress import SILENT
from kdx.workflows.fit.material import read_material
from kdx.workflows.fit.request import FitRequest
from tests.platforms import needs_links


def request(data, out):
    return FitRequest(
        data=data, out=out, budget_ms=8, percentile=99, methods=("stpm",), sizes=(64,), precisions=("fp32",),
        threads=1, hours=None, false_reject_rate=0.2,
    )  # fmt: skip


@needs_links
def test_images_that_cannot_be_read_are_named_with_the_reason(dataset_copy, tmp_path):
    asked = request(dataset_copy, tmp_path / "out")
    assert "skipped" not in {each.kind for each in read_material(asked, SILENT)[0].remarks}
    (dataset_copy / "train/good/gone.png").symlink_to("nowhere.png")
    (dataset_copy / "test/scratch/lost.png").symlink_to("nowhere.png")
    torn = dataset_copy / "train/good/torn.png"
    torn.write_bytes((dataset_copy / "train/good/000.png").read_bytes()[:200])
    with pytest.raises(TrainingError, match=r"gone\.png"):
        read_material(asked, SILENT)
    material, _ = read_material(replace(asked, training=TrainOptions(max_bad_images=2)), SILENT)
    (said,) = [each for each in material.remarks if each.kind == "skipped"]
    assert str(said).startswith("3 images that cannot be read were skipped: ")
    assert [next(name for name in ("gone", "torn", "lost") if f"{name}.png" in each) for each in said.first] == [
        "gone",
        "torn",
        "lost",
    ]
    assert "which does not exist" in said.first[0]
    assert "damaged" in said.first[1]


def test_a_held_out_image_counts_once_however_many_copies_there_are(dataset_copy, tmp_path):
    good = sorted((dataset_copy / "train/good").iterdir())
    for path in good:
        shutil.copy(path, path.with_name(f"copy-{path.name}"))
    material, _ = read_material(request(dataset_copy, tmp_path / "out"), SILENT)
    hashes = [record.sha256 for record in material.good]
    assert len(hashes) == 2 * len(good)
    held_out = material.held_out(hashes)
    assert len(held_out) == len({path.read_bytes() for path in held_out}) == len(good)


def test_what_is_wrong_with_the_test_images_is_named(dataset_copy, tmp_path):
    asked = request(dataset_copy, tmp_path / "out")
    before = {each.kind for each in read_material(asked, SILENT)[0].remarks}
    assert not before & {"copies", "unused_mask"}
    defective = next((dataset_copy / "test/scratch").iterdir())
    shutil.copy(defective, dataset_copy / "test/scratch/copy.png")
    shutil.copy(
        next((dataset_copy / "ground_truth/scratch").iterdir()), dataset_copy / "ground_truth/scratch/9_mask.png"
    )
    said = {each.kind: str(each) for each in read_material(asked, SILENT)[0].remarks}
    assert said["copies"].startswith("1 image is a copy of another and counts twice: ")
    assert said["unused_mask"].startswith("1 mask belongs to no image: ")
