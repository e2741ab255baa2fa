"""Where the defect is: connected parts of a map above its pixel threshold, in the camera's pixels and in mm².

``embed/src/regions.cpp`` finds the very same regions in the same order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label

from kdx.errors import InputError, OptionError
from kdx.imaging.images import centred_box

# Diagonal neighbours belong together: a thin scratch is one defect.
_NEIGHBOURS = np.ones((3, 3), int)


@dataclass(frozen=True)
class Region:
    """A connected part of a map above the pixel threshold.

    Attributes:
        area: In pixels of the camera.
        area_mm2: The same in mm²; None where the size of a pixel is not known.
        top: First row of its box, in pixels of the camera.
        left: First column.
        height: Rows of its box.
        width: Columns.
        peak: Largest value of the map in it.
        peak_row: Where that is, the middle of the map's pixel, in pixels of the camera.
        peak_column: Likewise.
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
    field_of_view: float = 1.0,
    min_area: float = 0.0,
    pixel_size_um: float | None = None,
) -> list[Region]:
    """Return the regions of a map, that with the highest peak first.

    Args:
        anomaly_map: float32 ``(h, w)``.
        pixel_threshold: A region's values exceed it.
        image_size: Height and width of the camera's image.
        field_of_view: Share of each side of the image, centred, that the map covers.
        min_area: Smaller regions are left out; in pixels of the camera.
        pixel_size_um: Side of what a pixel of the camera shows of the part, in micrometres.

    Raises:
        InputError: The map holds values that are not finite: where they lie, nothing is known.
        OptionError: An area or a pixel's size that is not possible.
    """
    if not np.isfinite(anomaly_map).all():
        raise InputError(
            "a map with values that are not finite has no regions",
            expected="the map of an answer that the method can give",
            fix="run kdx verify: the runtime, its driver or the graph is at fault",
        )
    if not (math.isfinite(min_area) and min_area >= 0):
        raise OptionError("the smallest area is not possible", expected="0 or above", received=f"{min_area:g}")
    if pixel_size_um is not None and not (math.isfinite(pixel_size_um) and pixel_size_um > 0):
        raise OptionError("the pixel size is not possible", expected="above 0 µm", received=f"{pixel_size_um:g}")
    left, top, right, bottom = centred_box(image_size[1], image_size[0], field_of_view)
    down, across = (bottom - top) / anomaly_map.shape[0], (right - left) / anomaly_map.shape[1]
    labels, _ = label(anomaly_map > pixel_threshold, _NEIGHBOURS)
    found = []
    for number, (rows, columns) in enumerate(find_objects(labels), start=1):
        inside = labels[rows, columns] == number
        area = float(inside.sum()) * down * across
        if area < min_area:
            continue
        values = np.where(inside, anomaly_map[rows, columns], -np.inf)
        row, column = np.unravel_index(int(values.argmax()), values.shape)
        found.append(
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
    return sorted(found, key=lambda region: (-region.peak, region.top, region.left))
