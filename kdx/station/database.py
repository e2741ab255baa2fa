"""The SQLite file of a station: opened, checked, and changed in transactions."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kdx.errors import OutputError
from kdx.storage.files import is_disk_full

SCHEMA = 2
FILE = "station.db"
_APPLICATION = 0x6B647873  # "kdxs": by this number SQLite marks the application of a file
# With less free space than this, a general error of SQLite means a full disk.
_LITTLE = 1 << 20
_TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE files (
    id INTEGER PRIMARY KEY AUTOINCREMENT, path BLOB NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    inode INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
    verdict_id TEXT NOT NULL UNIQUE, verdict TEXT NOT NULL, state TEXT NOT NULL, place BLOB UNIQUE, heat_map BLOB,
    bytes INTEGER NOT NULL, seconds REAL NOT NULL, image_sha256 TEXT
);
CREATE INDEX files_by_state ON files (state, id);
CREATE INDEX files_by_verdict ON files (verdict, id);
CREATE INDEX files_by_path ON files (path);
CREATE INDEX files_by_heat_map ON files (heat_map);
CREATE TABLE lines (id INTEGER PRIMARY KEY AUTOINCREMENT, day TEXT NOT NULL, line BLOB NOT NULL);
CREATE TABLE texts (name TEXT PRIMARY KEY, bytes INTEGER NOT NULL, seconds REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, receiver TEXT NOT NULL, line BLOB NOT NULL);
CREATE INDEX outbox_by_receiver ON outbox (receiver, id);
CREATE TABLE views (
    part BLOB NOT NULL, view BLOB NOT NULL, verdict_id TEXT NOT NULL, verdict TEXT NOT NULL, product BLOB,
    seconds REAL NOT NULL
);
CREATE INDEX views_by_part ON views (part);
"""
# Columns that schema 2 added. No file has these values, so its content says whether it was judged.
_ADDED = ("inode INTEGER NOT NULL DEFAULT 0", "ctime_ns INTEGER NOT NULL DEFAULT 0")


class Database:
    """An open file. Each thread needs one of its own.

    Args:
        path: The file, which is created if it is missing.
        create: Whether to create the tables of a new file.

    Raises:
        OSError: The disk is full.
        OutputError: The file cannot be opened, is not a ledger, or of a newer kdx.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.path = path
        try:
            self._base = sqlite3.connect(path, timeout=30, isolation_level=None)
        except sqlite3.OperationalError as error:
            raise self._explained(error) from error
        try:
            # A commit has reached the disk: what follows it never knows more than the ledger.
            self._base.execute("PRAGMA synchronous = FULL")
            if create:
                self._base.execute("PRAGMA journal_mode = WAL")
                self._prepare()
        except sqlite3.DatabaseError as error:
            self._base.close()
            if isinstance(error, sqlite3.OperationalError):
                raise self._explained(error) from error
            raise _foreign(path, str(error)) from error
        except BaseException:
            self._base.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit everything in the block, or nothing of it.

        Raises:
            OSError: The disk is full.
            OutputError: The file cannot be written for another reason.
        """
        try:
            self._base.execute("BEGIN IMMEDIATE")
            yield
            self._base.execute("COMMIT")
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):  # after some errors, SQLite has rolled back already
                self._base.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError):
                raise self._explained(error) from error
            raise

    def _rows(self, question: str, given: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Return what the file says.

        Raises:
            OSError: The disk is full.
            OutputError: The file cannot be read for another reason.
        """
        try:
            return self._base.execute(question, given).fetchall()
        except sqlite3.OperationalError as error:
            raise self._explained(error) from error

    def _explained(self, error: sqlite3.OperationalError) -> OSError | OutputError:
        """Return what an error of SQLite means: that the disk is full, or something else."""
        is_general = "disk I/O error" in str(error) or "unable to open" in str(error)
        if "is full" in str(error) or (is_general and _is_full(self.path.parent)):
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        return OutputError(f"the ledger '{self.path}' cannot be read or written: {error}")

    def _prepare(self) -> None:
        """Create the tables of a new file, or check that it is a ledger, and update it."""
        with self.transaction():
            if not self._base.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                for statement in _TABLES.split(";"):
                    self._base.execute(statement)
                self._base.execute(f"PRAGMA application_id = {_APPLICATION}")
                self._base.execute(f"PRAGMA user_version = {SCHEMA}")
            if self._base.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION:
                raise _foreign(self.path, "it is of another program")
            schema = self._base.execute("PRAGMA user_version").fetchone()[0]
            if schema < 1:
                raise _foreign(self.path, f"there is no schema {schema}")
            if schema > SCHEMA:
                raise OutputError(f"'{self.path}' was written by a newer kdx", fix="update kdx on this machine")
            if schema < SCHEMA:
                self._update()

    def _update(self) -> None:
        """Add what an earlier version did not have, in the transaction that is open."""
        known = {row[1] for row in self._base.execute("PRAGMA table_info(files)")}
        for column in _ADDED:
            if column.split()[0] not in known:
                self._base.execute(f"ALTER TABLE files ADD COLUMN {column}")
        self._base.execute(f"PRAGMA user_version = {SCHEMA}")


def _is_full(folder: Path) -> bool:
    """Whether the disk of a folder, or the user's share of it, has next to no room.

    A share is no part of what the system says is free: only an attempt to write tells.
    """
    if shutil.disk_usage(folder).free < _LITTLE:
        return True
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_LITTLE))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return is_disk_full(error)
    return False


def _foreign(path: Path, reason: str) -> OutputError:
    return OutputError(f"'{path}' is not the ledger of a station, or is damaged: {reason}", fix="choose another `out`")
