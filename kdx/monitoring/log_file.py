"""The file of a log of verdicts: what it belongs to, its tables, and errors of SQLite explained."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from kdx.errors import DataError, OutputError
from kdx.monitoring.log_records import prepare_records

SCHEMA = 1
_APPLICATION = 0x6B6478  # "kdx": by this number SQLite marks the application that a file belongs to
_TABLES = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS verdicts (
    id INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, decision TEXT NOT NULL, score REAL, threshold REAL,
    milliseconds REAL NOT NULL, frame_faults TEXT NOT NULL
);
"""
# What users can do about errors of SQLite; about others, such as damage, a new log is begun.
_IN_USE, _NO_ACCESS = "end the program that uses it", "see that you may write to the file and its folder"
_FIXES = {
    "locked": _IN_USE,
    "busy": _IN_USE,
    "is full": "free space on its disk",
    "unable to open": _NO_ACCESS,
    "readonly": _NO_ACCESS,
    "I/O error": "see that its disk works and has free space",
}


@dataclass(frozen=True)
class LogFacts:
    """What a log belongs to.

    Attributes:
        bundle: The name of the bundle's folder.
        graph_sha256: The hash of the graph that computed the scores; scores of different graphs are
            not comparable.
        precision: The precision in which the graph ran.
        roi_sha256: The hash of the region of interest that was scored; None for whole images.
        level_sha256: The hash of the level map by which maps were divided, or None.
        runtime: The runtime that computed the scores; None for FP32 and FP16, in which all runtimes
            agree, and in logs of older versions.
    """

    bundle: str
    graph_sha256: str
    precision: str
    roi_sha256: str | None = None
    level_sha256: str | None = None
    runtime: str | None = None

    def describe(self) -> str:
        """Return a description of what a log belongs to."""
        region = f", region of interest {self.roi_sha256[:8]}" if self.roi_sha256 else ""
        level = f", level map {self.level_sha256[:8]}" if self.level_sha256 else ""
        runtime = f" of {self.runtime}" if self.runtime else ""
        return f"{self.bundle} in {self.precision}{runtime}{region}{level}"


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open the file of a log; one that is to be written is created if it is missing."""
    if read_only:
        return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5)
    database = sqlite3.connect(path, timeout=5, check_same_thread=False)
    # A power cut loses what was not yet written, and never damages the file.
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    return database


def prepare(database: sqlite3.Connection, path: Path, facts: LogFacts) -> bool:
    """Create the tables of a new file, or check that the file is a log of this graph.

    Returns:
        Whether the log names the runtime of its scores, where there is one to be named.
    """
    with database:
        database.execute("BEGIN IMMEDIATE")  # several processes may open a log at once
        is_new = not database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if is_new:
            for statement in _TABLES.split(";"):
                database.execute(statement)
            database.execute(f"PRAGMA application_id = {_APPLICATION}")
            database.execute(f"PRAGMA user_version = {SCHEMA}")
            named = {name: value for name, value in asdict(facts).items() if value is not None}
            database.executemany("INSERT OR IGNORE INTO facts VALUES (?, ?)", named.items())
        stored = facts_of(database, path, OutputError)
        prepare_records(database)
    # A log that an older kdx began does not name the runtime. Verdicts are still added, so that an
    # update stops no line; ``kdx drift`` refuses to compare its scores.
    expected = facts if stored.runtime else replace(facts, runtime=None)
    if replace(stored, bundle=facts.bundle) != expected:
        raise OutputError(
            f"'{path}' is the log of another graph, runtime, region of interest or level map: its scores are not "
            "comparable with these",
            expected=facts.describe(),
            received=stored.describe(),
            fix="name another file for this bundle",
        )
    return expected == facts


def facts_of(database: sqlite3.Connection, path: Path, error: type[DataError] | type[OutputError]) -> LogFacts:
    """Return what a log belongs to.

    Raises:
        KdxError: Of the given type: the file is not a log, or one of a newer kdx.
    """
    application = database.execute("PRAGMA application_id").fetchone()[0]
    schema = database.execute("PRAGMA user_version").fetchone()[0]
    if application != _APPLICATION:
        raise error(f"'{path}' is not a log of verdicts", fix="name another file")
    if schema < 1:
        raise error(f"'{path}' is not a log of verdicts: there is no schema {schema}", fix="name another file")
    if schema > SCHEMA:
        raise error(f"'{path}' was written by a newer kdx", fix="update kdx on this machine")
    named = dict(database.execute("SELECT name, value FROM facts").fetchall())
    try:
        required = named["bundle"], named["graph_sha256"], named["precision"]
        return LogFacts(*required, named.get("roi_sha256"), named.get("level_sha256"), named.get("runtime"))
    except KeyError as missing:
        raise error(
            f"'{path}' does not record what it belongs to: {missing} is missing", fix="name another file"
        ) from missing


@contextlib.contextmanager
def explained(path: Path, error: type[DataError] | type[OutputError]) -> Iterator[None]:
    """Convert errors of SQLite to the given type, with what the user can do."""
    try:
        yield
    except sqlite3.DatabaseError as cause:
        if not path.absolute().parent.is_dir():
            raise error(
                f"the log '{path}' cannot be written: the folder '{path.parent}' does not exist",
                fix="make the folder, or name another file",
            ) from cause
        found = (fix for part, fix in _FIXES.items() if part in str(cause))
        fix = next(found, "move the file away; a new one is created")
        raise error(f"the log '{path}' cannot be read or written: {cause}", fix=fix) from cause
