"""The images of an archive that earlier listings do not hold, in the order of the walk."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence


def order(path: str) -> list[str]:
    """Return the key by which :func:`kdx.folders.image_search.walk` sorts paths."""
    return path.split("/")


def added(found: Iterable[str], known: Sequence[Iterable[str]]) -> Iterator[str]:
    """Yield the paths that are in no earlier list; all lists are in the order of the walk."""
    earlier = heapq.merge(*known, key=order)
    next_known = next(earlier, None)
    for path in found:
        while next_known is not None and order(next_known) < order(path):
            next_known = next(earlier, None)
        if next_known != path:
            yield path
