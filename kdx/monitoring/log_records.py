"""What verdicts in a log can be traced to: part, image, bundle, graph, backend and precision.

The view ``records`` names the columns as the records of ``kdx watch`` and ``kdx serve`` do. Its
``image_sha256`` is the SHA-256 of what :func:`frame_content` returns: of the pixels as the detector
was given them, and not of a file, whose hash depends on how it was compressed. Of a frame that was
read in bands it is the hash of its file, and of one on the GPU there is none.
"""

from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdx.storage.files import sha256_bytes, sha256_file

if TYPE_CHECKING:
    from kdx.runtime.detector import Shown

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
# How many bytes of frames may wait for their hashes; more are hashed in the thread of the caller.
_MOST_BYTES = 64 << 20


class Source(NamedTuple):
    """What reaches verdicts, with the names of :class:`kdx.station.record.JudgedBy`."""

    bundle: str
    bundle_sha256: str
    graph_sha256: str
    backend: str
    precision: str
    threshold_by_hand: str | None = None


def frame_content(frame: NDArray[np.uint8]) -> bytes:
    """Return what is hashed of a frame.

    Args:
        frame: uint8 ``(H, W, C)``.

    Returns:
        Type and shape as a line of text, for example ``uint8 480,640,3``, and the pixels by rows.
    """
    return f"{frame.dtype} {','.join(map(str, frame.shape))}\n".encode() + frame.tobytes()


class Hashes:
    """Computes the hashes of images, in a thread of its own: a megapixel of colour takes 4 ms."""

    def __init__(self) -> None:
        self._bytes = 0  # of frames that wait
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kdx hashes of frames")

    def close(self) -> None:
        """Finish what waits."""
        self._thread.shutdown()

    def of(self, shown: Shown) -> str | Future[str | None] | None:
        """Return the hash of an image, or what will be it: the frame may change after the call."""
        if shown.path is not None:
            return self._thread.submit(_hash_of_file, shown.path)
        if shown.frame is None:
            return None
        content = frame_content(shown.frame)
        with self._lock:
            is_much = self._bytes + len(content) > _MOST_BYTES
            self._bytes += 0 if is_much else len(content)
        return sha256_bytes(content) if is_much else self._thread.submit(self._later, content)

    def _later(self, content: bytes) -> str:
        found = sha256_bytes(content)
        with self._lock:
            self._bytes -= len(content)
        return found


def prepare_records(database: sqlite3.Connection) -> None:
    """Add what an earlier version did not have in its logs."""
    known = {row[1] for row in database.execute("PRAGMA table_info(verdicts)")}
    with database:
        for name, kind in _COLUMNS.items():
            if name not in known:
                database.execute(f"ALTER TABLE verdicts ADD COLUMN {name} {kind}")
        database.executescript(_RECORDS)


def number_of_source(database: sqlite3.Connection, source: Source | None) -> int | None:
    """Return the number of what reaches verdicts; it is the same whenever the same is loaded."""
    if source is None:
        return None
    columns = ", ".join(Source._fields)
    values = f"SELECT {', '.join('?' * len(source))}"
    same = f"SELECT id FROM sources WHERE ({columns}) IS ({values})"  # noqa: S608
    with database:
        database.execute(f"INSERT INTO sources ({columns}) {values} WHERE NOT EXISTS ({same})", (*source, *source))
        return int(database.execute(same, source).fetchone()[0])


def _hash_of_file(path: Path) -> str | None:
    try:
        return sha256_file(path)
    except OSError:  # it is gone by now
        return None
