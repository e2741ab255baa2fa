"""A file of which a part is missing is no image, whatever Pillow shows in its place."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from kdx.errors import ImageError
from kdx.imaging.images import decode_image
from kdx.imaging.masks import read_mask

PIXELS = np.random.default_rng(0).integers(100, 200, (96, 160), np.uint8)
LAYOUTS = {
    "strips": {"rowsperstrip": 16},
    "tiles": {"tile": (32, 32)},
    "16 bits": {"rowsperstrip": 16},
    "high byte first": {"rowsperstrip": 16, "byteorder": ">"},
    "planes": {"rowsperstrip": 32, "planarconfig": "separate", "photometric": "rgb"},
    "colour": {"tile": (32, 64), "photometric": "rgb"},
}


def tiff(layout: str, *patches: tuple[int, int, int]) -> bytes:
    """A file in a layout, of whose offsets (0) or numbers of bytes (1) some have another value."""
    pixels = PIXELS.astype(np.uint16) * 256 if layout == "16 bits" else PIXELS
    if layout == "planes":
        pixels = np.stack([pixels] * 3)
    elif layout == "colour":
        pixels = np.stack([pixels] * 3, axis=-1)
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, metadata=None, **LAYOUTS[layout])
    data = bytearray(file.getvalue())
    with tifffile.TiffFile(io.BytesIO(data)) as opened:
        page = opened.pages.first
        tags = [page.tags[each] for each in ((324, 325) if page.is_tiled else (273, 279))]
        order = opened.byteorder
    for which, index, value in patches:
        code = {3: "H", 4: "I"}[int(tags[which].dtype)]
        struct.pack_into(order + code, data, tags[which].valueoffset + index * struct.calcsize(code), value)
    return bytes(data)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("patches", "missing"),
    [([(0, 2, 0), (1, 2, 0)], 1), ([(0, 1, 0)], 1), ([(1, 1, 0)], 1), ([(0, 0, 0), (0, 2, 0), (1, 1, 0)], 3)],
)
def test_strips_and_tiles_that_were_never_written_are_counted(tmp_path: Path, layout, patches, missing) -> None:
    file = tmp_path / "a.tif"
    file.write_bytes(tiff(layout))
    assert decode_image(file, channels=1).shape == (96, 160, 1)
    file.write_bytes(tiff(layout, *patches))
    with pytest.raises(ImageError, match=rf"{missing} of \d+ (strips|tiles) were never written"):
        decode_image(file, channels=1)


def test_a_list_of_strips_that_is_too_short_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "a.tif"
    Image.fromarray(PIXELS).save(file, tiffinfo={278: 16})
    data = file.read_bytes()
    with Image.open(file) as image:
        assert len(np.atleast_1d(image.tag_v2[273])) in {1, 6}
    # The height in the header is twice that of what was written.
    start = struct.unpack_from("<I", data, 4)[0]
    entries = struct.unpack_from("<H", data, start)[0]
    longer = bytearray(data)
    for entry in range(start + 2, start + 2 + 12 * entries, 12):
        tag = struct.unpack_from("<H", data, entry)[0]
        if tag == 257:
            struct.pack_into("<I", longer, entry + 8, 192)
    file.write_bytes(longer)
    with pytest.raises(ImageError, match="is damaged"):
        decode_image(file, channels=1)


def test_a_mask_of_which_a_strip_is_missing_is_no_mask(tmp_path: Path) -> None:
    file = tmp_path / "a.tif"
    file.write_bytes(tiff("strips", (0, 2, 0), (1, 2, 0)))
    with pytest.raises(ImageError, match="1 of 6 strips were never written"):
        read_mask(file)


def test_the_checksum_of_a_pngs_pixels_is_compared(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(file, compress_level=0)
    data = file.read_bytes()
    place = data.index(b"IDAT")
    size = struct.unpack_from(">I", data, place - 4)[0]
    # One pixel is another one, and zlib's own checksum fits: only the chunk's is wrong.
    pixels = bytearray(zlib.decompress(data[place + 4 : place + 4 + size]))
    pixels[1000] ^= 1
    changed = zlib.compress(bytes(pixels), 0)
    assert len(changed) == size
    damaged = data[: place + 4] + changed + data[place + 4 + size :]
    file.write_bytes(damaged)
    with Image.open(file) as image:
        image.load()  # Pillow shows it
    with pytest.raises(ImageError, match="checksum of its pixels is wrong"):
        decode_image(file, channels=1)
    right = struct.pack(">I", zlib.crc32(b"IDAT" + changed))
    file.write_bytes(data[: place + 4] + changed + right + data[place + 8 + size :])
    assert decode_image(file, channels=1).shape == (96, 160, 1)


def test_a_gif_that_covers_a_part_of_its_screen_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.gif"
    Image.fromarray(PIXELS).save(file)
    assert decode_image(file, channels=1).shape == (96, 160, 1)
    data = bytearray(file.read_bytes())
    struct.pack_into("<HH", data, 6, 200, 120)  # the screen is larger
    file.write_bytes(data)
    with pytest.raises(ImageError, match="covers a part of its screen"):
        decode_image(file, channels=1)
