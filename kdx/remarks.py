"""Remarks on things that a command left out or could not use: a count, and the first few names."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from kdx.text import agreeing

FIRST = 5


class Remark(msgspec.Struct, frozen=True, kw_only=True):
    """A remark on things of one kind that the user should know about.

    Attributes:
        kind: The identifier of the kind, the same in all versions of kdx.
        text: The text that follows the number of things.
        count: The number of things.
        first: The names of the first few.
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
    """Return a list with a remark on the named things, or an empty list without names.

    Args:
        kind: The identifier of the kind.
        text: The text that follows the number, see :func:`kdx.text.agreeing`.
        names: The names of the things.
    """
    found = [str(name) for name in names]
    if not found:
        return []
    return [Remark(kind=kind, text=agreeing(len(found), text), count=len(found), first=tuple(found[:FIRST]))]


def shorten(names: Iterable[str]) -> str:
    """Return a text with the first names, and the number of the others."""
    names = list(names)
    return ", ".join(names[:FIRST]) + (f" and {len(names) - FIRST} more" if len(names) > FIRST else "")
