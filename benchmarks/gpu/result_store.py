"""The result of the GPU benchmark: rows that survive a kill and a second call, with their table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.gpu.table import gpu_lines
from benchmarks.results import Record, Result

OK, COMPARED, FAILED, NOT_RUN = "ok", "compared", "failed", "not run"

Key = tuple[str, int, str]


class Store(Result):
    """A result with a row for each method, batch size and candidate; written after every change."""

    def __init__(self, path: Path, record: Record) -> None:
        super().__init__(path, record)
        self.rows: dict[Key, Record] = {key_of(row): row for row in self.found.get("rows", [])}

    def put_rows(self, rows: Iterable[Record]) -> None:
        """Keep rows, and write everything."""
        for row in rows:
            self.rows[key_of(row)] = row
        self.save()

    def save(self) -> None:
        """Write the file in one step, with its table."""
        self.found["rows"] = list(self.rows.values())
        self.record["table"] = gpu_lines(self.record, every=True)
        super().save()

    def missing(self, keys: Sequence[Key], *, timed: bool) -> list[Key]:
        """Return the keys that have no row yet, or none with times."""
        return [key for key in keys if key not in self.rows or (timed and self.rows[key]["status"] == COMPARED)]


def key_of(row: Record) -> Key:
    """Return what a row is about."""
    return row["method"], row["batch"], row["candidate"]


def row_of(key: Key, status: str, reason: str = "", **found: object) -> Record:
    """Return a row."""
    method, batch, candidate = key
    return {"method": method, "batch": batch, "candidate": candidate, "status": status, "reason": reason, **found}
