"""Images between the disk and the graph: what a detector accepts, and how a file is brought to it.

The graph takes uint8. Nothing is guessed from the pixels: 16-bit files are scaled by a declared range, and an array
that is not what the detector was made for is refused.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kdx.errors import ImageError, InputError
from kdx.resampling import resize_image

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff"})

# A file that declares more pixels than this is refused before it is decoded: beyond the largest machine-vision
# sensors (151 megapixels), and a decompression bomb otherwise.
MAX_PIXELS = 160_000_000
# The largest input of a graph, in pixels; one a side.
_MOST_INPUT_PIXELS, _MOST_SIDE = 1 << 28, 1 << 17
# What is decoded, whatever a file is called. Pillow knows formats that no camera writes; one of them (EPS) runs another
# program to be decoded.
_FORMATS = ("BMP", "DIB", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# Pillow warns where this limit decides. Set once: changing filters around each call is not safe between threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_SIXTEEN_BIT_GREY = frozenset({"I;16", "I;16B", "I;16L", "I;16N", "I"})
_EIGHT_BIT_GREY = frozenset({"1", "L", "LA"})
_UNSUPPORTED = frozenset({"CMYK", "F", "HSV", "LAB", "YCbCr"})

ChannelOrder = Literal["rgb", "bgr"]
_Side = Annotated[int, msgspec.Meta(ge=1, le=_MOST_SIDE)]


class InputSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a detector accepts: uint8 images ``(height, width, channels)``.

    Attributes:
        height: Rows in pixels.
        width: Columns in pixels.
        channels: 3 (colour) or 1 (mono, expanded inside the graph).
        channel_order: ``rgb`` or ``bgr``: the order in which a colour array's channels come.
        fixed_size: True where every image has the camera's size (the graph resizes); False where files of any size
            are brought to ``height`` × ``width`` before the graph, in training as in use.
        sixteen_bit_range: The two 16-bit grey values that become 0 and 255 (a 12-bit camera: 0 and 4095).

    Raises:
        InputError: A range that is none, or more pixels than any camera has.
    """

    height: _Side
    width: _Side
    channels: Literal[1, 3] = 3
    channel_order: ChannelOrder = "rgb"
    fixed_size: bool = True
    sixteen_bit_range: tuple[int, int] = (0, 65535)

    def __post_init__(self) -> None:
        low, high = self.sixteen_bit_range
        if not 0 <= low < high <= 65535:
            raise InputError("the 16-bit range is not possible", expected="within 0:65535", received=f"{low}:{high}")
        if self.height * self.width > _MOST_INPUT_PIXELS:
            raise InputError(
                "the input is too large",
                expected=f"at most {_MOST_INPUT_PIXELS:,} pixels",
                received=f"{self.width} × {self.height} pixels",
            )

    def describe(self) -> str:
        """Say in words which arrays are accepted."""
        colour = "mono" if self.channels == 1 else self.channel_order.upper()
        return f"uint8 ({self.height}, {self.width}, {self.channels}), {colour}"

    def check(self, image: object) -> NDArray[np.uint8]:
        """Return an image as ``(height, width, channels)`` without copying it; a mono image may come as ``(H, W)``.

        Raises:
            InputError: Not a numpy array, not uint8, or another size or channel count.
        """
        if not isinstance(image, np.ndarray):
            raise InputError(
                "a detector takes numpy arrays",
                expected=self.describe(),
                received=type(image).__name__,
                fix="pass numpy.asarray(image)",
            )
        shape = self.check_layout(str(image.dtype), image.shape)
        return image if image.ndim == len(shape) else image[:, :, None]

    def check_layout(self, dtype: str, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Return the ``(height, width, channels)`` of an image that has this type and shape, wherever it lies.

        Raises:
            InputError: Not uint8, or another size or channel count.
        """
        received = f"{dtype} {shape}"
        if dtype != "uint8":
            raise InputError(
                "the image is not uint8",
                expected=self.describe(),
                received=received,
                fix="pass the camera's 8-bit frame: kdx does not guess a value range from the pixels",
            )
        if len(shape) == 2 and self.channels == 1:
            shape = (*shape, 1)
        if len(shape) != 3 or shape[2] != self.channels:
            raise InputError("the image has the wrong channels", expected=self.describe(), received=received)
        if shape[:2] != (self.height, self.width):
            raise InputError(
                "the image has the wrong size",
                expected=self.describe(),
                received=received,
                fix="export with --input-size for this camera, or use kdx.read_image, which resizes files where "
                "training did",
            )
        return self.height, self.width, self.channels

    def check_batch(self, images: Any) -> NDArray[np.uint8]:
        """Return images as one ``(N, height, width, channels)`` array: a 4-D array as it is, a sequence stacked."""
        if isinstance(images, np.ndarray) and images.ndim == 3 and self.channels == 1 and images.shape[2] != 1:
            images = images[..., None]
        if isinstance(images, np.ndarray) and images.ndim == 4:
            if images.shape[0]:
                self.check(images[0])
            return images
        if not isinstance(images, Sequence):
            raise InputError(
                "a batch is an array (N, H, W, C) or a sequence of images",
                expected=f"images of {self.describe()}",
                received=f"{type(images).__name__} {getattr(images, 'shape', '')}".strip(),
            )
        if not images:
            return np.empty((0, self.height, self.width, self.channels), np.uint8)
        return np.stack([self.check(image) for image in images])


def read_image(path: str | Path, spec: InputSpec) -> NDArray[np.uint8]:
    """Read a file into the array that a detector with this input takes.

    Returns:
        uint8 ``(spec.height, spec.width, spec.channels)`` in ``spec.channel_order``.

    Raises:
        ImageError: Missing, empty, truncated, not an image, too large, of an unsupported kind; or of another size
            where the input has a fixed size.
    """
    image = decode_image(Path(path), channels=spec.channels, sixteen_bit_range=spec.sixteen_bit_range)
    if image.shape[:2] != (spec.height, spec.width):
        if spec.fixed_size:
            raise ImageError(
                f"'{path}' has the wrong size",
                expected=f"{spec.width} × {spec.height} pixels",
                received=f"{image.shape[1]} × {image.shape[0]} pixels",
                fix="use images from the same camera, or export again with --input-size",
            )
        image = resize_image(image, spec.height, spec.width)
    return np.ascontiguousarray(image[..., ::-1]) if spec.channel_order == "bgr" and spec.channels == 3 else image


def decode_image(path: Path, *, channels: int, sixteen_bit_range: tuple[int, int] = (0, 65535)) -> NDArray[np.uint8]:
    """Decode a file to uint8 RGB ``(H, W, 3)`` or mono ``(H, W, 1)`` at its own size.

    Raises:
        ImageError: As :func:`read_image`, but for the size.
    """
    with _opened(path) as image:
        # Pillow would silently keep the high bytes of 16-bit colour; only before loading does it tell the layout.
        wide_colour = image.mode in {"RGB", "RGBA"} and any(";16" in str(tile[3]) for tile in image.tile)
        if wide_colour or image.mode in _UNSUPPORTED:
            raise ImageError(
                f"'{path}' is of an unsupported kind: {'16-bit colour' if wide_colour else image.mode}",
                expected="8-bit grey or RGB, or 16-bit grey",
                fix="convert it to 8 bits a channel",
            )
        try:
            image.load()
            pixels = _to_uint8(image, channels, sixteen_bit_range)
        except MemoryError as error:
            raise _too_large(path, f"{image.width} × {image.height} pixels, for which the memory is short") from error
        # Pillow's decoders raise nearly anything on damaged data.
        except Exception as error:
            raise ImageError(
                f"'{path}' is damaged: {str(error) or type(error).__name__}", fix="replace or remove the file"
            ) from error
    return pixels


def image_facts(path: Path) -> tuple[int, int, bool]:
    """Return a file's width and height in pixels and whether it is grey, from its header alone."""
    with _opened(path) as image:
        return image.width, image.height, image.mode in _EIGHT_BIT_GREY | _SIXTEEN_BIT_GREY


def require_mask(path: Path, *, width: int, height: int) -> None:
    """Check that a defect mask is there and has its image's size, from its header alone.

    Raises:
        ImageError: It is not, or has not.
    """
    if not path.is_file():
        raise ImageError(
            f"the mask '{path}' is missing",
            expected="a mask for every defective image (MVTec layout: ground_truth/TYPE/NAME_mask.png)",
            fix="add the mask, or take all masks away to evaluate image scores only",
        )
    received = image_facts(path)[:2]
    if received != (width, height):
        raise ImageError(
            f"the mask '{path}' has another size than its image",
            expected=f"{width} × {height} pixels",
            received=f"{received[0]} × {received[1]} pixels",
        )


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Read a defect mask ``(H, W)``: every pixel above zero is defective."""
    return decode_image(path, channels=1)[..., 0] > 0


def centred_box(width: int, height: int, share: float) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of the centred part that has this share of each side."""
    left, top = width * (1 - share) / 2, height * (1 - share) / 2
    return left, top, width - left, height - top


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode uint8 ``(H, W, 1)`` or RGB ``(H, W, 3)`` as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _opened(path: Path) -> Image.Image:
    """Open a file and check its header."""
    if not path.is_file():
        raise ImageError(f"'{path}' does not exist" if not path.exists() else f"'{path}' is not a file")
    if path.stat().st_size == 0:
        raise ImageError(f"'{path}' is empty (0 bytes)", fix="replace or remove the file")
    try:
        image = Image.open(path, formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise _too_large(path, str(error)) from error
    except PermissionError as error:
        raise ImageError(f"'{path}' cannot be read: permission denied") from error
    except Exception as error:  # as above
        raise ImageError(f"'{path}' is not an image that can be read", fix="replace or remove the file") from error
    pixels = image.width * image.height
    if 0 < pixels <= MAX_PIXELS:
        return image
    image.close()
    if pixels:
        raise _too_large(path, f"{image.width} × {image.height} pixels")
    raise ImageError(f"'{path}' has no pixels", received=f"{image.width} × {image.height}")


def _too_large(path: Path, received: str) -> ImageError:
    return ImageError(
        f"'{path}' declares too many pixels (a decompression bomb?)",
        expected=f"at most {MAX_PIXELS:,} pixels",
        received=received,
    )


def _to_uint8(image: Image.Image, channels: int, sixteen_bit_range: tuple[int, int]) -> NDArray[np.uint8]:
    if image.mode in _SIXTEEN_BIT_GREY:
        low, high = sixteen_bit_range
        values = (np.asarray(image).astype(np.float32) - low) * (255.0 / (high - low))
        grey = np.clip(np.rint(values), 0, 255).astype(np.uint8)[..., None]
        return grey if channels == 1 else np.repeat(grey, 3, axis=2)
    return np.asarray(image.convert("L"))[..., None] if channels == 1 else np.asarray(image.convert("RGB"))
