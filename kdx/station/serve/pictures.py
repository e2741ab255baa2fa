"""Pictures of verdicts for the page: the image, and its heat map as a layer over it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kdx.decision.overlay import heat_layer, shown_size
from kdx.imaging.images import decode_image
from kdx.runtime.detector import Detector
from kdx.station.serve.sent_image import frame_of

if TYPE_CHECKING:
    from kdx.station.serve.live import Seen

# The longest side of pictures. The outline of a heat map is two pixels wide: a layer over a smaller
# image has at least this shorter side.
_LONGEST, _SMALLEST_LAYER = 960, 320
WEBP, PNG = "image/webp", "image/png"


def rgb_of(seen: Seen, detector: Detector) -> NDArray[np.uint8]:
    """Return the image as the detector took it: uint8 RGB ``(H, W, 3)`` or grey ``(H, W, 1)``.

    Raises:
        ImageError: As for :func:`kdx.station.serve.sent_image.frame_of`.
    """
    pixels = frame_of(seen.data, seen.asked.layout, detector.input).pixels
    is_bgr = detector.input.channel_order == "bgr" and pixels.shape[2] == 3
    return np.ascontiguousarray(pixels[..., ::-1]) if is_bgr else pixels


def picture_of(seen: Seen, detector: Detector) -> bytes:
    """Return the image as WebP, at most 960 pixels long.

    Raises:
        ImageError: As for :func:`rgb_of`.
    """
    return _webp(rgb_of(seen, detector), detector.input.width, detector.input.height)


def picture_of_file(file: Path, detector: Detector) -> bytes:
    """Return an image file as WebP, as :func:`picture_of` does.

    The file may be from before the bundle was replaced: it is shown whatever its size is.

    Raises:
        ImageError: The file cannot be read.
    """
    spec = detector.input
    pixels = decode_image(file, channels=spec.channels, sixteen_bit_range=spec.sixteen_bit_range)
    return _webp(pixels, spec.width, spec.height) if not spec.fixed_size else _webp(pixels, *pixels.shape[1::-1])


def heat_of(seen: Seen, detector: Detector) -> bytes | None:
    """Return the heat map with the outline at the pixel threshold, as PNG with an alpha channel.

    None if there is no map, or none that says anything about the part.
    """
    if seen.anomaly_map is None or seen.verdict is None:
        return None
    spec = detector.input
    size = shown_size(spec.width, spec.height, _SMALLEST_LAYER, _LONGEST)
    view = detector.view.scaled((spec.width, spec.height), size)
    included = detector.roi.included if detector.roi else None
    layer = heat_layer(seen.anomaly_map, size, seen.verdict.pixel_threshold, view, included)
    buffer = io.BytesIO()
    Image.fromarray(layer).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def _webp(pixels: NDArray[np.uint8], width: int, height: int) -> bytes:
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    buffer = io.BytesIO()
    size = shown_size(width, height, 1, _LONGEST)
    picture.resize(size, Image.Resampling.BOX).save(buffer, "WEBP", quality=85, method=2)
    return buffer.getvalue()
