"""A log of verdicts on the line PC: an SQLite file of bounded size, intact after a power cut.

A detector passes each verdict to the log with a copy of its frame, which is hashed by one thread,
and another thread writes the verdicts once a second. A power cut loses at most that second. If the
disk is full or slow, or the file is moved or removed, verdicts are missing from the log, and if
frames come faster than they are hashed, hashes are: the log counts both, and warns once. The
detector waits for neither.

What the verdicts can be traced to is described in :mod:`kdx.monitoring.log_records`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import threading
import time
import warnings
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kdx.decision.verdict import Reason
from kdx.errors import DataError, OutputError
from kdx.monitoring.log_file import LogFacts, connect, explained, facts_of, prepare
from kdx.monitoring.log_records import Hashes, columns_of, number_of_source, warn_once

if TYPE_CHECKING:
    from kdx.decision.verdict import Verdict
    from kdx.monitoring.judged_by import JudgedBy
    from kdx.runtime.verdict_observer import JudgedFrame

MOST_VERDICTS = 1_000_000
_SECONDS = 1.0
# Verdicts that may wait to be written; if there are more, the oldest are lost.
_WAITING = 100_000
_INSERT = (
    "INSERT INTO verdicts (time, decision, score, threshold, milliseconds, frame_faults, reason, review_threshold, "
    "part_id, image, source, image_sha256) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


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
        self._facts, self._judged_by = facts, source
        self._source: int | None = None
        self._place = 0, 0  # the device and the number of the file that is written
        with explained(self.path, OutputError), contextlib.closing(connect(self.path)) as database:
            if not self._prepared(database):
                warnings.warn(
                    f"the log '{path}' was begun by an older kdx, which did not record the runtime of its "
                    f"{facts.precision} scores: verdicts are added, but kdx drift does not compare them; name a new "
                    "file to begin a log that it compares",
                    stacklevel=2,
                )
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
            database = self._write_waiting(database)
            if is_last:
                _close(database)
                return

    def _write_waiting(self, database: sqlite3.Connection | None) -> sqlite3.Connection | None:
        """Write the verdicts that wait; return the connection, or None after an error."""
        with self._lock:
            rows, self._waiting = self._waiting, deque()
        if rows:
            try:
                database = self._current(database)
                self._write(database, rows)
            except Exception:  # for example a full disk: the next attempt may succeed
                with self._lock:
                    self.lost += len(rows)
                _close(database)
                database = None
            warn_once(self._said, self.path, self.lost, self.without_hash)
        return database

    def _current(self, database: sqlite3.Connection | None) -> sqlite3.Connection:
        """Return the connection to the log at its path.

        Raises:
            OSError: The log was moved or removed: what is written to it would not be found again.
        """
        status = self.path.stat()
        place = status.st_dev, status.st_ino
        if database is not None:
            if place != self._place:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path))
            return database
        database, self._place = connect(self.path), place
        try:
            self._prepared(database)
        except BaseException:
            database.close()
            raise
        return database

    def _prepared(self, database: sqlite3.Connection) -> bool:
        """Prepare a connection to be written to; return whether the log names its runtime."""
        names_runtime = prepare(database, self.path, self._facts)
        self._source = number_of_source(database, self._judged_by)
        return names_runtime

    def _write(self, database: sqlite3.Connection, rows: deque[tuple[object, ...]]) -> None:
        hashed = [(*row, self._source, found.result() if isinstance(found, Future) else found) for *row, found in rows]
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
    with explained(path, DataError), contextlib.closing(connect(path, read_only=True)) as database:
        facts = facts_of(database, path, DataError)
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


def _close(database: sqlite3.Connection | None) -> None:
    if database is not None:
        with contextlib.suppress(sqlite3.Error):
            database.close()
