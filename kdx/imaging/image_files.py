"""Opening image files: one picture, turned upright, of a kind that is read without loss.

Pillow would silently read the first picture of several, drop transparency, keep only the high bytes
of 16-bit colour, and ignore the EXIF orientation. This module handles or refuses each of these
cases.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image
from PIL.ImageFile import ImageFile

from kdx.errors import ImageError, KdxError
from kdx.imaging.other_formats import CAMERA_RAW, HEAD, other_format
from kdx.imaging.pages import require_one_picture, tags_of
from kdx.imaging.whole_files import require_whole

# A file that declares more pixels than this is refused before it is decoded: the largest
# machine-vision sensors have 151 megapixels, so it is probably a decompression bomb.
MAX_PIXELS = 160_000_000
# The formats that are decoded, whatever the name of the file. Pillow knows formats that no camera
# writes; for one of them (EPS) it runs another program.
FORMATS = ("BMP", "DIB", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# Pillow warns about large pictures, which MAX_PIXELS decides here. The filter is set once, because
# changing filters around each call is not thread-safe.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

DEEP_GREY = frozenset({"I;16", "I;16B", "I;16L", "I;16N", "I"})
EIGHT_BIT_GREY = frozenset({"1", "L", "LA", "La"})
_EXTRA_SAMPLES = "samples that are neither colour nor alpha, such as near infrared"
_UNSUPPORTED = {
    _EXTRA_SAMPLES: "write the one or three channels that are to be inspected to a separate file",
    "CMYK": "convert it to RGB with its own colour profile: magick FILE -colorspace sRGB FILE.png",
    "F": "scale it to 16-bit integers by a range of your choice, and train with that range: "
    "kdx train DATA --sixteen-bit-range LOW:HIGH",
}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = int(ExifTags.Base.Orientation)
_SWAPS_SIDES = frozenset({5, 6, 7, 8})
# The TIFF tags that say what a picture's numbers mean, and two of their values.
_BITS, _PHOTOMETRIC, _SAMPLES, _EXTRA, _SAMPLE_FORMAT = 258, 262, 277, 338, 339
_WHITE_IS_ZERO, _SIGNED = 0, 2


@contextmanager
def open_image(path: Path, data: bytes | None = None) -> Iterator[ImageFile]:
    """Open a file and check by its header that it holds one picture that is not too large.

    Args:
        path: The file.
        data: The content of the file, if it was read already; the path is only for messages then.

    Raises:
        ImageError: The file is missing, empty, not a readable image, too large, or holds several
            pictures.
    """
    with ExitStack() as held:
        # Not opened by name: Pillow would map an uncompressed TIFF into memory with width and
        # height already exchanged by its orientation, and scramble it.
        file = held.enter_context(_file_of(path) if data is None else io.BytesIO(data))
        with reading(path):
            image = held.enter_context(_identified(path, file))
        pixels = image.width * image.height
        if not pixels:
            raise ImageError(f"'{path}' has no pixels", received=f"{image.width} × {image.height}")
        if pixels > MAX_PIXELS:
            raise too_large(path, f"{image.width} × {image.height} pixels")
        with decoding(path):
            require_one_picture(path, image)
        yield image


@contextmanager
def open_picture(path: Path, data: bytes | None = None) -> Iterator[tuple[Image.Image, int | None]]:
    """Decode a file to a picture without alpha channel, turned upright.

    Args:
        path: The file.
        data: As for :func:`open_image`.

    Yields:
        The picture, and :func:`declared_maximum`.

    Raises:
        ImageError: As for :func:`open_image`; or the picture is of an unsupported kind, damaged, or
            transparent.
    """
    with open_image(path, data) as image:
        require_supported(path, image)
        with decoding(path):
            require_whole(path, image)
        maximum = declared_maximum(image)
        yield without_alpha(path, load_upright(path, image)), maximum


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Convert every error of the file system to an ``ImageError``."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise ImageError(f"'{path}' cannot be read: {reason}") from error


def status_of(path: Path) -> os.stat_result:
    """Return the status of a file that is not empty.

    Raises:
        ImageError: There is no file, it is empty, or the user may not look at it.
    """
    with reading(path):
        if not path.is_file():
            raise ImageError(f"'{path}' {_what_is_wrong_with(path)}")
        status = path.stat()
    if status.st_size == 0:
        raise ImageError(f"'{path}' is empty (0 bytes)", fix="use an intact image, or leave it out")
    return status


def _file_of(path: Path) -> BinaryIO:
    status_of(path)
    with reading(path):
        return path.open("rb")


def _what_is_wrong_with(path: Path) -> str:
    if path.exists():
        return "is not a file"
    if path.is_symlink():
        return f"is a symbolic link to '{path.readlink()}', which does not exist"
    return "does not exist"


def _identified(path: Path, file: BinaryIO) -> ImageFile:
    try:
        image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise too_large(path, str(error)) from error
    except Exception as error:  # Pillow raises nearly anything on damaged data
        file.seek(0)
        other = other_format(path, file.read(HEAD))
        if other is not None:
            raise ImageError(f"'{path}' is not a readable image, but {other.title}", fix=other.fix) from error
        raise ImageError(f"'{path}' is not a readable image", fix="use an intact image, or leave it out") from error
    if path.suffix.lower() in CAMERA_RAW.suffixes:
        raise ImageError(
            f"'{path}' is {CAMERA_RAW.title}: only the preview in it opens as an image",
            expected="one image",
            fix=CAMERA_RAW.fix,
        )
    return image


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Convert every error of a decoder to an ``ImageError``."""
    try:
        yield
    except KdxError:
        raise
    except MemoryError as error:
        raise too_large(path, "more pixels than fit into the free memory") from error
    except Exception as error:  # Pillow raises nearly anything on damaged data
        raise ImageError(
            f"'{path}' is damaged: {str(error) or type(error).__name__}",
            fix="use an intact image, or leave it out",
        ) from error


