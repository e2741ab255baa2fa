"""The images of ``kdx fit``."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kd_train.training.options import TrainOptions
from kdx.errors import TrainingError
from kdx.progress import SILENT
from kdx.workflows.fit.material import read_material
from kdx.workflows.fit.request import FitRequest
from tests.platforms import needs_links


@needs_links
def test_images_that_cannot_be_read_are_named_with_the_reason(dataset_copy, tmp_path):
    request = FitRequest(
        data=dataset_copy, out=tmp_path / "out", budget_ms=8, percentile=99, methods=("stpm",), sizes=(64,),
        precisions=("fp32",), threads=1, hours=None, false_reject_rate=0.2,
    )  # fmt: skip
    assert "skipped" not in {each.kind for each in read_material(request, SILENT)[0].remarks}
    (dataset_copy / "train/good/gone.png").symlink_to("nowhere.png")
    (dataset_copy / "test/scratch/lost.png").symlink_to("nowhere.png")
    torn = dataset_copy / "train/good/torn.png"
    torn.write_bytes((dataset_copy / "train/good/000.png").read_bytes()[:200])
    with pytest.raises(TrainingError, match=r"gone\.png"):
        read_material(request, SILENT)
    material, _ = read_material(replace(request, training=TrainOptions(max_bad_images=2)), SILENT)
    (said,) = [each for each in material.remarks if each.kind == "skipped"]
    assert str(said).startswith("3 images that cannot be read were skipped: ")
    assert [next(name for name in ("gone", "torn", "lost") if f"{name}.png" in each) for each in said.first] == [
        "gone",
        "torn",
        "lost",
    ]
    assert "which does not exist" in said.first[0]
    assert "damaged" in said.first[1]
