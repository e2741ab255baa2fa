"""Heat maps: the anomaly map over its image, on one scale for all images of a bundle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from kdx.decision.verdict import Decision, Verdict, require_whole_map
from kdx.imaging.field_of_view import WHOLE, FieldOfView

# Colours from low values to values far above the threshold, interpolated linearly; readable in grey
# as well.
_COLOURS = np.array([[20, 11, 52], [90, 16, 110], [187, 55, 84], [249, 142, 9], [252, 255, 164]], dtype=np.float64)
_STRONGEST_BLEND = 0.75  # the image stays visible everywhere
_CAPTION_HEIGHT = 40
_CAPTION_COLOURS = {
    Decision.GOOD: (24, 104, 58),
    Decision.REVIEW: (150, 96, 12),
    Decision.DEFECTIVE: (158, 27, 40),
    Decision.UNDECIDED: (84, 84, 92),
}
_UNSEEN = 0.35  # share of the brightness that is kept where the detector does not see
# Images with a smaller side are enlarged so that the outline can be seen, but no side beyond the
# longest one.
_SMALLEST_SIDE, _LONGEST_SIDE = 320, 2048
_ROWS = 128  # rows that are blended at once: the blend takes 100 bytes and more for each pixel


def render_overlay(
    image: NDArray[np.uint8],
    verdict: Verdict,
    name: str,
    view: FieldOfView = WHOLE,
    included: NDArray[np.bool_] | None = None,
) -> Image.Image:
    """Draw an image and, beside it, the image with heat map, outline and caption.

    The outline is drawn at the pixel threshold.

    Colour begins at half the pixel threshold and is strongest at twice the threshold. Without a
    threshold, it is strongest at the map's own maximum, however low that is, and the caption says
    so.

    Args:
        image: The image, uint8 ``(H, W, 1)`` or RGB ``(H, W, 3)``.
        verdict: The verdict on it.
        name: The file's name, for the caption.
        view: The part of the image that the map covers; the rest is darkened.
        included: The region of interest, bool ``(H, W)``; the rest is darkened. None for the whole
            image.

    Returns:
        An RGB image: the two pictures side by side, below the caption. Images with a side below
        320 pixels are enlarged, to at most 2,048 pixels.

    Raises:
        InputError: The map is of a frame that was read in bands.
    """
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).convert("RGB")
    longest = max(_LONGEST_SIDE, *picture.size)  # large images are not reduced
    picture = picture.resize(shown_size(*picture.size, _SMALLEST_SIDE, longest), Image.Resampling.BILINEAR)
    shown = view.scaled((image.shape[1], image.shape[0]), picture.size)
    layer = _layer(verdict.anomaly_map, picture.size, verdict.pixel_threshold, shown, included)
    own_scale = None if verdict.pixel_threshold else layer.full
    heated = _heated(np.array(picture), layer)
    width, height = picture.size
    # The caption needs its width beside narrow images too.
    size = 2 * max(width, _SMALLEST_SIDE) + 4, height + _CAPTION_HEIGHT
    sheet = Image.new("RGB", size, _CAPTION_COLOURS[verdict.decision])
    sheet.paste(picture, (0, _CAPTION_HEIGHT))
    sheet.paste(Image.fromarray(heated), (width + 4, _CAPTION_HEIGHT))
    _caption(sheet, caption_lines(verdict, name, own_scale))
    return sheet


def shown_size(width: int, height: int, smallest: int, longest: int) -> tuple[int, int]:
    """Return the width and height at which an image is shown: its own, where they suit.

    Args:
        width: The image's width, in pixels.
        height: The image's height, in pixels.
        smallest: An image with a smaller side is enlarged.
        longest: The longest side of what is shown, whatever ``smallest`` is.
    """
    factor = min(max(1.0, smallest / min(width, height)), longest / max(width, height))
    return max(1, round(width * factor)), max(1, round(height * factor))


def heat_layer(
    anomaly_map: NDArray[np.float32],
    size: tuple[int, int],
    pixel_threshold: float | None,
    view: FieldOfView = WHOLE,
    included: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint8]:
    """Return the heat map of :func:`render_overlay` as a layer, RGBA ``(height, width, 4)``.

    Args:
        anomaly_map: The map, float32 ``(h, w)``.
        size: The width and height of the image.
        pixel_threshold: The map value that defines the colour scale and the outline, or None.
        view: The part of the image of this size that the map covers.
        included: The region of interest, bool ``(H, W)``; None for the whole image.

    Raises:
        InputError: The map is of a frame that was read in bands.
    """
    layer = _layer(anomaly_map, size, pixel_threshold, view, included)
    drawn = np.zeros((*layer.heat.shape, 4))
    drawn[..., :3] = _colours(layer.heat)
    drawn[..., 3] = 255 * _weight(layer.heat)
    drawn[layer.outside] = (0, 0, 0, 255 * (1 - _UNSEEN))
    drawn[layer.outline] = 255
    return np.rint(drawn).astype(np.uint8)


@dataclass(frozen=True)
class _Layer:
    """What is drawn over an image.

    Attributes:
        heat: The colour of each pixel, 0 to 1.
        outline: The pixels at which the map crosses the threshold.
        outside: The pixels that the map or the region of interest does not cover.
        full: The map value at which ``heat`` is 1.
    """

    heat: NDArray[np.float64]
    outline: NDArray[np.bool_]
    outside: NDArray[np.bool_]
    full: float


def _layer(
    anomaly_map: NDArray[np.float32],
    size: tuple[int, int],
    limit: float | None,
    view: FieldOfView,
    included: NDArray[np.bool_] | None,
) -> _Layer:
    from scipy.ndimage import binary_erosion

    require_whole_map(anomaly_map)
    left, top, right, bottom = (round(edge) for edge in view.box(*size))
    raw = Image.fromarray(anomaly_map).resize((right - left, bottom - top), Image.Resampling.BILINEAR)
    values = np.zeros((size[1], size[0]))
    values[top:bottom, left:right] = np.asarray(raw, dtype=np.float64)
    is_finite = np.isfinite(values)
    full = 2 * limit if limit else float(values.max(where=is_finite, initial=0.0))
    faintest = full / 4
    # Values that are not finite get the strongest colour.
    values = np.where(is_finite, values, np.float64(full or 1.0))
    heat = np.clip((values - faintest) / (full - faintest), 0.0, 1.0) if full > 0 else (~is_finite).astype(np.float64)
    outside = np.ones(values.shape, dtype=bool)
    outside[top:bottom, left:right] = False
    if included is not None:
        outside |= ~np.asarray(Image.fromarray(included).resize(size, Image.Resampling.NEAREST))
    over = (values > limit) & ~outside if limit else np.zeros_like(outside)
    return _Layer(heat, over & ~binary_erosion(over, iterations=2), outside, full)


def _heated(picture: NDArray[np.uint8], layer: _Layer) -> NDArray[np.uint8]:
    """Draw a layer over a picture, in the picture's memory, and return it."""
    for top in range(0, len(picture), _ROWS):
        rows = slice(top, top + _ROWS)
        weight = _weight(layer.heat[rows])[..., None]
        blended = picture[rows] * (1 - weight) + _colours(layer.heat[rows]) * weight
        blended[layer.outside[rows]] *= _UNSEEN
        picture[rows] = blended
    picture[layer.outline] = 255
    return picture


