"""Regions as annotations: COCO's own tools and Roboflow's importer read them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdx.decision.label_files import YOLO_DATA, LabelledImage, coco_document, yolo_text
from kdx.decision.map_files import MapPlace
from kdx.decision.regions import find_regions
from kdx.decision.verdict import Decision, Verdict
from kdx.imaging.field_of_view import WHOLE

WIDTH, HEIGHT = 96, 64


@pytest.fixture(scope="module")
def images() -> list[LabelledImage]:
    """An image with two regions, one of them at the corner, and one without."""
    values = np.zeros((16, 24), np.float32)
    values[2:5, 3:9], values[15, 23] = 0.7, 0.9
    place = MapPlace(WIDTH, HEIGHT, WHOLE)
    shown = [Verdict(Decision.DEFECTIVE, 0.9, 0.5, each, 0.5) for each in (values, np.zeros_like(values))]
    return [
        LabelledImage.of(name, each, place, 0.0) for name, each in zip(["a b/ü.png", "good.png"], shown, strict=True)
    ]


@pytest.fixture
def coco(images, tmp_path) -> Path:
    file = tmp_path / "regions.coco.json"
    file.write_text(json.dumps(coco_document(images, "regions")), encoding="utf-8")
    return file


def test_the_tools_of_coco_take_it(images, coco, capsys):
    read = pytest.importorskip("pycocotools.coco").COCO(str(coco))
    assert read.getImgIds() == [1, 2]
    assert [each["name"] for each in read.loadCats(read.getCatIds())] == ["defect"]
    found = read.loadAnns(read.getAnnIds(imgIds=[1]))
    assert [each["bbox"] for each in found] == [[92, 60, 4, 4], [12, 8, 24, 12]]  # the hottest first
    assert [each["area"] for each in found] == [16, 288]
    assert [each["segmentation"] for each in found] == [
        [[92, 60, 96, 60, 96, 64, 92, 64]],
        [[12, 8, 36, 8, 36, 20, 12, 20]],
    ]
    assert [read.annToMask(each).sum() for each in found] == [16, 288]
    assert read.getAnnIds(imgIds=[2]) == []
    assert read.getAnnIds(areaRng=[100, 1e5]) == [2]
    results = read.loadRes([{key: each[key] for key in ("image_id", "category_id", "bbox", "score")} for each in found])
    assert len(results.anns) == 2


BOXES = [[92, 60, 96, 64], [12, 8, 36, 20]]  # the corners, as supervision has them


def test_roboflow_imports_coco(images, coco, tmp_path):
    supervision = pytest.importorskip("supervision")
    read = supervision.DetectionDataset.from_coco(str(tmp_path), str(coco))
    assert read.classes == ["defect"]
    assert [Path(path).relative_to(tmp_path).as_posix() for path in read.image_paths] == ["a b/ü.png", "good.png"]
    first, second = (read.annotations[path] for path in read.image_paths)
    np.testing.assert_allclose(first.xyxy, BOXES)
    assert len(second) == 0


def test_roboflow_imports_yolo(images, tmp_path):
    supervision = pytest.importorskip("supervision")
    for image in images:
        name = Path(image.name).name  # the importer looks into one folder
        for folder in ("images", "labels"):
            (tmp_path / folder).mkdir(exist_ok=True)
        Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / "images" / name)
        (tmp_path / "labels" / name).with_suffix(".txt").write_text(yolo_text(image), encoding="ascii")
    (tmp_path / "data.yaml").write_text(YOLO_DATA, encoding="ascii")
    places = (tmp_path / name for name in ("images", "labels", "data.yaml"))
    read = supervision.DetectionDataset.from_yolo(*map(str, places))
    assert read.classes == ["defect"]
    found = {Path(path).name: boxes for path, boxes in read.annotations.items()}
    np.testing.assert_allclose(found["ü.png"].xyxy, BOXES, atol=1e-5)
    assert len(found["good.png"]) == 0


def test_yolo_has_shares_of_the_image(images):
    lines = yolo_text(images[0]).splitlines()
    assert lines[0] == f"0 {94 / 96:.8f} {62 / 64:.8f} {4 / 96:.8f} {4 / 64:.8f}"
    assert yolo_text(images[1]) == ""
    whole = LabelledImage("a", 3, 7, find_regions(np.ones((4, 4), np.float32), 0.5, (7, 3)), [])
    values = [float(part) for part in yolo_text(whole).split()[1:]]
    assert values == [0.5, 0.5, 1.0, 1.0]
