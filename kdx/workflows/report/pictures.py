"""The gallery's pictures: image, heat map and mask, so small that a page takes hundreds."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kd_train.evaluation.evaluate import Scored
from kdx.decision.overlay import heat_layer
from kdx.errors import ImageError
from kdx.folders.data_folder import GOOD
from kdx.imaging.images import decode_image, read_image
from kdx.imaging.masks import read_mask
from kdx.imaging.resampling import any_within
from kdx.progress import SILENT, Progress
from kdx.runtime.detector import Detector

MOST_PICTURES = 300
_SIDE = 320  # pixels, of the longer side
# Of all pictures as they stand in the page; it must stay below 30 MB, whatever the images hold.
_MOST_BYTES = 22_000_000


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """One image of the gallery; pictures are data URLs.

    Attributes:
        index: Index of the image among those that were scored.
        name: Path of the file, relative to the data folder.
        width: Width of the pictures, in pixels.
        height: Height of the pictures, in pixels.
        image: JPEG.
        heat: What is laid over it: WebP with transparency.
        mask: PNG; empty where there is none.
        peak: Where the map is hottest, from left and top, as shares of width and height.
    """

    index: int
    name: str
    width: int
    height: int
    image: str
    heat: str
    mask: str
    peak: tuple[float, float]


def take_pictures(
    detector: Detector, scored: Scored, root: Path, progress: Progress = SILENT, *, most_bytes: int = _MOST_BYTES
) -> list[Picture]:
    """Return pictures of the worst mistakes: good and defective images in turns."""
    pictures: list[Picture] = []
    size = 0
    order = worst_first(scored)[:MOST_PICTURES]
    with progress.task("drawing", len(order)) as task:
        for index in order:
            task.advance()
            try:
                picture = _picture(detector, scored, index, root)
            except ImageError:  # gone since it was scored
                continue
            size += len(picture.image) + len(picture.heat) + len(picture.mask)
            if size > most_bytes:
                break
            pictures.append(picture)
    return pictures


def worst_first(scored: Scored) -> list[int]:
    """Return positions of all images in turns: good by falling, defective by rising score."""
    ascending = np.argsort(scored.scores, kind="stable").tolist()
    is_good = scored.types == GOOD
    good = [i for i in reversed(ascending) if is_good[i]]
    defective = [i for i in ascending if not is_good[i]]
    return list(_in_turns(good, defective))


def _in_turns(*lists: Sequence[int]) -> Iterator[int]:
    for row in zip_longest(*lists):
        yield from (item for item in row if item is not None)


def _picture(detector: Detector, scored: Scored, index: int, root: Path) -> Picture:
    shown, spec = scored.images[index], detector.input
    pixels = decode_image(shown.path, channels=spec.channels, sixteen_bit_range=spec.sixteen_bit_range)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    factor = _SIDE / max(image.size)
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    map_ = detector.outputs([read_image(shown.path, spec)]).maps[0]
    included = detector.roi.included if detector.roi else None
    heat = heat_layer(map_, size, detector.pixel_threshold, detector.view.scaled(image.size, size), included)
    mask = ""
    if shown.mask is not None:
        # Any part of a pixel counts: a crack a pixel wide must not vanish.
        mask = _url(Image.fromarray(any_within(read_mask(shown.mask), size[::-1])), "PNG", optimize=True)
    return Picture(
        index=index,
        name=shown.path.relative_to(root).as_posix() if shown.path.is_relative_to(root) else str(shown.path),
        width=size[0],
        height=size[1],
        image=_url(image.resize(size, Image.Resampling.LANCZOS), "JPEG", quality=80),
        heat=_url(Image.fromarray(heat), "WEBP", quality=60),
        mask=mask,
        peak=_peak(map_, detector.view.box(*image.size), image.size),
    )


def _peak(
    anomaly_map: NDArray[np.float32], box: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[float, float]:
    """Return where a map is highest, as shares of the image's width and height."""
    y, x = np.unravel_index(int(anomaly_map.argmax()), anomaly_map.shape)
    height, width = anomaly_map.shape
    left, top, right, bottom = box
    across, down = left + (right - left) * (float(x) + 0.5) / width, top + (bottom - top) * (float(y) + 0.5) / height
    return across / size[0], down / size[1]


def _url(image: Image.Image, kind: str, **options: int) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
