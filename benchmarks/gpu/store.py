"""The result file of ``gpu.py``: rows that survive a crash, a kill and a second call."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from kdx.storage.files import write_atomic

SCHEMA = 1
OK, FAILED, NOT_RUN = "ok", "failed", "not run"

Key = tuple[str, int, str]


class Store:
    """Rows on disk, one for each method, batch size and candidate; written after every change.

    Args:
        path: The result file.
        record: Everything but the rows.
        rows: Those so far.
    """

    def __init__(self, path: Path, record: dict[str, Any], rows: Iterable[dict[str, Any]] = ()) -> None:
        self.path = path
        self.record = record
        self.rows: dict[Key, dict[str, Any]] = {key_of(row): row for row in rows}
        self._running = path.with_name(f".{path.name}.running")

    @classmethod
    def open(cls, path: Path) -> Store:
        """Read a result file."""
        record = json.loads(path.read_text(encoding="utf-8"))
        return cls(path, record, record.pop("rows"))

    @classmethod
    def resume(cls, path: Path, identity: dict[str, Any], *, fresh: bool = False) -> tuple[Store, str]:
        """Go on with a file of the same machine, packages, code and settings, or begin anew and keep the old one.

        Returns:
            The store, and why it begins anew, or an empty string.
        """
        why = ""
        if path.is_file():
            try:
                store = cls.open(path)
                why = "asked to" if fresh else _difference(store.record, {"schema": SCHEMA, **identity})
                if not why:
                    return store, ""
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                why = f"the file is damaged: {error}"
            path.replace(path.with_name(f"{path.name}.old"))
        return cls(path, {"schema": SCHEMA, **identity, "calls": [], "skipped": []}), why

    def put(self, rows: Iterable[dict[str, Any]]) -> None:
        """Keep rows, and write everything."""
        for row in rows:
            self.rows[key_of(row)] = row
        self.save()

    def save(self) -> None:
        """Write the file in one step."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        record = {**self.record, "rows": list(self.rows.values())}
        write_atomic(self.path, (json.dumps(record, indent=1) + "\n").encode())

    def mark(self, key: Key | None) -> None:
        """Say what is being done, for whoever finds this process dead; None: nothing that could be blamed."""
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


def key_of(row: dict[str, Any]) -> Key:
    """Return what a row is about."""
    return row["method"], row["batch"], row["candidate"]


def row_of(key: Key, status: str, reason: str = "", **found: Any) -> dict[str, Any]:
    """Return a row."""
    method, batch, candidate = key
    return {"method": method, "batch": batch, "candidate": candidate, "status": status, "reason": reason, **found}


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Say in what two identities differ; JSON knows no tuples."""
    plain = json.loads(json.dumps(new))
    return ", ".join(f"another {name}" for name, value in plain.items() if old.get(name) != value)
