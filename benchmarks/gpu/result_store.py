"""The result of the GPU benchmark: rows that survive a crash, a kill and a second call."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import Record, Result

OK, FAILED, NOT_RUN = "ok", "failed", "not run"

Key = tuple[str, int, str]


class Store(Result):
    """A result with a row for each method, batch size and candidate; written after every change."""

    def __init__(self, path: Path, record: Record) -> None:
        super().__init__(path, record)
        self.rows: dict[Key, Record] = {key_of(row): row for row in self.found.get("rows", [])}
        self._running = path.with_name(f".{path.name}.running")

    def put_rows(self, rows: Iterable[Record]) -> None:
        """Keep rows, and write everything."""
        for row in rows:
            self.rows[key_of(row)] = row
        self.save()

    def save(self) -> None:
        """Write the file in one step."""
        self.found["rows"] = list(self.rows.values())
        super().save()

    def mark(self, key: Key | None) -> None:
        """Note what is being done, in case this process dies; None for nothing of note."""
        if key is None:
            self._running.unlink(missing_ok=True)
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._running.write_text(json.dumps(key), encoding="utf-8")

    def marked(self) -> Key | None:
        """Return what a process was doing when it died."""
        try:
            method, batch, candidate = json.loads(self._running.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return method, batch, candidate

    def missing(self, keys: Sequence[Key]) -> list[Key]:
        """Return the keys that have no row yet."""
        return [key for key in keys if key not in self.rows]


def key_of(row: Record) -> Key:
    """Return what a row is about."""
    return row["method"], row["batch"], row["candidate"]


def row_of(key: Key, status: str, reason: str = "", **found: Any) -> Record:
    """Return a row."""
    method, batch, candidate = key
    return {"method": method, "batch": batch, "candidate": candidate, "status": status, "reason": reason, **found}
