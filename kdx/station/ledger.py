"""What a station has done, in one SQLite file: the single source of truth for "exactly once".

A verdict, the place where its file goes, its line, and its messages are committed in one
transaction. Whatever is done with files and receivers follows, can be repeated, and is crossed off
when it is done. After a kill or a power cut the ledger says what is left to do.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from kdx.station.judged_files import JudgedFiles, decoded_path, encoded_path


class PartKey(NamedTuple):
    """What makes two views those of one part: each product may number its own parts.

    Attributes:
        part: The identifier of the part.
        product: The product by which the bundle was chosen, or None.
    """

    part: str
    product: str | None


class PartView(NamedTuple):
    """The verdict on a view of a part that is not complete.

    Attributes:
        view: The view.
        verdict_id: The identifier of its verdict.
        verdict: The verdict.
        seconds: When its file arrived, by the station's own clock.
    """

    view: str
    verdict_id: str
    verdict: str
    seconds: float


class Ledger(JudgedFiles):
    """The ledger of an output folder. Each thread needs one of its own."""

    def fact(self, name: str) -> Any:
        """Return a fact by name, or None."""
        rows = self._rows("SELECT value FROM facts WHERE name = ?", (name,))
        return rows[0][0] if rows else None

    def set_fact(self, name: str, value: object) -> None:
        """Store a fact."""
        self._base.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def add_line(self, day: str, line: bytes) -> None:
        """Add a line of JSON that is to be written."""
        self._base.execute("INSERT INTO lines (day, line) VALUES (?, ?)", (day, line))

    def lines(self) -> list[tuple[int, str, bytes]]:
        """Return number, day and text of the lines that are to be written, in order."""
        return self._rows("SELECT id, day, line FROM lines ORDER BY id")

    def remove_lines(self, last: int) -> None:
        """Cross off the lines up to a number."""
        self._base.execute("DELETE FROM lines WHERE id <= ?", (last,))

    def text_bytes(self, name: str) -> int:
        """Return how much of a text file was written for certain."""
        rows = self._rows("SELECT bytes FROM texts WHERE name = ?", (name,))
        return int(rows[0][0]) if rows else 0

    def set_text(self, name: str, size: int, seconds: float) -> None:
        """Record how much of a text file was written for certain."""
        self._base.execute("INSERT OR REPLACE INTO texts VALUES (?, ?, ?)", (name, size, seconds))

    def texts_before(self, seconds: float) -> list[str]:
        """Return the text files to which nothing was written since a time of the own clock."""
        return [name for (name,) in self._rows("SELECT name FROM texts WHERE seconds < ?", (seconds,))]

    def forget_text(self, name: str) -> None:
        """Forget a text file that was deleted."""
        self._base.execute("DELETE FROM texts WHERE name = ?", (name,))

    def post(self, receiver: str, line: bytes) -> int:
        """Add a message for a receiver to the outbox, and return its number."""
        added = self._base.execute("INSERT INTO outbox (receiver, line) VALUES (?, ?)", (receiver, line))
        assert added.lastrowid is not None
        return added.lastrowid

    def outbox(self, receiver: str, limit: int) -> list[tuple[int, bytes]]:
        """Return number and text of the first messages for a receiver."""
        return self._rows("SELECT id, line FROM outbox WHERE receiver = ? ORDER BY id LIMIT ?", (receiver, limit))

    def waiting(self, receiver: str) -> int:
        """Return how many messages wait for a receiver."""
        return int(self._rows("SELECT count(*) FROM outbox WHERE receiver = ?", (receiver,))[0][0])

    def receivers(self) -> list[tuple[str, int]]:
        """Return the receivers for which messages wait, and how many."""
        return self._rows("SELECT receiver, count(*) FROM outbox GROUP BY receiver ORDER BY receiver")

    def remove_messages(self, numbers: Sequence[int]) -> None:
        """Cross off messages that their receiver acknowledged."""
        with self.transaction():
            self._base.executemany("DELETE FROM outbox WHERE id = ?", [(number,) for number in numbers])

    def add_view(self, part: PartKey, view: PartView) -> None:
        """Add the verdict on a view of a part that is not complete."""
        self._base.execute(
            "INSERT INTO views (part, view, verdict_id, verdict, product, seconds) VALUES (?, ?, ?, ?, ?, ?)",
            (
                os.fsencode(part.part),
                os.fsencode(view.view),
                view.verdict_id,
                view.verdict,
                encoded_path(part.product),
                view.seconds,
            ),
        )

    def views(self, part: PartKey) -> list[PartView]:
        """Return what a part has so far."""
        found = self._rows(
            "SELECT view, verdict_id, verdict, seconds FROM views WHERE part = ? AND product IS ? ORDER BY rowid",
            _encoded(part),
        )
        return [PartView(os.fsdecode(view), number, verdict, seconds) for view, number, verdict, seconds in found]

    def open_parts(self) -> dict[PartKey, float]:
        """Return when the parts began that are not complete, in this order."""
        found = self._rows("SELECT part, product, min(seconds) FROM views GROUP BY part, product ORDER BY min(rowid)")
        return {PartKey(os.fsdecode(part), decoded_path(product)): seconds for part, product, seconds in found}

    def close_part(self, part: PartKey) -> None:
        """Cross off the views of a part that has its verdict."""
        self._base.execute("DELETE FROM views WHERE part = ? AND product IS ?", _encoded(part))


def _encoded(part: PartKey) -> tuple[bytes, bytes | None]:
    return os.fsencode(part.part), encoded_path(part.product)