def require_supported(path: Path, image: ImageFile) -> None:
    """Check, before loading, that a picture is of a kind whose values Pillow reads unchanged.

    Raises:
        ImageError: The picture is of another kind.
    """
    # Pillow silently keeps only the high bytes of 16-bit colour, and tells so only before loading.
    kind = "16-bit colour" if _is_wide_colour(image) else _odd_tiff(image)
    if kind is None and image.mode not in _UNSUPPORTED and image.mode not in {"HSV", "LAB", "YCbCr"}:
        return
    raise ImageError(
        f"'{path}' is of an unsupported kind: {kind or image.mode}",
        expected="8-bit grey or RGB, or 16-bit grey",
        received=f"{image.format}, {kind or {'F': 'floating point', 'CMYK': 'CMYK, for print'}.get(image.mode, '')}",
        fix=_UNSUPPORTED.get(kind or image.mode) or _UNSUPPORTED.get(image.mode, "convert it to 8 bits a channel"),
    )


def load_upright(path: Path, image: ImageFile) -> Image.Image:
    """Decode a picture, turned as its EXIF orientation says.

    Raises:
        ImageError: The file is damaged.
    """
    with decoding(path):
        _widen_transparent_grey(image)
        image.load()
        # Pillow turns a TIFF while loading it.
        turn = None if image.format == "TIFF" else _TURNS.get(_orientation(image))
        return image if turn is None else image.transpose(turn)


def _widen_transparent_grey(image: ImageFile) -> None:
    """Widen the grey value that means transparent as Pillow widens 2 or 4 bits while it loads."""
    value, stored = image.info.get("transparency"), image.tile[0].args if image.tile else None
    most = {"L;2": 3, "L;4": 15}.get(str(stored))
    if most is not None and isinstance(value, int):
        image.info["transparency"] = (value & most) * 255 // most


def without_alpha(path: Path, image: Image.Image) -> Image.Image:
    """Return a loaded picture without its alpha channel, which must be opaque everywhere.

    Raises:
        ImageError: A pixel is transparent: which colour is under it, and whether that matters, is
            unknown.
    """
    with decoding(path):
        if "transparency" not in image.info and not image.mode.endswith(("A", "a")):
            return image
        bare = image
        if image.mode in DEEP_GREY:  # one grey value means transparent
            covers = not (np.asarray(image) == image.info["transparency"]).any()
        else:
            full = image if image.mode in {"RGBA", "LA"} else image.convert("LA" if image.mode == "La" else "RGBA")
            covers = full.getchannel("A").getextrema()[0] == 255
            if image.mode.endswith(("A", "a")):
                bare = full.convert("L" if full.mode == "LA" else "RGB")
        if covers:
            bare.info.pop("transparency", None)
            return bare
    raise ImageError(
        f"'{path}' has transparent pixels",
        expected="an image without alpha channel, or with one that is opaque everywhere",
        received=f"{image.mode} with alpha below 255",
        fix="flatten it on a colour of your choice: magick FILE -background black -flatten NEW.png; or drop an alpha "
        "channel that means nothing: magick FILE -alpha off NEW.png",
    )