def _colours(heat: NDArray[np.float64]) -> NDArray[np.float64]:
    positions = np.linspace(0.0, 1.0, len(_COLOURS))
    return np.stack([np.interp(heat, positions, _COLOURS[:, channel]) for channel in range(3)], axis=-1)


def _weight(heat: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weight of the colour, which grows with the heat; cold regions stay unchanged."""
    weight: NDArray[np.float64] = _STRONGEST_BLEND * np.sqrt(heat)
    return weight


def caption_lines(verdict: Verdict, name: str, own_scale: float | None) -> tuple[str, str]:
    """Return the two lines of a caption.

    Args:
        verdict: The verdict.
        name: The file's name.
        own_scale: The map's maximum, if it defines the colour scale because there is no threshold;
            else None.
    """
    margin = ""
    if verdict.margin is not None:
        margin = f"   {abs(verdict.margin):.0%} {'above' if verdict.margin > 0 else 'below'} threshold"
    scale = "" if own_scale is None else f"no threshold: colours up to this map's own maximum, {own_scale:.3g}   "
    return f"{verdict.decision.value.upper()}   score {verdict.score:.4g}{margin}", f"{scale}{name}"


def _caption(sheet: Image.Image, lines: tuple[str, str]) -> None:
    draw = ImageDraw.Draw(sheet)
    draw.text((8, 3), lines[0], (255, 255, 255), ImageFont.load_default(15))
    draw.text((8, 23), lines[1], (225, 225, 225), ImageFont.load_default(12))
