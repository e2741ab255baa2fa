"""Whether files arrive faster than they are judged, which is said and not hidden."""

from __future__ import annotations

from collections.abc import Callable


class Backlog:
    """Says when too many files wait, whenever they are twice as many, and when none is left.

    Args:
        limit: How many files may wait.
        say: Is given the remarks.

    Attributes:
        most: How many files waited at most.
    """

    def __init__(self, limit: int, say: Callable[[str], None]) -> None:
        self.most = 0
        self._limit, self._say = limit, say
        self._next = limit

    def update(self, waiting: int) -> None:
        """Take notice of how many files wait."""
        self.most = max(self.most, waiting)
        if waiting > self._next:
            self._say(f"{waiting:,} files wait: they arrive faster than they are judged")
            self._next = 2 * waiting
        elif waiting == 0 and self._next > self._limit:
            self._say("no file waits any longer")
            self._next = self._limit
