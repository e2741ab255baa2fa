"""The values that 16-bit images hold, and a warning if they use little of the declared range.

Files and arrays of 16 bits hold the ten or twelve bits of a camera. If the camera's range is not
declared, all values become a few dark grey levels, and no step after that fails. This module does
not import NumPy, because the command line counts these warnings.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from kdx.remarks import Remark, remark
from kdx.text import number_of

FULL_RANGE = (0, 65535)
# The smallest share of a declared range that images may use without a warning: 25 of 255 grey
# levels.
_LEAST_SHARE = 0.1


class ValueRange(msgspec.Struct, frozen=True, kw_only=True):
    """The values of one or several 16-bit images.

    Attributes:
        lowest: The smallest value.
        highest: The largest value.
        declared: The two values that become 0 and 255.
    """

    lowest: int
    highest: int
    declared: tuple[int, int]

    @property
    def is_narrow(self) -> bool:
        """Whether the values fill less than a tenth of the declared range."""
        low, high = self.declared
        used = min(max(self.highest, low), high) - min(max(self.lowest, low), high)
        return used < _LEAST_SHARE * (high - low)

    def describe(self) -> str:
        """Return a text with the values, the declared range, and what the user can do."""
        bits = max(8, self.highest.bit_length())
        low, high = self.declared
        return (
            f"values from {self.lowest} to {self.highest}, less than a tenth of the declared range {low}:{high}; most "
            f"of the 256 grey levels are unused. If the camera has {bits} bits, train with its range: "
            f"kdx train --sixteen-bit-range 0:{2**bits - 1}"
        )


def union(ranges: Iterable[ValueRange]) -> ValueRange | None:
    """Return the values of several images together, with the first declared range, or None."""
    ranges = list(ranges)
    if not ranges:
        return None
    lowest, highest = min(each.lowest for each in ranges), max(each.highest for each in ranges)
    return ValueRange(lowest=lowest, highest=highest, declared=ranges[0].declared)


class NarrowRangeWarning(UserWarning):
    """16-bit values fill less than a tenth of the range that is declared for them.

    Attributes:
        value_range: The values.
        path: The file; None for an array.
    """

    def __init__(self, value_range: ValueRange, path: Path | None = None) -> None:
        self.value_range, self.path = value_range, path
        # All files of a camera get the same text: Python shows each text once.
        bits, (low, high) = value_range.highest.bit_length(), value_range.declared
        super().__init__(
            f"16-bit values of at most {bits} bits fill less than a tenth of the declared range {low}:{high}; most of "
            "the 256 grey levels are unused. Train with the camera's range: kdx train --sixteen-bit-range LOW:HIGH"
        )


def warn_if_narrow(path: Path | None, value_range: ValueRange | None) -> None:
    """Warn if 16-bit values fill less than a tenth of their declared range."""
    if value_range is not None and value_range.is_narrow:
        warnings.warn(NarrowRangeWarning(value_range, path), stacklevel=3)


@dataclass
class NarrowRanges:
    """Images whose 16-bit values fill less than a tenth of the declared range, each counted once.

    Attributes:
        value_range: The values of all these images; None if there are none.
        images: Their files.
    """

    value_range: ValueRange | None = None
    images: dict[str, None] = field(default_factory=dict)

    def add(self, warning: NarrowRangeWarning) -> None:
        """Count the image of a warning."""
        self.value_range = union(each for each in (self.value_range, warning.value_range) if each is not None)
        self.images[str(warning.path)] = None

    def describe(self) -> str:
        """Return a text with the number of images and their values; empty if there are none."""
        if self.value_range is None:
            return ""
        return describe_narrow(len(self.images), next(iter(self.images)), self.value_range)

    def remarks(self) -> list[Remark]:
        """Return the text as a remark, in a list that is empty if there are no such images."""
        if self.value_range is None:
            return []
        return remark("narrow_range", f"16-bit [image holds|images hold] {self.value_range.describe()}", self.images)


@contextmanager
def counted(narrow: NarrowRanges, show_others: Callable[..., None] | None = None) -> Iterator[None]:
    """Count the images that use little of their declared range, instead of warning of each.

    Args:
        narrow: The count.
        show_others: Shows the other warnings; None shows them as Python does.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("always", NarrowRangeWarning)
        shown = show_others or warnings.showwarning

        def show(message: Warning | str, *rest: Any, **more: Any) -> None:
            if isinstance(message, NarrowRangeWarning):
                narrow.add(message)
            else:
                shown(message, *rest, **more)

        warnings.showwarning = show
        yield


def describe_narrow(count: int, example: str, value_range: ValueRange) -> str:
    """Return a text that says how many images use little of their declared range."""
    images = number_of(count, "16-bit [image holds|images hold]")
    return f"{images} {value_range.describe()}. For example '{example}'"
