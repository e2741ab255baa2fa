"""Maps and masks as files for other programs: NumPy, ImageJ, HALCON, or any viewer.

A map is written with the values and the size that the detector computed. The JSON file beside it
says which part of the image it covers. A mask has the image's size.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from kdx.decision.verdict import Verdict, above, locates_defects, require_whole_map
from kdx.errors import OptionError
from kdx.imaging.field_of_view import FieldOfView
from kdx.imaging.images import encode_png
from kdx.storage.files import write_atomic
from kdx.storage.json_output import encode_json
from kdx.storage.npy import encode_array

MapFormat = Literal["npy", "tiff", "png"]
MAP_FORMATS: tuple[MapFormat, ...] = ("npy", "tiff", "png")
MAPS, MASKS = "maps", "masks"
_DEEPEST = 65535
# A PNG's largest value is this many pixel thresholds, unless the map exceeds it.
_FULL = 2.0


@dataclass(frozen=True)
class MapPlace:
    """The part of an image that a map covers, in pixels of the upright image.

    Attributes:
        width: The number of columns of the image.
        height: The number of rows of the image.
        view: The part.
    """

    width: int
    height: int
    view: FieldOfView

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the part."""
        return self.view.box(self.width, self.height)

    def steps(self, map_size: tuple[int, ...]) -> tuple[float, float]:
        """Return how many rows and columns of the image a pixel of the map covers."""
        left, top, right, bottom = self.box
        return (bottom - top) / map_size[0], (right - left) / map_size[1]

    def mask(self, anomaly_map: NDArray[np.float32], pixel_threshold: float) -> NDArray[np.uint8]:
        """Return a mask of the image's size, uint8 ``(height, width)``.

        It is 255 where the middle of a pixel lies in a pixel of the map above the threshold, and 0
        elsewhere, also where the map does not reach.

        Raises:
            InputError: The map is of a frame that was read in bands.
        """
        require_whole_map(anomaly_map)
        down, across = self.steps(anomaly_map.shape)
        rows, has_row = _indices(self.height, self.box[1], down, anomaly_map.shape[0])
        columns, has_column = _indices(self.width, self.box[0], across, anomaly_map.shape[1])
        over = above(anomaly_map, pixel_threshold)[np.ix_(rows, columns)]
        mask: NDArray[np.uint8] = (over & has_row[:, None] & has_column[None, :]).astype(np.uint8) * np.uint8(255)
        return mask


def _indices(length: int, start: float, step: float, count: int) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return the map's pixel of each pixel of the image along an axis, and whether there is one."""
    found = np.floor((np.arange(length) + 0.5 - start) / step).astype(np.intp)
    return np.clip(found, 0, count - 1), (found >= 0) & (found < count)


def map_format(text: str) -> MapFormat:
    """Return the format that a user named.

    Raises:
        OptionError: There is no such format.
    """
    found = next((form for form in MAP_FORMATS if form == text), None)
    if found is None:
        raise OptionError("invalid `maps`", expected=" or ".join(MAP_FORMATS), received=text)
    return found


