"""Images between the disk and the graph: what a detector accepts, and how a file is brought to it.

The graph takes uint8. Nothing is guessed from the pixels: 16-bit files are scaled by a declared
range, and an array of another type, size or channel count raises an error.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray
from PIL import Image

from kdx.errors import ImageError, InputError, OptionError
from kdx.imaging.decoded_image import DecodedImage, loses_colour
from kdx.imaging.field_of_view import Crop, FieldOfView, require_inside
from kdx.imaging.image_files import (
    DEEP_GREY,
    EIGHT_BIT_GREY,
    MAX_PIXELS,
    decoding,
    open_image,
    open_picture,
    require_supported,
    upright_size,
)
from kdx.imaging.resampling import resize_image
from kdx.imaging.sixteen_bits import apply_range, deep_grey, value_range_of
from kdx.imaging.value_range import FULL_RANGE, warn_if_narrow

# The most pixels that the input of a graph has, and the longest side.
MOST_INPUT_PIXELS, MOST_SIDE = 1 << 28, 1 << 17
# The same of frames that are read in bands.
_MOST_BANDED_PIXELS = 1 << 34
ChannelOrder = Literal["rgb", "bgr"]
_Side = Annotated[int, msgspec.Meta(ge=1, le=MOST_SIDE)]


class InputSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a detector accepts: uint8 images ``(height, width, channels)``.

    Attributes:
        height: The number of rows.
        width: The number of columns.
        channels: The number of channels: 3 (colour) or 1 (mono, expanded inside the graph).
        channel_order: The order of a colour array's channels, ``rgb`` or ``bgr``.
        fixed_size: Whether every image has the camera's size and the graph resizes it. If False,
            files of any size are resized to ``height`` × ``width`` before the graph, in training
            and in use.
        sixteen_bit_range: The two 16-bit grey values that become 0 and 255 (a 12-bit camera: 0 and
            4095).
        crop: The window of the image that the networks see, as column, row, width and height in
            pixels; unset for the whole image.
        bands: Whether files are read in bands of rows, because an image may be too large for the
            memory; unset if not.

    Raises:
        InputError: The range is invalid, the input has too many pixels, or the window is not inside
            of it.
    """

    height: _Side
    width: _Side
    channels: Literal[1, 3] = 3
    channel_order: ChannelOrder = "rgb"
    fixed_size: bool = True
    sixteen_bit_range: tuple[int, int] = FULL_RANGE
    crop: Crop | UnsetType = UNSET
    bands: bool | UnsetType = UNSET

    def __post_init__(self) -> None:
        low, high = self.sixteen_bit_range
        if not 0 <= low < high <= 65535:
            raise InputError("invalid 16-bit range", expected="within 0:65535", received=f"{low}:{high}")
        most = _MOST_BANDED_PIXELS if self.is_in_bands else MOST_INPUT_PIXELS
        if self.height * self.width > most:
            raise InputError(
                "the input is too large",
                expected=f"at most {most:,} pixels",
                received=f"{self.width} × {self.height} pixels",
            )
        if self.crop is not UNSET:
            try:
                require_inside(self.crop, (self.height, self.width))
            except OptionError as error:
                raise InputError(error.message, expected=error.expected, received=error.received) from error

    @property
    def is_in_bands(self) -> bool:
        """Whether files are read in bands of rows."""
        return self.bands is True

    @property
    def seen(self) -> tuple[int, int]:
        """The height and width of the window that the networks see."""
        return (self.height, self.width) if self.crop is UNSET else (self.crop[3], self.crop[2])

    def view(self, share: float = 1.0) -> FieldOfView:
        """Return the part that a map covers of which the share is centred in what networks see."""
        return FieldOfView(share, None if self.crop is UNSET else self.crop)

    def describe(self) -> str:
        """Return a text that says which arrays are accepted."""
        colour = "mono" if self.channels == 1 else self.channel_order.upper()
        window = "" if self.crop is UNSET else f", of which the window {','.join(map(str, self.crop))} is judged"
        return f"uint8 ({self.height}, {self.width}, {self.channels}), {colour}{window}"

    def check(self, image: object) -> NDArray[np.uint8]:
        """Return an image as ``(height, width, channels)``, not copied; mono may be ``(H, W)``.

        Raises:
            InputError: The image is not a NumPy array, not uint8, or has another size or channel
                count.
        """
        if (
            isinstance(image, np.ndarray)
            and image.dtype == np.uint8
            and image.shape == (self.height, self.width, self.channels)
        ):
            return image  # what follows takes twenty times as long
        if isinstance(image, (str, os.PathLike)):
            raise InputError(
                "a detector takes images as arrays, not as files",
                expected=self.describe(),
                received=repr(image),
                fix=f"detector(kdx.read_image({os.fspath(image)!r}, detector.input)), or: kdx predict BUNDLE FILE",
            )
        if not isinstance(image, np.ndarray):
            raise InputError(
                "a detector takes numpy arrays",
                expected=self.describe(),
                received=type(image).__name__,
                fix=_as_array(image),
            )
        shape = self.check_layout(str(image.dtype), image.shape)
        return image if image.ndim == len(shape) else image[:, :, None]

    def check_layout(self, dtype: str, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Return the ``(height, width, channels)`` of an image of this type and shape.

        Raises:
            InputError: The type is not uint8, or the size or channel count is another one.
        """
        received = f"{dtype} {shape}"
        if dtype != "uint8":
            raise InputError(
                "the image is not uint8",
                expected=self.describe(),
                received=received,
                fix="convert it to 8 bits by the bundle's range: kdx.to_eight_bits(frame, detector.input)"
                if dtype == "uint16"
                else "pass the camera's 8-bit frame: kdx does not guess a value range from the pixels",
            )
        if len(shape) == 2 and self.channels == 1:
            shape = (*shape, 1)
        if len(shape) != 3 or shape[2] != self.channels:
            raise InputError(
                "the image has the wrong channels",
                expected=self.describe(),
                received=received,
                fix=self._other_channels(shape),
            )
        if shape[:2] != (self.height, self.width):
            raise InputError(
                "the image has the wrong size",
                expected=self.describe(),
                received=received,
                fix="export the bundle for this camera (kdx export --input-size)"
                + ("" if self.fixed_size else ", or use kdx.read_image, which resizes files"),
            )
        return self.height, self.width, self.channels

    def _other_channels(self, shape: tuple[int, ...]) -> str:
        """Return how an image of another layout becomes one that fits."""
        size = (self.height, self.width)
        if len(shape) == 4 or (len(shape) == 3 and shape[1:] == size and self.channels == 1 and shape[0] != 1):
            return "pass several images to detector.batch(images)"
        if len(shape) == 3 and shape == (self.channels, *size):
            return "put the channels last: numpy.ascontiguousarray(image.transpose(1, 2, 0))"
        if len(shape) == 3 and shape[2] == 4:
            return "drop the fourth channel: numpy.ascontiguousarray(image[..., :3])"
        if self.channels == 1:
            return "convert it to grey as files are: numpy.asarray(PIL.Image.fromarray(image).convert('L'))"
        return "repeat the grey values in three channels: numpy.stack([image] * 3, axis=-1), with an image (H, W)"

    def check_batch(self, images: Any) -> NDArray[np.uint8]:
        """Return images as one ``(N, height, width, channels)`` array, not copied if it is one."""
        if isinstance(images, np.ndarray) and images.ndim == 3 and self.channels == 1 and images.shape[2] != 1:
            images = images[..., None]
        if isinstance(images, np.ndarray) and images.ndim == 4:
            if images.shape[0]:
                self.check(images[0])
            return images
        if isinstance(images, (str, os.PathLike)):
            self.check(images)  # says how a file is read
        if not isinstance(images, Sequence):
            raise InputError(
                "a batch is an array (N, H, W, C) or a sequence of images",
                expected=f"images of {self.describe()}",
                received=f"{type(images).__name__} {getattr(images, 'shape', '')}".strip(),
            )
        if not images:
            return np.empty((0, self.height, self.width, self.channels), np.uint8)
        return np.stack([self.check(image) for image in images])


def _as_array(image: object) -> str:
    """Return how something that is not an array becomes one."""
    is_array_like = hasattr(image, "__array_interface__") or hasattr(image, "__array__")
    if isinstance(image, memoryview) or (is_array_like and not isinstance(image, np.generic)):
        return "pass numpy.asarray(image)"
    if isinstance(image, (list, tuple)):
        return "pass several images to detector.batch(images), and one as numpy.array(image, dtype=numpy.uint8)"
    return "pass the camera's frame as an array, or kdx.read_image(FILE, detector.input)"


def read_image(path: str | Path, spec: InputSpec) -> NDArray[np.uint8]:
    """Read a file, turned by its EXIF orientation, into an array that a detector accepts.

    Returns:
        uint8 ``(spec.height, spec.width, spec.channels)`` in ``spec.channel_order``.

    Warns:
        NarrowRangeWarning: The values of a 16-bit file fill less than a tenth of
            ``spec.sixteen_bit_range``.
        GreyConversionWarning: The image shows colour, and the input is mono.

    Raises:
        ImageError: The file is missing, empty, truncated, not an image, too large, of an
            unsupported kind, or holds several pictures or transparent pixels; or it has another
            size, and the input has a fixed size.
    """
    image = decode_file(path, spec)
    image.warn(Path(path))
    return image.pixels


def decode_file(path: str | Path, spec: InputSpec, data: bytes | None = None) -> DecodedImage:
    """Read a file like :func:`read_image`, without its warnings.

    Args:
        path: The file.
        spec: As for :func:`read_image`.
        data: The content of the file, if it was read already; the path is only for messages then.
    """
    if spec.is_in_bands and spec.height * spec.width > MAX_PIXELS and Path(path).is_file():
        raise ImageError(
            f"'{path}' cannot be read whole: frames of this detector are larger than {MAX_PIXELS:,} pixels",
            expected=f"a TIFF file of {spec.width} × {spec.height} pixels, in strips or tiles",
            fix="write it as such a file, which kdx predict and detector.judge_file(FILE) read in bands",
        )
    image = _decoded(Path(path), spec.channels, spec.sixteen_bit_range, data)
    return image._replace(pixels=fitted(image.pixels, spec, path))


def fitted(image: NDArray[np.uint8], spec: InputSpec, path: str | Path) -> NDArray[np.uint8]:
    """Return an image ``(H, W, C)`` in the size and the order of channels of an input.

    Raises:
        ImageError: The image has another size, and the input has a fixed size.
    """
    if image.shape[:2] != (spec.height, spec.width):
        if spec.fixed_size:
            raise ImageError(
                f"'{path}' has the wrong size",
                expected=f"{spec.width} × {spec.height} pixels",
                received=f"{image.shape[1]} × {image.shape[0]} pixels",
                fix="use images from the same camera, or export the bundle for this one (kdx export --input-size)",
            )
        image = resize_image(image, spec.height, spec.width)
    if spec.channel_order == "bgr" and spec.channels == 3:
        image = np.ascontiguousarray(image[..., ::-1])
    return image


def decode_image(path: Path, *, channels: int, sixteen_bit_range: tuple[int, int] = FULL_RANGE) -> NDArray[np.uint8]:
    """Decode a file upright, at its own size, to uint8 RGB ``(H, W, 3)`` or mono ``(H, W, 1)``.

    Raises:
        ImageError: As for :func:`read_image`, except for the size.
    """
    return _decoded(path, channels, sixteen_bit_range).pixels


class ImageHeader(NamedTuple):
    """What the header of an image file says.

    Attributes:
        width: The number of columns of the upright picture.
        height: The number of rows of the upright picture.
        is_grey: Whether the file stores grey values.
    """

    width: int
    height: int
    is_grey: bool


def read_header(path: Path) -> ImageHeader:
    """Return what a file's header says of the picture, without decoding it.

    Raises:
        ImageError: As for :func:`decode_image`, as far as the header tells.
    """
    with open_image(path) as image:
        require_supported(path, image)
        is_grey = image.mode in EIGHT_BIT_GREY | DEEP_GREY
        return ImageHeader(*upright_size(path, image), is_grey)


def to_eight_bits(values: NDArray[np.uint16], spec: InputSpec) -> NDArray[np.uint8]:
    """Convert a camera's 16-bit frame to uint8, as :func:`read_image` converts files.

    Values at or below the lower end of ``spec.sixteen_bit_range`` become 0, those at or above the
    upper end 255, and those between are scaled linearly and rounded.

    Args:
        values: The frame, uint16 of any shape; usually ``(H, W)``, or ``(H, W, C)`` in the spec's
            channel order.
        spec: The detector's input (``detector.input``).

    Returns:
        uint8 of the same shape.

    Warns:
        NarrowRangeWarning: The values fill less than a tenth of the range.

    Raises:
        InputError: ``values`` is not a uint16 array.
    """
    if not isinstance(values, np.ndarray) or values.dtype.kind != "u" or values.dtype.itemsize != 2:
        raise InputError(
            "only 16-bit frames are converted to 8 bits",
            expected="a uint16 array",
            received=f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__,
            fix="pass 8-bit frames to the detector as they are",
        )
    if values.size:
        warn_if_narrow(None, value_range_of(values, spec.sixteen_bit_range))
    return apply_range(values, spec.sixteen_bit_range)


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode uint8 ``(H, W, 1)`` or RGB ``(H, W, 3)`` as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _decoded(path: Path, channels: int, sixteen_bit_range: tuple[int, int], data: bytes | None = None) -> DecodedImage:
    with open_picture(path, data) as (picture, maximum), decoding(path):
        if picture.mode not in DEEP_GREY:
            mode = "L" if channels == 1 else "RGB"
            pixels: NDArray[np.uint8] = np.asarray(picture if picture.mode == mode else picture.convert(mode))
            if channels != 1:
                return DecodedImage(pixels)
            in_colour = picture.mode not in EIGHT_BIT_GREY and loses_colour(np.asarray(picture.convert("RGB")))
            return DecodedImage(pixels[..., None], loses_colour=in_colour)
        if maximum is not None and sixteen_bit_range == FULL_RANGE:  # the file itself names its range
            sixteen_bit_range = (0, maximum)
        grey, value_range = deep_grey(path, np.asarray(picture), sixteen_bit_range, maximum)
        return DecodedImage(np.repeat(grey[..., None], channels, axis=2), value_range)
