"""How many pictures an image file holds: pages, frames, views. kdx judges one picture a file."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.ImageFile import ImageFile

from kdx.errors import ImageError

# TIFF tags by which a page says that it is a smaller copy of another, or that the file is a camera's raw data.
_NEW_SUBFILE_TYPE, _SUBFILE_TYPE, _DNG_VERSION = 254, 255, 50706
_REDUCED = 2  # of the older tag
_MP_ENTRIES = 0xB002  # of a JPEG of several pictures (CIPA DC-007)
_MOST_PAGES = 100  # are looked at one by one; of more, each counts as a picture


def require_one_picture(path: Path, image: ImageFile) -> None:
    """Check that an opened file holds one picture; smaller copies of it do not count.

    Raises:
        ImageError: It holds several, or a preview comes first.
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
    else:
        count = int(getattr(image, "n_frames", 1))
    if count > 1:
        raise ImageError(
            f"'{path}' holds {count} pictures",
            expected="one picture a file",
            received=f"{image.format} with {count} pictures, of which only the first would be judged",
            fix="save each as a file of its own: magick FILE picture-%03d.png",
        )


def tags_of(image: Image.Image) -> Any:
    """Return the tags of a TIFF's current page by number; nothing for other files."""
    return getattr(image, "tag_v2", {})


def _count_pages(image: ImageFile) -> int:
    """Count the pages of a TIFF that are pictures, and not smaller copies of one."""
    pages = int(getattr(image, "n_frames", 1))
    if pages == 1:
        return 1
    reduced = 0
    for page in range(1, min(pages, _MOST_PAGES)):
        with contextlib.suppress(Exception):  # a page that Pillow cannot read is a picture all the same
            image.seek(page)
            reduced += _is_reduced(image)
    image.seek(0)
    return pages - reduced


def _is_reduced(image: Image.Image) -> bool:
    tags = tags_of(image)
    new, old = tags.get(_NEW_SUBFILE_TYPE, 0), tags.get(_SUBFILE_TYPE, 0)
    return bool(isinstance(new, int) and new & 1) or old == _REDUCED
