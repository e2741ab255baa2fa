"""The defects in a map: connected regions above the pixel threshold, in pixels and in mm².

``embed/src/regions.cpp`` finds the same regions in the same order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label

from kdx.errors import InputError, OptionError
from kdx.imaging.field_of_view import WHOLE, FieldOfView

# Diagonal neighbours are connected: a thin scratch is one defect.
_NEIGHBOURS = np.ones((3, 3), int)


@dataclass(frozen=True)
class Region:
    """A connected region of a map above the pixel threshold. Lengths are in pixels of the camera.

    Attributes:
        area: The area in pixels.
        area_mm2: The area in mm²; None if the size of a pixel is not known.
        top: The first row of the bounding box.
        left: The first column of the bounding box.
        height: The height of the bounding box.
        width: The width of the bounding box.
        peak: The largest value of the map in the region.
        peak_row: The row of that value, at the middle of the map's pixel.
        peak_column: The column of that value, at the middle of the map's pixel.
    """

    area: float
    area_mm2: float | None
    top: float
    left: float
    height: float
    width: float
    peak: float
    peak_row: float
    peak_column: float


def find_regions(
    anomaly_map: NDArray[np.float32],
    pixel_threshold: float,
    image_size: tuple[int, int],
    *,
    view: FieldOfView = WHOLE,
    min_area: float = 0.0,
    pixel_size_um: float | None = None,
) -> list[Region]:
    """Return the regions of a map, the region with the highest peak first.

    Args:
        anomaly_map: The map, float32 ``(h, w)``.
        pixel_threshold: The value that all values of a region exceed.
        image_size: The height and width of the camera's image.
        view: The part of the image that the map covers.
        min_area: The smallest area of a region, in pixels of the camera; smaller regions are
            omitted.
        pixel_size_um: The length on the part that one pixel of the camera shows, in micrometres.

    Raises:
        InputError: The map contains values that are not finite.
        OptionError: An invalid area or pixel size.
    """
    if not np.isfinite(anomaly_map).all():
        raise InputError(
            "a map with values that are not finite has no regions",
            expected="the map of an answer that the method can give",
            fix="run kdx verify: the runtime, its driver or the graph is at fault",
        )
    if not (math.isfinite(min_area) and min_area >= 0):
        raise OptionError("invalid `min_area`", expected="0 or above", received=f"{min_area:g}")
    if pixel_size_um is not None and not (math.isfinite(pixel_size_um) and pixel_size_um > 0):
        raise OptionError("invalid `pixel_size_um`", expected="above 0 µm", received=f"{pixel_size_um:g}")
    left, top, right, bottom = view.box(image_size[1], image_size[0])
    down, across = (bottom - top) / anomaly_map.shape[0], (right - left) / anomaly_map.shape[1]
    labels, _ = label(anomaly_map > pixel_threshold, _NEIGHBOURS)
    regions = []
    for number, (rows, columns) in enumerate(find_objects(labels), start=1):
        inside = labels[rows, columns] == number
        area = float(inside.sum()) * down * across
        if area < min_area:
            continue
        values = np.where(inside, anomaly_map[rows, columns], -np.inf)
        row, column = np.unravel_index(int(values.argmax()), values.shape)
        regions.append(
            Region(
                area=area,
                area_mm2=None if pixel_size_um is None else area * (pixel_size_um / 1e3) ** 2,
                top=top + rows.start * down,
                left=left + columns.start * across,
                height=(rows.stop - rows.start) * down,
                width=(columns.stop - columns.start) * across,
                peak=float(values.max()),
                peak_row=top + (rows.start + float(row) + 0.5) * down,
                peak_column=left + (columns.start + float(column) + 0.5) * across,
            )
        )
    return sorted(regions, key=lambda region: (-region.peak, region.top, region.left))