def upright_size(path: Path, image: ImageFile) -> tuple[int, int]:
    """Return the width and height of the upright picture, without decoding it."""
    with decoding(path):
        is_late = image.format == "PNG" and _has_late_metadata(image)
        if is_late:
            image.load()
        # Pillow reports the upright size of a TIFF by its own orientation tag, but not by one in
        # XMP.
        is_turned = image.format == "TIFF" and _ORIENTATION in tags_of(image)
        # Pillow's getexif for PNG would decode the picture, in case metadata follows it.
        swaps = not is_turned and _orientation(image) in _SWAPS_SIDES
        return (image.height, image.width) if swaps else (image.width, image.height)


def declared_maximum(image: ImageFile) -> int | None:
    """Return the largest value that a netpbm file declares, before it is loaded, or None."""
    if image.format != "PPM" or image.mode != "I":
        return None
    arguments = image.tile[0].args
    return int(arguments[1]) if isinstance(arguments, tuple) else 65535


def too_large(path: Path, received: str) -> ImageError:
    """Return the error for a file that declares too many pixels."""
    return ImageError(
        f"'{path}' declares too many pixels (a decompression bomb?)",
        expected=f"at most {MAX_PIXELS:,} pixels",
        received=received,
    )


def _orientation(image: Image.Image) -> int:
    exif = Image.Image.getexif(image)
    found = exif.get(_ORIENTATION, 1)
    return found if isinstance(found, int) else 1


def _is_wide_colour(image: ImageFile) -> bool:
    if image.mode in DEEP_GREY or not image.tile:
        return False
    arguments = image.tile[0].args
    if image.format == "PPM":
        maximum = arguments[-1] if isinstance(arguments, tuple) else 0
        return isinstance(maximum, int) and maximum > 255
    # In a BMP, ";16" means 16 bits a pixel, five or six a channel, which are read without loss.
    return image.format in {"PNG", "TIFF"} and ";16" in str(arguments)


def _odd_tiff(image: ImageFile) -> str | None:
    """Return the name of a kind of TIFF whose numbers Pillow misreads, or None."""
    if image.format != "TIFF":
        return None
    tags = tags_of(image)
    bits = _numbers(tags.get(_BITS, 1))
    if image.mode not in DEEP_GREY | {"F"} and any(isinstance(each, int) and each > 8 for each in bits):
        return "16-bit colour"  # in planes, which Pillow's raw modes do not show
    if image.mode in DEEP_GREY and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        return "16-bit grey in which 0 is white"
    if _SIGNED in _numbers(tags.get(_SAMPLE_FORMAT)) and 8 in bits:
        return "signed 8-bit numbers"
    samples = tags.get(_SAMPLES, 1)
    if 0 in _numbers(tags.get(_EXTRA, ())) or (isinstance(samples, int) and samples > len(image.getbands())):
        return _EXTRA_SAMPLES
    return None


def _numbers(value: object) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else (value,)


def _has_late_metadata(image: ImageFile) -> bool:
    """Whether a PNG has text or EXIF after its pixels, which Pillow finds only by decoding."""
    file = image.fp
    if file is None:
        return False
    place, is_late, found = file.tell(), False, False
    position = 8
    while not found:
        file.seek(position)
        head = file.read(8)
        kind = head[4:]
        if len(head) < 8 or kind == b"IEND":
            break
        is_late = is_late or kind == b"IDAT"
        found = is_late and kind in {b"eXIf", b"iTXt", b"tEXt", b"zTXt"}
        position += 12 + int.from_bytes(head[:4], "big")
    file.seek(place)
    return found
