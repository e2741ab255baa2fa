"""Which values 16-bit images hold, and a word when they hardly use the range that is declared for them.

Ten or twelve bits of a camera come in files and arrays of sixteen. Without their range, a whole image becomes a few
dark grey levels, and everything runs. No NumPy here: the command line counts these warnings.
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

FULL_RANGE = (0, 65535)
# Of a declared range, the share below which hardly any grey levels are left: 25 of 255.
_LEAST_SHARE = 0.1


class Levels(msgspec.Struct, frozen=True, kw_only=True):
    """The values of one or several 16-bit images.

    Attributes:
        lowest: Smallest value.
        highest: Largest value.
        declared: The two values that become 0 and 255.
    """

    lowest: int
    highest: int
    declared: tuple[int, int]

    @property
    def is_narrow(self) -> bool:
        """Whether what is left within the declared range fills less than a tenth of it."""
        low, high = self.declared
        used = min(max(self.highest, low), high) - min(max(self.lowest, low), high)
        return used < _LEAST_SHARE * (high - low)

    def describe(self) -> str:
        """Say which values were seen, which were declared, and what to do."""
        bits = max(8, self.highest.bit_length())
        low, high = self.declared
        return (
            f"values from {self.lowest} to {self.highest}, less than a tenth of the declared range {low}:{high}; most "
            f"of the 256 grey levels are unused. If the camera has {bits} bits, declare it when training: "
            f"--sixteen-bit-range 0:{2**bits - 1}"
        )


def union(found: Iterable[Levels]) -> Levels | None:
    """Return the values of several images together; of differing declarations, the first stands. None for no images."""
    levels = list(found)
    if not levels:
        return None
    lowest, highest = min(each.lowest for each in levels), max(each.highest for each in levels)
    return Levels(lowest=lowest, highest=highest, declared=levels[0].declared)


class NarrowRangeWarning(UserWarning):
    """16-bit values fill less than a tenth of the range that is declared for them.

    Attributes:
        levels: The values.
        path: The file; None for an array.
    """

    def __init__(self, levels: Levels, path: Path | None = None) -> None:
        self.levels, self.path = levels, path
        # The same text for all files of a camera: Python shows, and remembers, each text once.
        bits, (low, high) = levels.highest.bit_length(), levels.declared
        super().__init__(
            f"16-bit values of at most {bits} bits fill less than a tenth of the declared range {low}:{high}; most of "
            "the 256 grey levels are unused. Train with the camera's range: --sixteen-bit-range LOW:HIGH"
        )


def warn_if_narrow(path: Path | None, levels: Levels | None) -> None:
    """Warn where 16-bit values fill less than a tenth of their declared range."""
    if levels is not None and levels.is_narrow:
        warnings.warn(NarrowRangeWarning(levels, path), stacklevel=3)


@dataclass
class NarrowRanges:
    """Images whose 16-bit values fill less than a tenth of the declared range, counted once each.

    Attributes:
        levels: The values of all of them; None before the first.
        images: Their files.
    """

    levels: Levels | None = None
    images: dict[str, None] = field(default_factory=dict)

    def add(self, warning: NarrowRangeWarning) -> None:
        """Count one."""
        self.levels = union(each for each in (self.levels, warning.levels) if each is not None)
        self.images[str(warning.path)] = None

    def describe(self) -> str:
        """Say how many there are, and which values they hold; empty where there are none."""
        if self.levels is None:
            return ""
        return narrow_said(len(self.images), next(iter(self.images)), self.levels)

    def remarks(self) -> list[Remark]:
        """Return the same as a remark; none where there are no such images."""
        if self.levels is None:
            return []
        return remark("narrow_range", f"16-bit images hold {self.levels.describe()}", self.images)


@contextmanager
def counted(narrow: NarrowRanges, plainly: Callable[..., None] | None = None) -> Iterator[None]:
    """Count images that hardly use their declared range meanwhile, instead of warning of each.

    Args:
        narrow: What counts them.
        plainly: Shows other warnings; None as Python does.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("always", NarrowRangeWarning)
        shown = plainly or warnings.showwarning

        def show(message: Warning | str, *rest: Any, **more: Any) -> None:
            if isinstance(message, NarrowRangeWarning):
                narrow.add(message)
            else:
                shown(message, *rest, **more)

        warnings.showwarning = show
        yield


def narrow_said(count: int, example: str, levels: Levels) -> str:
    """Say that so many images hardly use their declared range."""
    images = "1 16-bit image holds" if count == 1 else f"{count:,} 16-bit images hold"
    return f"{images} {levels.describe()}. For example '{example}'"