@dataclass(frozen=True)
class MapFiles:
    """Which files are written of each verdict, and where.

    Attributes:
        folder: The folder; maps and masks go into folders in it.
        maps: The format of maps; None for no maps.
        masks: Whether masks are written.
    """

    folder: Path
    maps: MapFormat | None = None
    masks: bool = False

    def targets(self, name: str) -> dict[str, Path]:
        """Return the files of an image, as ``map``, ``about`` (the JSON beside it) and ``mask``.

        Args:
            name: The image's name, with folders and suffix: names that differ have other files.
        """
        beside = self.folder / MAPS
        files = {"map": beside / f"{name}.{self.maps}", "about": beside / f"{name}.json"} if self.maps else {}
        return files | ({"mask": self.folder / MASKS / f"{name}.png"} if self.masks else {})

    def remove(self, name: str) -> None:
        """Remove the files of an image that an earlier call wrote.

        Raises:
            OSError: A file cannot be removed.
        """
        for file in self.targets(name).values():
            file.unlink(missing_ok=True)

    def write(self, name: str, verdict: Verdict, place: MapPlace) -> dict[str, Path]:
        """Write the files of a verdict, each in one step; return its map and its mask.

        A verdict on an invalid answer has none: its map says nothing about the part. One on a frame
        that shows no part has no mask, which would say that there are no defects. Files that an
        earlier call wrote are removed then.

        Args:
            name: As for :meth:`targets`.
            verdict: The verdict; masks need its pixel threshold.
            place: Where its map lies.

        Raises:
            OSError: A file cannot be written.
        """
        if verdict.reason is not None and verdict.reason.is_of_answer:
            self.remove(name)
            return {}
        files = self.targets(name)
        if self.masks and not locates_defects(verdict):
            files.pop("mask").unlink(missing_ok=True)
        for file in files.values():
            file.parent.mkdir(parents=True, exist_ok=True)
        if self.maps is not None:
            encoded, scale = encode_map(verdict, place, self.maps)
            write_atomic(files["map"], encoded)
            about = _description(name, files["map"].name, verdict, place, scale)
            write_atomic(files.pop("about"), encode_json(about) + b"\n")
        if "mask" in files:
            assert verdict.pixel_threshold is not None
            mask = place.mask(verdict.anomaly_map, verdict.pixel_threshold)
            write_atomic(files["mask"], encode_png(mask[..., None]))
        return files


def encode_map(verdict: Verdict, place: MapPlace, form: MapFormat) -> tuple[bytes, float]:
    """Return a map as a file's content, and the factor that turns its values into the map's.

    Args:
        verdict: The verdict with the map, whose values are finite.
        place: Where the map lies.
        form: ``npy`` or ``tiff``: float32, the values themselves; ``png``: 16 bits, scaled so that
            65535 is twice the pixel threshold, or the largest value if that is higher.

    Raises:
        InputError: The map is of a frame that was read in bands.
    """
    values = verdict.anomaly_map
    require_whole_map(values)
    full = max(_FULL * (verdict.pixel_threshold or 0.0), float(values.max()))
    if form == "npy":
        return encode_array(values), 1.0
    buffer = io.BytesIO()
    if form == "tiff":
        Image.fromarray(values).save(buffer, format="TIFF", tiffinfo=_imagej_tags(values.shape, place, full))
        return buffer.getvalue(), 1.0
    scale = full / _DEEPEST if full > 0 else 1.0
    stored = np.clip(np.rint(values.astype(np.float64) / scale), 0, _DEEPEST).astype(np.uint16)
    Image.fromarray(stored).save(buffer, format="PNG")
    return buffer.getvalue(), scale


def _imagej_tags(shape: tuple[int, ...], place: MapPlace, full: float) -> TiffImagePlugin.ImageFileDirectory_v2:
    """Return tags by which ImageJ shows places in pixels of the image, and a range of grey values.

    Other programs ignore them.
    """
    down, across = place.steps(shape)
    lines = {
        "ImageJ": "1.54",
        "unit": "px",
        "min": 0.0,
        "max": full,
        "xorigin": -place.box[0] / across,
        "yorigin": -place.box[1] / down,
    }
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[270] = "".join(f"{name}={value}\n" for name, value in lines.items())
    tags[282], tags[283], tags[296] = 1 / across, 1 / down, 1  # pixels of the map per pixel of the image
    return tags


def _description(name: str, file: str, verdict: Verdict, place: MapPlace, scale: float) -> dict[str, object]:
    """Return what the JSON file beside a map says: what its pixels and its values are."""
    left, top, right, bottom = (round(edge, 6) for edge in place.box)
    down, across = place.steps(verdict.anomaly_map.shape)
    height, width = verdict.anomaly_map.shape
    return {
        "image": name,
        "image_size": {"width": place.width, "height": place.height},
        "map": file,
        "map_size": {"width": width, "height": height},
        "covers": {"left": left, "top": top, "right": right, "bottom": bottom},
        "image_pixels_per_map_pixel": {"across": across, "down": down},
        "scale": scale,
        "pixel_threshold": verdict.pixel_threshold,
        "score": verdict.score,
        "verdict": verdict.decision.value,
    }
