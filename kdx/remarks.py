"""What a command left out or could not use: counted, and the first few named."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

FIRST = 5


class Remark(msgspec.Struct, frozen=True, kw_only=True):
    """Things of one kind that a user should know of.

    Attributes:
        kind: Identifier of the kind, stable between versions of kdx.
        text: What they are, in words that follow their number.
        count: How many there are.
        first: The first few by name.
    """

    kind: str
    text: str
    count: int
    first: tuple[str, ...]

    def __str__(self) -> str:
        more = self.count - len(self.first)
        names = ", ".join(self.first) + (f" and {more} more" if more else "")
        return f"{self.count} {self.text}" + (f": {names}" if self.first else "")


def remark(kind: str, text: str, names: Iterable[object]) -> list[Remark]:
    """Return a remark on some things, in a list that is empty when there are none."""
    found = [str(name) for name in names]
    if not found:
        return []
    return [Remark(kind=kind, text=text, count=len(found), first=tuple(found[:FIRST]))]


def shorten(names: Iterable[str], count: int = 5) -> str:
    """Name the first few of many."""
    names = list(names)
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")
