"""Recognising copies of an image by hashes of the file, of its pixels, and of its look.

Two files hold the same image if their bytes or their pixels are equal. Pixels are compared after
decoding, upright and at the file's own size, whatever the format, palette or number of equal
channels: a grey PNG, its copy as BMP and that copy as RGB are the same image.

Near copies (compressed again, scaled, or a little brighter) have perceptual hashes that differ in
few bits. The hash holds the signs, relative to the median, of 256 low DCT frequencies of the image
reduced to 64 × 64 grey values (Zauner, *Implementation and benchmarking of perceptual image hash
functions*, 2010; with more frequencies here, because parts in one pose differ little in the lowest
ones).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kdx.errors import ImageError
from kdx.imaging.image_files import (
    DEEP_GREY,
    EIGHT_BIT_GREY,
    MAX_PIXELS,
    decoding,
    open_image,
    open_picture,
    reading,
    status_of,
)
from kdx.storage.files import sha256_bytes, sha256_file

# The most bits of 256 in which near copies differ. Measured on the good images of Magnetic Tile
# Defects and of DeepPCB: this includes all copies as JPEG of quality 75 or brighter by 5 grey
# levels, 99 % of those as JPEG of quality 50, and 92 and 98 % of those at half the size. It
# includes 52 of 283,881 pairs of different tile images, 51 of them exposures of one tile, and none
# of 80,601 pairs of DeepPCB, whose nearest differ in 42 bits.
NEAR_BITS = 16
_SIDE, _FREQUENCIES = 64, 17
_KEPT = 4096


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """The hashes by which copies of an image are recognised.

    Attributes:
        file: The SHA-256 of the file.
        pixels: The SHA-256 of the decoded pixels; empty if it is unknown.
        look: The perceptual hash, 64 hexadecimal digits; empty if it is unknown.
    """

    file: str
    pixels: str = ""
    look: Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{64})?$")] = ""

    @property
    def key(self) -> str:
        """The hash that copies of one image share."""
        return self.pixels or self.file


@dataclass(frozen=True)
class ImageContent:
    """What an image file shows once it is decoded.

    Attributes:
        identity: The hashes of the image.
        is_grey: Whether the channels of every pixel are equal, whatever the file stores.
        is_deep: Whether the file stores more than 8 bits for each value.
    """

    identity: Identity
    is_grey: bool
    is_deep: bool


class Likeness(Enum):
    """How an image relates to known images: a copy, a near copy, or neither."""

    SAME = "same"
    NEAR = "near"
    OTHER = "other"


def identify(path: Path) -> Identity:
    """Return the hashes of an image file, or only that of the file if it cannot be decoded.

    Raises:
        ImageError: The file cannot be read, or is empty.
    """
    content = content_of(path)
    return content if isinstance(content, Identity) else content.identity


def content_of(path: Path) -> ImageContent | Identity:
    """Return what a file shows, or only the hash of the file if it cannot be decoded.

    Raises:
        ImageError: The file cannot be read, or is empty.
    """
    status = status_of(path)
    with reading(path):
        return _content(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=_KEPT)  # calibration and evaluation ask for the same files several times
def _content(path: Path, modified: int, size: int) -> ImageContent | Identity:
    if size > MAX_PIXELS and _is_too_large(path):  # it may be larger than the memory, too
        return Identity(file=sha256_file(path))
    data = path.read_bytes()
    file = sha256_bytes(data)
    try:
        shown, is_grey, is_deep = _shown(path, data)
    except ImageError:  # reported where the image is used
        return Identity(file=file)
    head = f"{shown.shape} {shown.dtype} ".encode()
    return ImageContent(
        Identity(file=file, pixels=sha256_bytes(head + np.ascontiguousarray(shown).tobytes()), look=look_of(shown)),
        is_grey,
        is_deep,
    )


def _is_too_large(path: Path) -> bool:
    """Whether a file cannot be decoded, by its header alone."""
    try:
        with open_image(path):
            return False
    except ImageError:
        return True


def _shown(path: Path, data: bytes) -> tuple[NDArray[Any], bool, bool]:
    """Decode a file to the one form that all files with the same pixels share."""
    with open_picture(path, data) as (picture, maximum), decoding(path):
        if picture.mode in DEEP_GREY:
            values = np.asarray(picture)
            if maximum is not None:  # Pillow scales what a netpbm header declares to 65535
                values = np.rint(values * (maximum / 65535)).astype(np.int32)
            if not (values % 257).any():  # 8-bit values that were widened
                return (values // 257).astype(np.uint8), True, True
            return values.astype(np.int32), True, True
        if picture.mode in EIGHT_BIT_GREY:
            return np.asarray(picture.convert("L")), True, False
        colour = np.asarray(picture.convert("RGB"))
    is_grey = bool((colour == colour[..., :1]).all())
    return (colour[..., 0] if is_grey else colour), is_grey, False


def look_of(shown: NDArray[Any]) -> str:
    """Return the perceptual hash of an image.

    Args:
        shown: The decoded image, ``(H, W)`` or ``(H, W, 3)``.
    """
    grey = shown if shown.ndim == 2 else shown.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    small = Image.fromarray(grey.astype(np.float32)).resize((_SIDE, _SIDE), Image.Resampling.BOX)
    basis = _cosines()
    spectrum = (basis @ np.asarray(small, np.float64) @ basis.T).ravel()[1:257]  # without the mean
    return np.packbits(spectrum > np.median(spectrum)).tobytes().hex()


@functools.cache
def _cosines() -> NDArray[np.float64]:
    angles = np.pi / (2 * _SIDE) * np.outer(np.arange(_FREQUENCIES), 2 * np.arange(_SIDE) + 1)
    cosines: NDArray[np.float64] = np.cos(angles)
    return cosines


class KnownImages:
    """Images whose copies are recognised.

    Args:
        images: The hashes of the images.
    """

    def __init__(self, images: Iterable[Identity] = ()) -> None:
        self.images = tuple(images)
        self._files = frozenset(image.file for image in self.images)
        self._pixels = frozenset(image.pixels for image in self.images if image.pixels)
        looks = [_bits(image.look) for image in self.images if image.look]
        self._looks = np.stack(looks) if looks else np.empty((0, 256), bool)

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, file: object) -> bool:
        """Whether one of the images is a file with this hash."""
        return file in self._files

    @property
    def knows_pixels(self) -> bool:
        """Whether copies in other formats are recognised; False without hashes of pixels."""
        return all(image.pixels for image in self.images)

    def likeness(self, image: Identity) -> Likeness:
        """Return whether an image is a copy of a known image, a near copy, or neither."""
        if image.file in self._files or image.pixels in self._pixels:
            return Likeness.SAME
        if image.look and len(self._looks) and (self._looks ^ _bits(image.look)).sum(axis=1).min() <= NEAR_BITS:
            return Likeness.NEAR
        return Likeness.OTHER


def _bits(look: str) -> NDArray[np.bool_]:
    return np.unpackbits(np.frombuffer(bytes.fromhex(look), np.uint8)).astype(bool)


def distinct(images: Sequence[tuple[Path, Identity]]) -> tuple[list[Path], list[Path]]:
    """Return the first file of each image, and the other files, which are copies."""
    seen: set[str] = set()
    first: list[Path] = []
    copies: list[Path] = []
    for path, identity in images:
        is_copy = bool({identity.file, identity.key} & seen)
        (copies if is_copy else first).append(path)
        seen |= {identity.file, identity.key}
    return first, copies


def nearly_repeated(images: Sequence[tuple[Path, Identity]], block: int = 1024) -> list[Path]:
    """Return the images that are nearly the same as an earlier one in the list.

    Args:
        images: The images, each once (see :func:`distinct`); one without a perceptual hash is never
            a near copy.
        block: The number of images that are compared with all earlier ones at once, which bounds
            the memory.
    """
    known = [(path, identity.look) for path, identity in images if identity.look]
    if not known:
        return []
    # The product of two hashes of +1 and -1 is 256 minus twice the number of bits in which they
    # differ.
    signs = np.where(np.stack([_bits(look) for _, look in known]), np.float32(1), np.float32(-1))
    found: list[Path] = []
    for start in range(0, len(signs), block):
        rows = signs[start : start + block]
        near = rows @ signs[: start + len(rows)].T >= 256 - 2 * NEAR_BITS
        is_repeated = np.tril(near, start - 1).any(axis=1)
        found += [known[start + int(index)][0] for index in np.flatnonzero(is_repeated)]
    return found
