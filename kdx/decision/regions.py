"""The defects in a map: connected regions above the pixel threshold, in pixels and in mm².

``embed/src/regions.cpp`` finds the same regions in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdx.decision.verdict import above, require_whole_map
from kdx.errors import InputError, OptionError
from kdx.imaging.field_of_view import WHOLE, FieldOfView

# Diagonal neighbours are connected: a thin scratch is one defect.
NEIGHBOURS = np.ones((3, 3), int)


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


class Patch(NamedTuple):
    """A connected part of a map, in pixels of the map; ``bottom`` and ``right`` are exclusive."""

    pixels: int
    top: int
    left: int
    bottom: int
    right: int
    peak: float
    peak_row: int
    peak_column: int

    @classmethod
    def of(cls, inside: NDArray[np.bool_], values: NDArray[np.float32], top: int, left: int) -> Patch:
        """Return the part that is True in ``inside``, which begins at ``top`` and ``left``."""
        highest = np.where(inside, values, -np.inf)
        row, column = np.unravel_index(int(highest.argmax()), highest.shape)
        bottom, right = top + inside.shape[0], left + inside.shape[1]
        peak = float(highest.max())
        return cls(int(inside.sum()), top, left, bottom, right, peak, top + int(row), left + int(column))

    def joined(self, other: Patch) -> Patch:
        """Return both parts as one; of equal peaks, the upper left one remains."""
        higher = min((self, other), key=lambda patch: (-patch.peak, patch.peak_row, patch.peak_column))
        return Patch(
            self.pixels + other.pixels,
            min(self.top, other.top),
            min(self.left, other.left),
            max(self.bottom, other.bottom),
            max(self.right, other.right),
            *higher[5:],
        )


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
        InputError: The map contains values that are not finite, or is of a frame that was read in
            bands.
        OptionError: An invalid area or pixel size.
    """
    require_whole_map(anomaly_map)
    if not np.isfinite(anomaly_map).all():
        raise invalid_answer("values that are not finite")
    # To import SciPy takes as long as the rest of a process that scores; most need no regions.
    from scipy.ndimage import find_objects, label

    labels, _ = label(above(anomaly_map, pixel_threshold), NEIGHBOURS)
    patches = [
        Patch.of(labels[place] == number, anomaly_map[place], place[0].start, place[1].start)
        for number, place in enumerate(find_objects(labels), start=1)
    ]
    return regions_of(patches, anomaly_map.shape, image_size, view=view, min_area=min_area, pixel_size_um=pixel_size_um)


def invalid_answer(received: str) -> InputError:
    """Return the error for regions of an answer that the method cannot give."""
    return InputError(
        "the map of an invalid answer has no regions",
        expected="the map of an answer that the method can give",
        received=received,
        fix="run kdx verify: the runtime, its driver or the graph is at fault",
    )


def require_sizes(min_area: float, pixel_size_um: float | None = None) -> None:
    """Raise ``OptionError`` for an invalid area or pixel size of :func:`find_regions`."""
    if not (math.isfinite(min_area) and min_area >= 0):
        raise OptionError("invalid `min_area`", expected="0 or above", received=f"{min_area:g}")
    if pixel_size_um is not None and not (math.isfinite(pixel_size_um) and pixel_size_um > 0):
        raise OptionError("invalid `pixel_size_um`", expected="above 0 µm", received=f"{pixel_size_um:g}")


def regions_of(
    patches: Iterable[Patch],
    map_size: tuple[int, ...],
    image_size: tuple[int, int],
    *,
    view: FieldOfView = WHOLE,
    min_area: float = 0.0,
    pixel_size_um: float | None = None,
) -> list[Region]:
    """Return connected parts of a map as regions of the camera's image, as :func:`find_regions`.

    Args:
        patches: The parts.
        map_size: The height and width of the map.
        image_size: As for :func:`find_regions`.
        view: As for :func:`find_regions`.
        min_area: As for :func:`find_regions`.
        pixel_size_um: As for :func:`find_regions`.

    Raises:
        OptionError: An invalid area or pixel size.
    """
    require_sizes(min_area, pixel_size_um)
    left, top, right, bottom = view.box(image_size[1], image_size[0])
    down, across = (bottom - top) / map_size[0], (right - left) / map_size[1]
    regions = []
    for patch in patches:
        area = float(patch.pixels) * down * across
        if area < min_area:
            continue
        regions.append(
            Region(
                area=area,
                area_mm2=None if pixel_size_um is None else area * (pixel_size_um / 1e3) ** 2,
                top=top + patch.top * down,
                left=left + patch.left * across,
                height=(patch.bottom - patch.top) * down,
                width=(patch.right - patch.left) * across,
                peak=patch.peak,
                peak_row=top + (patch.peak_row + 0.5) * down,
                peak_column=left + (patch.peak_column + 0.5) * across,
            )
        )
    return sorted(regions, key=lambda region: (-region.peak, region.top, region.left))
