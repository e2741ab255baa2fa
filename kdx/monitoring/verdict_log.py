"""A log of verdicts on the line PC: an SQLite file of bounded size, intact after a power cut.

A detector passes each verdict to the log with a copy of its frame, which is hashed by one thread,
and another thread writes the verdicts once a second. A power cut loses at most that second. If the
disk is full or slow, verdicts are missing from the log, and if frames come faster than they are
hashed, hashes are: the log counts both, and warns once. The detector waits for neither.

What the verdicts can be traced to is described in :mod:`kdx.monitoring.log_records`.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kdx.decision.verdict import Reason
from kdx.errors import DataError, OutputError
from kdx.monitoring.log_records import Hashes, columns_of, number_of_source, prepare_records, warn_once

if TYPE_CHECKING:
    from kdx.decision.verdict import Verdict
    from kdx.monitoring.judged_by import JudgedBy
    from kdx.runtime.verdict_observer import JudgedFrame

SCHEMA = 1
_APPLICATION = 0x6B6478  # "kdx": by this number SQLite marks the application that a file belongs to
MOST_VERDICTS = 1_000_000
_SECONDS = 1.0
# Verdicts that may wait to be written; if there are more, the oldest are lost.
_WAITING = 100_000
_TABLES = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS verdicts (
    id INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, decision TEXT NOT NULL, score REAL, threshold REAL,
    milliseconds REAL NOT NULL, frame_faults TEXT NOT NULL
);
"""
_INSERT = (
    "INSERT INTO verdicts (time, decision, score, threshold, milliseconds, frame_faults, reason, review_threshold, "
    "part_id, image, source, image_sha256) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


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


class VerdictLog:
    """Writes verdicts to a file. Any number of threads and processes may write to one.

    Args:
        path: The file, which is created if it is missing.
        facts: What the log belongs to.
        source: What reaches the verdicts, or None.
        most: The number of verdicts to keep; the oldest are deleted first.

    Attributes:
        path: The file.
        most: The number of verdicts to keep.
        lost: The number of verdicts that could not be written.
        without_hash: The number of images whose hash is missing: frames came faster than they were
            hashed, or a file changed after it was judged.

    Raises:
        OutputError: The file cannot be written, is not a log, or belongs to another graph.
    """

    def __init__(
        self, path: str | Path, facts: LogFacts, source: JudgedBy | None = None, most: int = MOST_VERDICTS
    ) -> None:
        self.path = Path(path)
        self.most = most
        self.lost = 0
        self._waiting: deque[tuple[object, ...]] = deque()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        with _explained(self.path, OutputError), contextlib.closing(_connect(self.path)) as database:
            _prepare(database, self.path, facts)
            self._source = number_of_source(database, source)
        self._hashes = Hashes()
        self._said: set[str] = set()
        self._thread = threading.Thread(target=self._write_until_closed, name="kdx verdict log", daemon=True)
        self._thread.start()

    @property
    def without_hash(self) -> int:  # noqa: D102  # an attribute of the class's docstring
        return self._hashes.missing

    def add(self, verdict: Verdict, milliseconds: float, shown: JudgedFrame | None = None) -> None:
        """Take a verdict, the time that it took, and its image; never waits for the disk."""
        row: tuple[object, ...] = (
            time.time(),
            verdict.decision.value,
            verdict.score,
            verdict.threshold,
            milliseconds,
            ",".join(fault.value for fault in verdict.frame_faults),
            None if verdict.reason is None else verdict.reason.value,
            verdict.review_threshold,
            None if shown is None else _text(shown.part_id),
            None if shown is None else _text(shown.path),
            self._source,
            None if shown is None else self._hashes.of(shown),
        )
        with self._lock:
            if len(self._waiting) == _WAITING:
                self._waiting.popleft()
                self.lost += 1
            self._waiting.append(row)

    def close(self) -> None:
        """Write the verdicts that wait, and stop the threads."""
        self._closing.set()
        self._thread.join()
        self._hashes.close()

    def _write_until_closed(self) -> None:
        database: sqlite3.Connection | None = None
        while True:
            is_last = self._closing.wait(_SECONDS)
            with self._lock:
                rows, self._waiting = self._waiting, deque()
            if rows:
                try:
                    database = database or _connect(self.path)
                    self._write(database, rows)
                except Exception:  # for example a full disk: the next attempt may succeed
                    self.lost += len(rows)
                    _close(database)
                    database = None
                warn_once(self._said, self.path, self.lost, self.without_hash)
            if is_last:
                _close(database)
                return

    def _write(self, database: sqlite3.Connection, rows: deque[tuple[object, ...]]) -> None:
        hashed = [(*row, found.result() if isinstance(found, Future) else found) for *row, found in rows]
        with database:
            database.executemany(_INSERT, hashed)
            database.execute("DELETE FROM verdicts WHERE id <= (SELECT max(id) FROM verdicts) - ?", (self.most,))


@dataclass(frozen=True)
class LoggedVerdicts:
    """The verdicts of a log, the oldest first.

    Attributes:
        facts: What the log belongs to.
        times: The times of the verdicts in seconds since 1970, ``(N,)``.
        scores: The scores, ``(N,)``; NaN for a score that was not finite.
        decisions: The decisions as text, ``(N,)``.
        milliseconds: The times from the array to the verdict, ``(N,)``.
        has_part: Whether the frame shows a part, ``(N,)`` of bool: it had no frame fault.
        other_region: Whether the call named another region of interest than the calibration's,
            ``(N,)`` of bool.
    """

    facts: LogFacts
    times: NDArray[np.float64]
    scores: NDArray[np.float64]
    decisions: NDArray[np.str_]
    milliseconds: NDArray[np.float64]
    has_part: NDArray[np.bool_]
    other_region: NDArray[np.bool_]


def read_log(path: str | Path) -> LoggedVerdicts:
    """Read a log, also while it is written.

    Raises:
        DataError: The file is missing, damaged or locked, or is not a log of verdicts.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no log '{path}'", fix="begin one: kdx.load(BUNDLE, log=PATH)")
    with _explained(path, DataError), contextlib.closing(_connect(path, read_only=True)) as database:
        facts = _facts(database, path, DataError)
        # Logs of earlier versions lack the column: a file that is only read is not changed.
        reason = "reason" if "reason" in columns_of(database) else "NULL"
        rows = database.execute(
            "SELECT time, ifnull(score, 9e999), decision, milliseconds, frame_faults = '', "  # noqa: S608
            f"{reason} IS '{Reason.OTHER_REGION.value}' FROM verdicts ORDER BY id"
        ).fetchall()
    times, scores, decisions, milliseconds, has_part, other_region = zip(*rows, strict=True) if rows else ((),) * 6
    values = np.array(scores, np.float64)
    values[~np.isfinite(values)] = np.nan
    return LoggedVerdicts(
        facts,
        np.array(times, np.float64),
        values,
        np.array(decisions, np.str_),
        np.array(milliseconds, np.float64),
        np.array(has_part, np.bool_),
        np.array(other_region, np.bool_),
    )


def _text(value: object) -> str | None:
    """Return text that SQLite takes: names of files may hold bytes that are not UTF-8."""
    return None if value is None else str(value).encode("utf-8", "backslashreplace").decode()


def _connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    if read_only:
        return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5)
    database = sqlite3.connect(path, timeout=5, check_same_thread=False)
    # A power cut loses what was not yet written, and never damages the file.
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    return database


def _close(database: sqlite3.Connection | None) -> None:
    if database is not None:
        with contextlib.suppress(sqlite3.Error):
            database.close()


def _prepare(database: sqlite3.Connection, path: Path, facts: LogFacts) -> None:
    """Create the tables of a new file, or check that the file is a log of this graph."""
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
        stored = _facts(database, path, OutputError)
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
    if expected != facts:
        warnings.warn(
            f"the log '{path}' was begun by an older kdx, which did not record the runtime of its {facts.precision} "
            "scores: verdicts are added, but kdx drift does not compare them; name a new file to begin a log that it "
            "compares",
            stacklevel=2,
        )


def _facts(database: sqlite3.Connection, path: Path, error: type[DataError] | type[OutputError]) -> LogFacts:
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
def _explained(path: Path, error: type[DataError] | type[OutputError]) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as cause:
        if not path.absolute().parent.is_dir():
            raise error(
                f"the log '{path}' cannot be written: the folder '{path.parent}' does not exist",
                fix="make the folder, or name another file",
            ) from cause
        is_busy = "locked" in str(cause) or "busy" in str(cause)
        fix = "end the program that uses it" if is_busy else "move the file away; a new one is created"
        raise error(f"the log '{path}' cannot be read or written: {cause}", fix=fix) from cause
