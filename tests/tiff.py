"""TIFF files written by hand: kinds that cameras and programs write, and Pillow does not."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

_SHORT, _LONG = 3, 4


def tiff(*pages: tuple[NDArray[np.generic], Mapping[int, int | tuple[int, ...]]]) -> bytes:
    """Return an uncompressed little-endian TIFF.

    Args:
        pages: Of each, its numbers ``(H, W)``, ``(H, W, C)``, or, with the tag 284 at 2, ``(C, H,
            W)``; and tags that are added to, or replace, those that follow from the array.
    """
    data = bytearray(b"II*\0\0\0\0\0")
    link = 4
    for values, extra in pages:
        in_planes = extra.get(284) == 2
        planes = values if in_planes else values[None]
        height, width = planes.shape[1:3]
        samples = len(values) if in_planes else values.shape[2] if values.ndim == 3 else 1
        form = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
        offsets = []
        for plane in planes:
            offsets.append(len(data))
            data += np.ascontiguousarray(plane).astype(plane.dtype.newbyteorder("<")).tobytes()
        tags: dict[int, int | tuple[int, ...]] = {
            256: width, 257: height, 258: (8 * values.itemsize,) * samples, 259: 1, 262: 2 if samples >= 3 else 1,
            273: tuple(offsets), 277: samples, 278: height, 279: (planes[0].nbytes,) * len(planes),
            339: (form,) * samples, **extra,
        }  # fmt: skip
        entries = b""
        for tag, value in sorted(tags.items()):
            numbers = value if isinstance(value, tuple) else (value,)
            kind, code = (_LONG, "I") if tag in {273, 279} else (_SHORT, "H")
            packed = struct.pack(f"<{len(numbers)}{code}", *numbers)
            if len(packed) > 4:
                place = len(data)
                data += packed + b"\0" * (len(packed) % 2)
                packed = struct.pack("<I", place)
            entries += struct.pack("<HHI", tag, kind, len(numbers)) + packed.ljust(4, b"\0")
        data += b"\0" * (len(data) % 2)
        data[link : link + 4] = struct.pack("<I", len(data))
        data += struct.pack("<H", len(tags)) + entries
        link = len(data)
        data += b"\0\0\0\0"
    return bytes(data)
