"""Text files to which lines are only appended, each exactly once: JSON lines, and a table.

Lines wait in the ledger until their file has reached the disk, and the ledger knows how long the
file is then. A kill in between leaves a file that is longer: if what follows is the beginning of
what was being written, it is completed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from kdx.station.ledger import Ledger
from kdx.station.record import VerdictRecord
from kdx.storage.files import sync_folder
from kdx.storage.spreadsheet import CsvStyle, csv_lines, path_text

FOLDER = "verdicts"
_SUFFIXES: dict[CsvStyle, str] = {"comma": ".csv", "semicolon": ".semicolons.csv"}
# The columns of the table, the most read first.
_FIRST = ("image", "part_id", "verdict", "score", "threshold", "margin")
COLUMNS = (*_FIRST, *(name for name in VerdictRecord.__struct_fields__ if name not in _FIRST))


class Lines:
    """The text files of a station: for each day one of JSON lines and, if asked for, a table.

    Args:
        out: The output folder.
        ledger: Its ledger, which holds the lines that wait.
        style: The style of the tables; None for no tables.
    """

    def __init__(self, out: Path, ledger: Ledger, style: CsvStyle | None) -> None:
        self._out, self._ledger, self._style = out, ledger, style

    def write(self, seconds: float) -> bool:
        """Write all lines that wait; return whether there were any.

        Args:
            seconds: The time by the station's own clock.

        Raises:
            OSError: A line cannot be written, for example because the disk is full; it waits on.
        """
        waiting = self._ledger.lines()
        for day, rows in groupby(waiting, key=lambda row: row[1]):
            numbers, _, lines = zip(*rows, strict=True)
            texts = {f"{FOLDER}/{day}.jsonl": (b"", b"".join(lines))}
            if self._style is not None:
                texts[f"{FOLDER}/{day}{_SUFFIXES[self._style]}"] = _table(lines, self._style)
            sizes = {name: self._append(name, *parts) for name, parts in texts.items()}
            with self._ledger.transaction():
                for name, size in sizes.items():
                    self._ledger.set_text(name, size, seconds)
                self._ledger.remove_lines(numbers[-1])
        return bool(waiting)

    def _append(self, name: str, header: bytes, text: bytes) -> int:
        """Append text to a file unless it ends with it already; return the file's size then."""
        path = self._out / name
        path.parent.mkdir(exist_ok=True)
        known = self._ledger.text_bytes(name)
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
            size = file.seek(0, os.SEEK_END)
            if not known or not size:
                known, text = 0, header + text
            file.seek(known)
            written = file.read(len(text) + 1)
            if written and text.startswith(written):  # a process was killed while it wrote this text
                text = text[len(written) :]
            elif size:  # what somebody else wrote, or left of the file, stays as it is
                file.seek(size - 1)
                text = text if file.read(1) == b"\n" else b"\n" + text
            file.seek(0, os.SEEK_END)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            end = file.tell()
        if not size:
            sync_folder(path.parent)
        return end


def _table(lines: Iterable[bytes], style: CsvStyle) -> tuple[bytes, bytes]:
    """Return the head of a table, and the rows of the verdicts among some lines of JSON."""
    rows = [row for row in map(json.loads, lines) if "verdict" in row]
    for row in rows:
        row["image"] = row.get("image") and path_text(row["image"])
        row["error"] = row.get("error", {}).get("message")
    header, *cells = csv_lines(rows, COLUMNS, style)
    return header, b"".join(cells)
