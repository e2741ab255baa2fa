"""What verdicts in a log can be traced to: part, image, bundle, graph, backend and precision.

The view ``records`` names the columns as the records of ``kdx watch`` and ``kdx serve`` do. Its
``image_sha256`` is what :func:`frame_sha256` returns: of the pixels as the detector was given them,
and not of a file, whose hash depends on how it was compressed. Of a frame that was read in bands it
is the hash of its file. It is NULL for a frame on the GPU; for a file that was written to, replaced
or removed before it was hashed; and for a frame that came while too many others waited for their
hashes. The log counts the last two.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import threading
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from kdx.monitoring.judged_by import JudgedBy
from kdx.storage.files import sha256_file
from kdx.storage.stamps import stamp_of

if TYPE_CHECKING:
    from kdx.runtime.verdict_observer import JudgedFrame

# Columns of later versions, which are added to logs of earlier ones.
_COLUMNS = {
    "reason": "TEXT", "review_threshold": "REAL", "part_id": "TEXT", "image": "TEXT", "image_sha256": "TEXT",
    "source": "INTEGER",
}  # fmt: skip
_RECORDS = """
CREATE TABLE IF NOT EXISTS sources (
    id INTEGER PRIMARY KEY, bundle TEXT, bundle_sha256 TEXT, graph_sha256 TEXT, backend TEXT, precision TEXT,
    threshold_by_hand TEXT
);
CREATE VIEW IF NOT EXISTS records AS SELECT
    strftime('%Y-%m-%dT%H:%M:%f+00:00', time, 'unixepoch') AS time, part_id, image, image_sha256, bundle, bundle_sha256,
    graph_sha256, backend, precision, decision AS verdict, score, threshold, review_threshold, reason, frame_faults,
    threshold_by_hand
FROM verdicts LEFT JOIN sources ON sources.id = verdicts.source ORDER BY verdicts.id;
"""
# How many bytes of frames may wait for their hashes; where none waits, a frame may be larger.
_MOST_BYTES = 64 << 20


def frame_sha256(frame: NDArray[np.uint8]) -> str:
    """Return the hexadecimal SHA-256 of a frame.

    Args:
        frame: uint8 ``(H, W, C)``.

    Returns:
        The hash of type and shape as a line of text, for example ``uint8 480,640,3``, and then of
        the pixels by rows.
    """
    digest = hashlib.sha256(f"{frame.dtype} {','.join(map(str, frame.shape))}\n".encode())
    digest.update(frame.reshape(-1).data)  # no copy, if the pixels lie by rows
    return digest.hexdigest()


class Hashes:
    """Computes the hashes of images, in a thread of its own.

    Attributes:
        missing: The number of images that have no hash although they could have had one.
    """

    def __init__(self) -> None:
        self.missing = 0
        self._bytes = 0  # of frames that wait
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kdx hashes of frames")

    def close(self) -> None:
        """Finish what waits."""
        self._thread.shutdown()

    def of(self, shown: JudgedFrame) -> Future[str | None] | None:
        """Return what will be the hash of an image, or None if there is none.

        The frame may change after the call, which copies it. Where too many wait, it does not: the
        line is not slowed down to the speed of the hashes.
        """
        if shown.path is not None:
            return self._thread.submit(self._of_file, shown.path, shown.stamp)
        if shown.frame is None:
            return None
        size = shown.frame.nbytes
        with self._lock:
            if 0 < self._bytes > _MOST_BYTES - size:
                self.missing += 1
                return None
            self._bytes += size
        return self._thread.submit(self._of_frame, shown.frame.copy())

    def _of_frame(self, frame: NDArray[np.uint8]) -> str:
        found = frame_sha256(frame)
        with self._lock:
            self._bytes -= frame.nbytes
        return found

    def _of_file(self, path: Path, stamp: tuple[int, ...] | None) -> str | None:
        """Return the hash of a file, or None if it may not be the one that was judged."""
        with contextlib.suppress(OSError):  # it is gone by now
            found = sha256_file(path)
            if stamp is not None and stamp_of(path) == stamp:
                return found
        with self._lock:
            self.missing += 1
        return None


def columns_of(database: sqlite3.Connection) -> set[str]:
    """Return the columns of a log's verdicts, of which earlier versions had fewer."""
    return {row[1] for row in database.execute("PRAGMA table_info(verdicts)")}


def prepare_records(database: sqlite3.Connection) -> None:
    """Add what an earlier version did not have in its logs, in the transaction that is open."""
    known = columns_of(database)
    for name, kind in _COLUMNS.items():
        if name not in known:
            database.execute(f"ALTER TABLE verdicts ADD COLUMN {name} {kind}")
    for statement in _RECORDS.split(";"):
        database.execute(statement)


def number_of_source(database: sqlite3.Connection, source: JudgedBy | None) -> int | None:
    """Return the number of what reaches verdicts; it is the same whenever the same is loaded."""
    if source is None:
        return None
    columns = ", ".join(JudgedBy.__struct_fields__)
    stored = msgspec.structs.astuple(source)
    values = f"SELECT {', '.join('?' * len(stored))}"
    same = f"SELECT id FROM sources WHERE ({columns}) IS ({values})"  # noqa: S608
    with database:
        database.execute(f"INSERT INTO sources ({columns}) {values} WHERE NOT EXISTS ({same})", (*stored, *stored))
        return int(database.execute(same, stored).fetchone()[0])


def warn_once(said: set[str], path: Path, lost: int, without_hash: int) -> None:
    """Warn once that verdicts, and once that hashes, are missing from a log."""
    cause = "frames come faster than they are hashed, or files change after they were judged"
    for count, problem in (
        (lost, "verdicts cannot be written, and are missing from the log"),
        (without_hash, f"images have no hash in the log: {cause}"),
    ):
        if count and problem not in said:
            said.add(problem)
            with contextlib.suppress(UserWarning):  # where warnings are errors, the thread writes on
                warnings.warn(f"{problem}: '{path}'", stacklevel=1)
