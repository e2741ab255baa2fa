"""Counting the pictures in an image file; kdx judges one picture in each file."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.ImageFile import ImageFile

from kdx.errors import ImageError

# The TIFF tags that mark a page as a smaller copy of another, or the file as a camera's raw data.
_NEW_SUBFILE_TYPE, _SUBFILE_TYPE, _DNG_VERSION = 254, 255, 50706
_MAGIC, _COMMENT = re.compile(rb"P[1-7]\s"), re.compile(rb"#[^\r\n]*")  # in netpbm files
_REDUCED = 2  # the value of the older tag
_MP_ENTRIES = 0xB002  # in a JPEG of several pictures (CIPA DC-007)
_MOST_PAGES = 100  # each is checked; every further page counts as a picture


def require_one_picture(path: Path, image: ImageFile) -> None:
    """Check that an opened file holds one picture; smaller copies of it do not count.

    Raises:
        ImageError: The file holds several pictures, or begins with a preview.
    """
    if image.format == "TIFF":
        if _DNG_VERSION in tags_of(image) or _is_reduced(image):
            raise ImageError(
                f"the first page of '{path}' is a preview of a larger picture",
                expected="one picture",
                fix="save the picture itself as PNG or TIFF",
            )
        count = _count_pages(image)
    elif image.format == "MPO":
        entries = getattr(image, "mpinfo", {}).get(_MP_ENTRIES, [])
        count = sum(not entry["Attribute"]["MPType"].startswith("Large Thumbnail") for entry in entries)
    elif image.format == "PPM":
        _require_one_in_a_row(path, image)
        count = 1
    else:
        count = int(getattr(image, "n_frames", 1))
    if count > 1:
        raise ImageError(
            f"'{path}' holds {count} pictures",
            expected="one picture in each file",
            received=f"{image.format} with {count} pictures, of which only the first would be judged",
            fix="save each as a separate file: magick FILE picture-%03d.png",
        )


def _require_one_in_a_row(path: Path, image: ImageFile) -> None:
    """Check that no second picture follows in a netpbm file, which may hold several."""
    file = image.fp
    if file is None or not image.tile:
        return
    tile, place = image.tile[0], file.tell()
    file.seek(0)
    is_plain = file.read(2) in {b"P1", b"P2", b"P3"}
    if is_plain:  # one picture consists of digits, spaces and comments
        file.seek(tile.offset)
        is_followed = _MAGIC.search(_COMMENT.sub(b"", file.read())) is not None
    else:
        maximum = tile.args[-1] if isinstance(tile.args, tuple) else 255
        is_wide = image.mode == "I" or (isinstance(maximum, int) and maximum > 255)
        row = -(-image.width // 8) if image.mode == "1" else image.width * len(image.getbands()) * (1 + is_wide)
        file.seek(tile.offset + row * image.height)
        is_followed = _MAGIC.match(file.read(64).lstrip()) is not None
    file.seek(place)
    if is_followed:
        raise ImageError(
            f"'{path}' holds several pictures",
            expected="one picture in each file",
            received="netpbm with several pictures, of which only the first would be judged",
            fix="save each as a separate file: magick FILE picture-%03d.png",
        )


def tags_of(image: Image.Image) -> Any:
    """Return the tags of a TIFF's current page by number; empty for other files."""
    return getattr(image, "tag_v2", {})


def _count_pages(image: ImageFile) -> int:
    """Return the number of pages of a TIFF that are not smaller copies of others."""
    pages = int(getattr(image, "n_frames", 1))
    if pages == 1:
        return 1
    reduced = 0
    for page in range(1, min(pages, _MOST_PAGES)):
        with contextlib.suppress(Exception):  # a page that Pillow cannot read counts as a picture
            image.seek(page)
            reduced += _is_reduced(image)
    image.seek(0)
    return pages - reduced


def _is_reduced(image: Image.Image) -> bool:
    tags = tags_of(image)
    new, old = tags.get(_NEW_SUBFILE_TYPE, 0), tags.get(_SUBFILE_TYPE, 0)
    return bool(isinstance(new, int) and new & 1) or old == _REDUCED
