"""From decoded pixels, and from a camera's buffer, to the array that a detector accepts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kdx.errors import InputError
from kdx.imaging.decoded_image import DecodedImage, loses_colour
from kdx.imaging.images import InputSpec, fitted
from kdx.imaging.pixel_formats import decode_pixels, pixel_format_of
from kdx.imaging.sixteen_bits import apply_range, value_range_of


def decode_frame(
    data: bytes | bytearray | memoryview | NDArray[Any],
    pixel_format: str,
    width: int,
    height: int,
    spec: InputSpec,
    *,
    stride: int | None = None,
) -> NDArray[np.uint8]:
    """Decode a camera's buffer as :func:`kdx.decode_pixels`, into an array that a detector accepts.

    What :func:`kdx.read_image` does with a file is done here with a buffer: grey of more than 8
    bits is scaled by ``spec.sixteen_bit_range``, grey is repeated for a detector of colour images,
    and colour has the spec's channel order. Colour is not converted to grey.

    Args:
        data: The buffer.
        pixel_format: The name that GenICam gives to the layout, such as ``BayerRG12p``.
        width: The number of columns.
        height: The number of rows.
        spec: The detector's input (``detector.input``).
        stride: The number of bytes from one row to the next; None for rows without padding.

    Returns:
        uint8 ``(spec.height, spec.width, spec.channels)``, which does not share the buffer's
        memory.

    Warns:
        NarrowRangeWarning: Grey values of more than 8 bits fill less than a tenth of the range.

    Raises:
        InputError: The detector takes frames of another size, or grey ones only; or the buffer has
            another size than its pixel format, or values above those of its bits.
        OptionError: An unknown pixel format, or a size or stride that it cannot have.
    """
    frame = image_of_frame(data, pixel_format, width, height, spec, stride=stride)
    frame.warn(None)
    return frame.pixels


def image_of_frame(
    data: bytes | bytearray | memoryview | NDArray[Any],
    pixel_format: str,
    width: int,
    height: int,
    spec: InputSpec,
    *,
    stride: int | None = None,
) -> DecodedImage:
    """Decode like :func:`decode_frame`, without its warning."""
    layout = pixel_format_of(pixel_format)
    if (height, width) != (spec.height, spec.width):
        raise InputError(
            "the frame has the wrong size",
            expected=f"{spec.width} × {spec.height} pixels",
            received=f"{width} × {height} pixels",
            fix="export the bundle for this camera (kdx export --input-size)",
        )
    if layout.is_colour and spec.channels == 1:
        raise InputError(
            f"the detector takes grey images, and {layout.name} is colour",
            expected=spec.describe(),
            received=layout.name,
            fix="choose a Mono format in the camera, or train with colour images",
        )
    pixels = decode_pixels(data, pixel_format, width, height, stride=stride)
    value_range = None
    if pixels.dtype == np.uint16:
        value_range = value_range_of(pixels, spec.sixteen_bit_range)
        pixels = apply_range(pixels, spec.sixteen_bit_range)
    if not layout.is_colour:
        return DecodedImage(np.repeat(pixels[..., None], spec.channels, axis=2), value_range)
    is_bgr = spec.channel_order == "bgr"
    return DecodedImage(np.ascontiguousarray(pixels[..., ::-1] if is_bgr else pixels), value_range)


def image_of_pixels(pixels: NDArray[np.uint8] | NDArray[np.uint16], spec: InputSpec, path: Path) -> DecodedImage:
    """Make of decoded pixels what :func:`kdx.read_image` makes of a file with these pixels.

    Args:
        pixels: uint8 or uint16 grey ``(H, W)``, or uint8 RGB ``(H, W, 3)``.
        spec: The detector's input.
        path: What messages call the image.

    Raises:
        ImageError: The image has another size, and the input has a fixed size.
    """
    value_range = None
    image: Any = pixels
    if pixels.dtype == np.uint16:
        value_range = value_range_of(pixels, spec.sixteen_bit_range)
        image = apply_range(pixels, spec.sixteen_bit_range)
    if pixels.ndim == 2:
        image = np.repeat(image[..., None], spec.channels, axis=2)
    elif spec.channels == 1:
        image = np.asarray(Image.fromarray(image).convert("L"))[..., None]
    is_seen_in_grey = pixels.ndim == 3 and spec.channels == 1
    return DecodedImage(fitted(image, spec, path), value_range, is_seen_in_grey and loses_colour(pixels))
