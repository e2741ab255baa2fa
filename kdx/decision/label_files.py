"""Regions as annotations for labelling tools: one COCO file, or a YOLO file for each image.

A region becomes a bounding box of one class, in pixels of the upright image. COCO's format has its
outline too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdx.decision.map_files import MapPlace
from kdx.decision.outlines import outlines_of
from kdx.decision.regions import Region, find_regions
from kdx.decision.verdict import Verdict

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
        outlines: The polygons of each region, see :func:`kdx.decision.outlines.outlines_of`; none
            for regions whose map was never whole.
    """

    name: str
    width: int
    height: int
    regions: Sequence[Region]
    outlines: Sequence[list[list[float]]]

    @classmethod
    def of(cls, name: str, verdict: Verdict, place: MapPlace, min_area: float) -> LabelledImage:
        """Return an image with what a verdict says of it.

        Args:
            name: As above.
            verdict: The verdict, which has a pixel threshold.
            place: Where its map lies.
            min_area: The smallest area of a region, in pixels of the image.

        Raises:
            InputError: The verdict has no whole map, or it is of an invalid answer.
            OptionError: An invalid area.
        """
        values, threshold = verdict.anomaly_map, verdict.pixel_threshold
        assert threshold is not None
        regions = find_regions(values, threshold, (place.height, place.width), view=place.view, min_area=min_area)
        return cls(name, place.width, place.height, regions, outlines_of(regions, values, threshold, place))


def coco_document(images: Sequence[LabelledImage], description: str) -> dict[str, object]:
    """Return images, boxes and outlines in COCO's format for object detection.

    The key ``score`` of an annotation is the region's highest map value.
    """
    found = [
        (number, region, polygons)
        for number, image in enumerate(images, start=1)
        for region, polygons in zip(image.regions, image.outlines, strict=True)
    ]
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
                "segmentation": polygons,
                "iscrowd": 0,
                "score": region.peak,
            }
            for number, (image, region, polygons) in enumerate(found, start=1)
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
