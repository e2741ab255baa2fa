"""What a report says of its images, in ``--json`` and on the page, which is what people keep."""

from __future__ import annotations

import shutil
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kdx.bundle.open import open_bundle
from kdx.imaging.image_identity import Likeness, identify

ORT = ("--backend", "onnxruntime-cpu")


@pytest.fixture
def reported(cli, tmp_path):
    """Call kdx report; return what it printed as JSON, and the text of the page."""

    def run(bundle: Path, data: Path, *options: object) -> tuple[Any, str]:
        page = tmp_path / "page.html"
        said = cli("report", bundle, data, "-o", page, "--force", "--no-latency", "--json", *ORT, *options).json
        return said, unescape(page.read_text(encoding="utf-8"))

    return run


def counts(remarks: list[Any], *kinds: str) -> dict[str, int]:
    return {each["kind"]: each["count"] for each in remarks if each["kind"] in kinds}


def test_images_that_count_twice_are_named_as_by_evaluate(cli, reported, tiny_bundle, dataset_copy):
    kinds = ("good_and_defective", "copies", "near_copies")
    before, _ = reported(tiny_bundle, dataset_copy)
    assert "copies" not in counts(before["remarks"], *kinds)
    shutil.copy(dataset_copy / "test/good/012.png", dataset_copy / "test/scratch/twice.png")
    Image.open(dataset_copy / "test/good/013.png").save(dataset_copy / "test/good/again.jpg", quality=90)
    found, page = reported(tiny_bundle, dataset_copy)
    evaluated = cli("evaluate", tiny_bundle, dataset_copy, *ORT, "--json").json
    assert counts(found["remarks"], *kinds) == counts(evaluated["remarks"], *kinds)
    assert counts(found["remarks"], *kinds[:2]) == {"good_and_defective": 2, "copies": 1}
    assert counts(found["remarks"], "near_copies")
    assert "1 image is a copy of another and counts twice" in page


def test_the_page_holds_every_remark(reported, tiny_bundle, dataset_copy):
    trained = open_bundle(tiny_bundle).training_images()
    seen = next(path for path in (dataset_copy / "train/good").iterdir() if identify(path).file in trained)
    Image.open(seen).save(dataset_copy / "test/good/nearly.jpg", quality=90)
    assert trained.likeness(identify(dataset_copy / "test/good/nearly.jpg")) is Likeness.NEAR
    grey = np.asarray(Image.open(dataset_copy / "test/good/012.png"))
    Image.fromarray(np.stack([grey, grey, grey ^ 1], axis=2)).save(dataset_copy / "test/good/colour.png")
    (dataset_copy / "test/good/notes.txt").write_text("no image", encoding="utf-8")
    found, page = reported(tiny_bundle, dataset_copy)
    remarks = [*found["remarks"], *found["evaluation"]["remarks"]]
    assert {each["kind"] for each in remarks} >= {"near_trained_on", "colour_for_mono", "not_an_image"}
    for each in remarks:
        assert f"{each['count']} {each['text']}" in page


def test_frames_without_a_part_are_undecided_up_to_the_threshold(cli, reported, bundle_copy, dataset_copy):
    dark = dataset_copy / "test/good/lamp-off.png"
    Image.new("L", (64, 64)).save(dark)
    found, page = reported(bundle_copy, dataset_copy)
    (said,) = [note for note in found["notes"] if "without a part" in note]
    assert said.startswith("1 image looks like a frame without a part and is undecided")
    assert said.endswith(str(dark))
    assert said in page
    cli("calibrate", bundle_copy, dataset_copy, "--threshold", 0, "--reason", "to see", *ORT)
    found, _ = reported(bundle_copy, dataset_copy)
    assert found["evaluation"]["false_reject_rate"] == 1.0
    assert not [note for note in found["notes"] if "without a part" in note]
