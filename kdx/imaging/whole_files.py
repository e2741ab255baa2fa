"""What is missing from an image file without an error of Pillow, which then shows other pixels."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import IO

from PIL.ImageFile import ImageFile

from kdx.errors import ImageError
from kdx.imaging.pages import tags_of
from kdx.text import number_of

_FIX = "use an intact image, or leave it out"
# TIFF's tags of the image's sides, planes and segments: strips of rows, or tiles.
_WIDTH, _HEIGHT, _SAMPLES, _ROWS, _PLANES, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 277, 278, 284, 322, 323
_STRIPS, _TILES = (273, 279), (324, 325)  # offsets and numbers of bytes
_SEPARATE_PLANES = 2


def require_whole(path: Path, image: ImageFile) -> None:
    """Check that nothing of a picture is missing in its file.

    Pillow shows black, or bytes of something else, where strips or tiles of an uncompressed TIFF
    were never written, as by a recorder that stopped; it does not compare the checksums of a PNG's
    pixels; and it fills the screen around a GIF's picture.

    Raises:
        ImageError: Something is missing, or a checksum is wrong.
    """
    problem = None
    if image.format == "TIFF":
        problem = _missing_segments(image)
    elif image.format == "PNG" and image.fp is not None:
        problem = _wrong_checksum(image.fp)
    elif image.format == "GIF" and image.tile and tuple(image.tile[0].extents or ()) != (0, 0, *image.size):
        problem = "its picture covers a part of its screen only"
    if problem is not None:
        raise ImageError(f"'{path}' is damaged: {problem}", fix=_FIX)


def _missing_segments(image: ImageFile) -> str | None:
    tags = tags_of(image)

    def number(tag: int, otherwise: int) -> int:
        found = tags.get(tag, otherwise)
        return int(found[0] if isinstance(found, tuple) else found)

    def numbers(tag: int) -> tuple[int, ...]:
        found = tags.get(tag, ())
        return found if isinstance(found, tuple) else (found,)

    width, height = number(_WIDTH, image.width), number(_HEIGHT, image.height)
    is_tiled = bool(numbers(_TILES[0]))
    if is_tiled:
        across = -(-width // max(1, number(_TILE_WIDTH, width)))
        wanted = across * -(-height // max(1, number(_TILE_HEIGHT, height)))
    else:
        wanted = -(-height // max(1, min(height, number(_ROWS, height))))
    if number(_PLANES, 1) == _SEPARATE_PLANES:
        wanted *= number(_SAMPLES, 1)
    offsets, sizes = map(numbers, _TILES if is_tiled else _STRIPS)
    # A file of one strip need not say how many bytes it has.
    there = [bool(offset) for offset in offsets[:wanted]]
    if sizes:
        there = [offset and size > 0 for offset, size in zip(there, sizes, strict=False)]
    missing = wanted - sum(there)
    if not missing:
        return None
    kind = "[tile|tiles]" if is_tiled else "[strip|strips]"
    return f"{missing} of {number_of(wanted, kind)} were never written"


def _wrong_checksum(file: IO[bytes]) -> str | None:
    """Compare the checksums of the chunks that hold a PNG's pixels; Pillow compares the others."""
    place, position, problem = file.tell(), 8, None
    while problem is None:
        file.seek(position)
        head = file.read(8)
        size, kind = int.from_bytes(head[:4], "big"), head[4:]
        if len(head) < 8 or kind == b"IEND":
            break
        if kind == b"IDAT":
            data, stored = file.read(size), file.read(4)
            # What is cut short is an error when it is decoded.
            if len(stored) == 4 and zlib.crc32(data, zlib.crc32(kind)) != int.from_bytes(stored, "big"):
                problem = "the checksum of its pixels is wrong"
        position += 12 + size
    file.seek(place)
    return problem
