"""Converting 16-bit grey values to 8 bits by a declared range, for files and frames alike."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdx.errors import ImageError
from kdx.imaging.value_range import FULL_RANGE, ValueRange

# The number of values that are converted at once.
_PART = 1 << 18


def apply_range(values: NDArray[Any], sixteen_bit_range: tuple[int, int]) -> NDArray[np.uint8]:
    """Return uint8 of the same shape for values from 0 to 65535."""
    return _looked_up(_table(sixteen_bit_range), values)


def deep_grey(
    path: Path, values: NDArray[Any], sixteen_bit_range: tuple[int, int], maximum: int | None
) -> tuple[NDArray[np.uint8], ValueRange]:
    """Apply a range to the deep grey values of a file.

    Args:
        path: The file, for messages.
        values: The values ``(H, W)`` as Pillow decoded them.
        sixteen_bit_range: The two values that become 0 and 255.
        maximum: The value in the file that Pillow has scaled to 65535; None if Pillow has not
            scaled the values.

    Returns:
        uint8 ``(H, W)``, and the values that the file holds.

    Raises:
        ImageError: The values do not fit into 16 bits.
    """
    value_range = value_range_of(values, sixteen_bit_range)
    if value_range.lowest < 0 or value_range.highest > FULL_RANGE[1]:
        raise ImageError(
            f"'{path}' has values that do not fit into 16 bits",
            expected="grey values from 0 to 65535",
            received=f"{value_range.lowest} to {value_range.highest}",
            fix="save it as 16-bit grey, scaled by a range of your choice",
        )
    table = _table(sixteen_bit_range)
    if maximum is not None:
        stored = np.rint(np.arange(len(table)) * (maximum / FULL_RANGE[1])).astype(np.intp)
        table = table[stored]
        ends = int(stored[value_range.lowest]), int(stored[value_range.highest])
        value_range = ValueRange(lowest=ends[0], highest=ends[1], declared=sixteen_bit_range)
    return _looked_up(table, values), value_range


def _looked_up(table: NDArray[np.uint8], values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return ``table[values]``, in parts, because NumPy takes eight bytes for each index."""
    found = np.empty(values.shape, np.uint8)
    whole, parts = values.reshape(-1), found.reshape(-1)
    for start in range(0, whole.size, _PART):
        parts[start : start + _PART] = table[whole[start : start + _PART]]
    return found


def value_range_of(values: NDArray[Any], declared: tuple[int, int]) -> ValueRange:
    """Return the values that an array holds, which must not be empty."""
    return ValueRange(lowest=int(values.min()), highest=int(values.max()), declared=declared)


@functools.lru_cache(maxsize=8)
def _table(sixteen_bit_range: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the 8-bit value for each of the 65,536 values."""
    low, high = sixteen_bit_range
    scaled = (np.arange(FULL_RANGE[1] + 1, dtype=np.float32) - low) * np.float32(255.0 / (high - low))
    table: NDArray[np.uint8] = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    table.setflags(write=False)
    return table
