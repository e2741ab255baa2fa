"""Regions as annotations for labelling tools: one COCO file, or a YOLO file for each image.

A region becomes a bounding box of one class, in pixels of the upright image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdx.decision.regions import Region

CLASS = "defect"
# What Ultralytics and Roboflow read beside the labels; the images are in a folder beside them.
YOLO_DATA = f"path: .\ntrain: images\nval: images\nnames:\n  0: {CLASS}\n"


@dataclass(frozen=True)
class LabelledImage:
    """An image and its regions.

    Attributes:
        name: Its path relative to the folder of the images, with slashes.
        width: The number of columns of the upright image.
        height: The number of rows of the upright image.
        regions: Its regions, in pixels of the image; none for an image without defects.
    """

    name: str
    width: int
    height: int
    regions: Sequence[Region]


def coco_document(images: Sequence[LabelledImage], description: str) -> dict[str, object]:
    """Return images and boxes in COCO's format for object detection.

    The key ``score`` of an annotation is the region's highest map value.
    """
    found = [(number, region) for number, image in enumerate(images, start=1) for region in image.regions]
    return {
        "info": {"description": description},
        "licenses": [],
        "images": [
            {"id": number, "file_name": image.name, "width": image.width, "height": image.height}
            for number, image in enumerate(images, start=1)
        ],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": 1,
                "bbox": [region.left, region.top, region.width, region.height],
                "area": region.area,
                "segmentation": [],
                "iscrowd": 0,
                "score": region.peak,
            }
            for number, (image, region) in enumerate(found, start=1)
        ],
        "categories": [{"id": 1, "name": CLASS, "supercategory": CLASS}],
    }


def yolo_text(image: LabelledImage) -> str:
    """Return an image's boxes in YOLO's format, one a line: class, middle, width and height.

    Places and lengths are shares of the image's width and height.
    """
    lines = []
    for region in image.regions:
        middle = (region.left + region.width / 2) / image.width, (region.top + region.height / 2) / image.height
        size = region.width / image.width, region.height / image.height
        lines.append(f"0 {' '.join(f'{min(share, 1.0):.8f}' for share in (*middle, *size))}\n")
    return "".join(lines)
