"""What operators say of parts that kdx did not let pass: kept in SQLite, with the parts' images.

The folder of a server::

    reviews.sqlite               records, and what was said by whom and when
    images/tile/ID.png           the images, and heat maps beside them (ID.heat.png)
    reviewed/tile/test/good/     the images of which an operator said so: a data set in the layout
    reviewed/tile/test/defective/    of MVTec AD, see ``reviewed_folder.py``
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from kdx.decision.verdict import Decision
from kdx.errors import InputError, KdxError, OutputError
from kdx.imaging.images import encode_png
from kdx.runtime.detector import Detector
from kdx.station.record import UNREADABLE, VerdictRecord, time_now
from kdx.station.serve.fault_log import log_fault
from kdx.station.serve.live import Glance, Seen
from kdx.station.serve.pictures import heat_of, rgb_of
from kdx.station.serve.review_files import IMAGES, heat_file, remove_image, remove_orphans, suffix_of, write_image
from kdx.station.serve.reviewed_folder import add_image, keep_image, match_images
from kdx.station.serve.statements import ConflictError, ReviewError, Statement, Waiting
from kdx.storage.locks import lock, open_to_lock

DATABASE, REVIEWED = "reviews.sqlite", "reviewed"
_APPLICATION = 0x6B647872
_TABLES = """
CREATE TABLE parts (
    id INTEGER PRIMARY KEY, verdict_id TEXT NOT NULL UNIQUE, bundle TEXT NOT NULL, record TEXT NOT NULL,
    file TEXT NOT NULL, has_map INTEGER NOT NULL, bytes INTEGER NOT NULL, said TEXT
);
CREATE INDEX waiting ON parts (id) WHERE said IS NULL;
CREATE TABLE statements (
    id INTEGER PRIMARY KEY, verdict_id TEXT NOT NULL REFERENCES parts (verdict_id), said TEXT,
    who TEXT NOT NULL, time TEXT NOT NULL
);
"""
# Whether a part belongs into the data set of what operators said, which holds images.
_IS_IMAGE = (
    f"(json_extract(record, '$.verdict') != '{UNREADABLE}' AND json_extract(record, '$.bundle') IS NOT NULL "
    "AND file NOT LIKE '%.bin')"
)
_INDEXES = f"""
CREATE INDEX IF NOT EXISTS parts_by_bundle ON parts (bundle, said, id);
CREATE INDEX IF NOT EXISTS statements_by_part ON statements (verdict_id);
CREATE INDEX IF NOT EXISTS parts_going ON parts ({_IS_IMAGE}, id) WHERE said IS NULL;
"""
# The parts that may go, in the order in which they do.
_GOING = (
    "SELECT verdict_id, file, bytes FROM parts WHERE said IS NULL AND NOT EXISTS "  # noqa: S608
    f"(SELECT 1 FROM statements WHERE statements.verdict_id = parts.verdict_id) ORDER BY {_IS_IMAGE}, id"
)
_MOST_PENDING = 128 << 20  # bytes of parts that are not yet written
_ON_PAGE = 24  # of each bundle


class Reviews:
    """The queue of parts that were not good. All work is done in a thread of its own.

    Args:
        folder: The folder, which is made if it is not there.
        most_bytes: How many bytes images may take. Where they would take more, the images of parts
            that have waited longest are removed; those with a statement are kept.
        detectors: The detectors by the name of their bundle.

    Raises:
        OutputError: The folder or its database cannot be used, or another server uses it.
    """

    _handle: int | None = None

    def __init__(self, folder: Path, most_bytes: int, detectors: Mapping[str, Detector]) -> None:
        self._folder, self._most_bytes, self._detectors = folder, most_bytes, detectors
        self.version = 0
        self._lost = 0
        self._counting = threading.Lock()
        self._pending = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kdx serve reviews")
        try:
            self._thread.submit(self._open).result()
        except BaseException:
            self._thread.shutdown()
            if self._handle is not None:
                os.close(self._handle)
            raise

    def add(self, seen: Seen) -> None:
        """Keep a part that was not good; never waits for the disk."""
        if seen.record.verdict == Decision.GOOD.value or not seen.data:  # without an image: a missed trigger
            return
        with self._counting:
            is_slow = 0 < self._pending > _MOST_PENDING - seen.size
            self._pending += 0 if is_slow else seen.size
        if is_slow:
            self._lose()
            return
        self._thread.submit(self._add, seen, self._detectors.get(seen.bundle))

    def refuse(self, seen: Seen) -> None:
        """Keep what was sent as an image and could not be used: somebody must look at the part."""
        self.add(seen)

    def say(self, verdict_id: str, statement: Statement) -> Future[None]:
        """Keep what an operator says of a part; its future may raise an error of kdx."""
        return self._thread.submit(self._say, verdict_id, statement)

    def put_off(self, verdict_id: str) -> Future[None]:
        """Put a part at the end of the queue; its future may raise an error of kdx."""
        return self._thread.submit(self._put_off, verdict_id)

    def waiting(self) -> Future[Waiting]:
        """Return the state of the queue."""
        return self._thread.submit(self._waiting)

    def picture(self, verdict_id: str, *, heat: bool) -> Future[tuple[Path, str]]:
        """Return the file of a part's image or of its heat map, and the name of its bundle."""
        return self._thread.submit(self._picture, verdict_id, heat)

    def close(self) -> None:
        """Write what waits, and close the database."""
        self._thread.submit(self._close)
        self._thread.shutdown()

    def _open(self) -> None:
        path = self._folder / DATABASE
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if not path.exists() and any(self._folder.iterdir()):
                # A bundle, a data set: images that the database does not know are removed later.
                raise OutputError(
                    f"'{self._folder}' holds other files, and no reviews",
                    expected="an empty folder, or that of an earlier call",
                    fix="choose another folder",
                )
            self._handle = open_to_lock(self._folder)
            if self._handle is not None:
                lock(self._handle)
            self._database = sqlite3.connect(path, timeout=5)
            self._database.execute("PRAGMA journal_mode = WAL")  # others may read while this server writes
            self._database.execute("PRAGMA synchronous = FULL")
            is_new = not self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if is_new:
                self._database.executescript(f"BEGIN; {_TABLES} PRAGMA application_id = {_APPLICATION}; END")
            found = self._database.execute("PRAGMA application_id").fetchone()[0]
            if found == _APPLICATION:
                self._database.executescript(_INDEXES)
                if not is_new:
                    self._mend()
        except BlockingIOError as error:
            raise OutputError(
                f"another server keeps its reviews in '{self._folder}'", fix="end it, or choose another folder"
            ) from error
        except (OSError, sqlite3.Error) as error:
            raise OutputError(
                f"reviews cannot be kept in '{self._folder}': {error}", fix="choose a folder that you may write to"
            ) from error
        if found != _APPLICATION:
            raise OutputError(f"'{path}' holds no reviews", fix="choose another folder")
        self._bytes = self._database.execute("SELECT ifnull(sum(bytes), 0) FROM parts").fetchone()[0]

    def _mend(self) -> None:
        """Make the files agree with the database, also after a kill or on a full disk."""
        remove_orphans(self._folder, {file for (file,) in self._database.execute("SELECT file FROM parts")})
        for (bundle,) in self._database.execute("SELECT DISTINCT bundle FROM parts").fetchall():
            said = self._database.execute(
                f"SELECT file, iif({_IS_IMAGE}, said, NULL) FROM parts WHERE bundle = ?",  # noqa: S608
                (bundle,),
            )
            match_images(self._folder / REVIEWED / bundle, {self._folder / file: each for file, each in said})

    def _close(self) -> None:
        self._database.close()
        if self._handle is not None:
            os.close(self._handle)

    def _add(self, seen: Seen, detector: Detector | None) -> None:
        record, image = seen.record, None
        try:
            data, other = _as_file(seen, detector)
            heat = None if detector is None else heat_of(seen, detector)
            size = len(data) + len(heat or b"")
            self._make_room(size)
            image = self._folder / IMAGES / seen.bundle / f"{record.verdict_id}{suffix_of(data, other)}"
            write_image(image, data, heat)
            with self._database:
                self._database.execute(
                    "INSERT INTO parts VALUES (NULL, ?, ?, ?, ?, ?, ?, NULL)",
                    (
                        record.verdict_id,
                        seen.bundle,
                        msgspec.json.encode(record).decode(),
                        image.relative_to(self._folder).as_posix(),
                        heat is not None,
                        size,
                    ),
                )
            self._bytes += size
        except Exception as error:  # for example a full disk: the verdict stands all the same
            if not isinstance(error, (OSError, KdxError, sqlite3.Error)):
                log_fault()
            self._lose()
            if image is not None:
                with contextlib.suppress(OSError):
                    remove_image(image)
        finally:
            with self._counting:
                self._pending -= seen.size
            self._change()

    def _make_room(self, size: int) -> None:
        """Remove the parts that are first in the queue, if that makes enough room.

        What could not be used as an image goes before all others: a client that sends nothing else
        must not remove the parts of the line.

        Raises:
            OutputError: Nothing was removed: what would remain takes too much room.
        """
        missing = self._bytes + size - self._most_bytes
        going: list[tuple[str, str, int]] = []
        if missing > 0:
            for row in self._database.execute(_GOING):
                going.append(row)
                missing -= row[2]
                if missing <= 0:
                    break
            else:
                raise OutputError("the folder of reviews is full")
        with self._database:
            self._database.executemany("DELETE FROM parts WHERE verdict_id = ?", [row[:1] for row in going])
        for _, file, taken in going:
            self._bytes -= taken
            self._lose()
            with contextlib.suppress(OSError):  # what stays is removed when the server starts
                remove_image(self._folder / file)

    def _say(self, verdict_id: str, statement: Statement) -> None:
        if not (0 < len(statement.who.strip()) <= 80 and statement.who.isprintable()):
            raise InputError("the statement has no name", expected="`who` with 1 to 80 printable characters")
        file, bundle, before, is_image = self._row(
            f"SELECT file, bundle, said, {_IS_IMAGE} FROM parts WHERE verdict_id = ?",  # noqa: S608
            verdict_id,
        )
        if statement.before is not msgspec.UNSET and statement.before != before:
            raise ConflictError(
                f"the statement was not kept: this part is {before or 'waiting again'} by another statement",
                fix="look at the part again",
            )
        image, reviewed = self._folder / file, self._folder / REVIEWED / bundle
        try:
            with self._database:  # nothing is kept if the image cannot be placed
                self._database.execute(
                    "INSERT INTO statements VALUES (NULL, ?, ?, ?, ?)",
                    (verdict_id, statement.said, statement.who.strip(), time_now()),
                )
                self._database.execute("UPDATE parts SET said = ? WHERE verdict_id = ?", (statement.said, verdict_id))
                if statement.said is not None and is_image:
                    add_image(reviewed, image, statement.said)
        except (OSError, sqlite3.Error) as error:
            with contextlib.suppress(OSError):
                keep_image(reviewed, image, before)
            raise OutputError(f"the statement was not kept: {_reason(error)}", fix="say it again") from error
        self._change()
        try:
            keep_image(reviewed, image, statement.said)  # its earlier place is left once the statement is kept
        except OSError as error:
            raise OutputError(
                f"the statement was kept, but the image is still in '{error.filename}': {_reason(error)}",
                fix="remove that file; kdx serve removes it when it starts",
            ) from error

    def _put_off(self, verdict_id: str) -> None:
        self._row("SELECT id FROM parts WHERE verdict_id = ?", verdict_id)
        try:
            with self._database:  # the queue has the order of `id`
                self._database.execute(
                    "UPDATE parts SET id = (SELECT max(id) + 1 FROM parts) WHERE verdict_id = ?", (verdict_id,)
                )
        except sqlite3.Error as error:
            raise OutputError(f"the part was not put off: {_reason(error)}", fix="try again") from error
        self._change()

    def _lose(self) -> None:
        with self._counting:
            self._lost += 1

    def _change(self) -> None:
        """Let pages ask again."""
        with self._counting:
            self.version += 1

    def _waiting(self) -> Waiting:
        bundles: dict[str, dict[str, int]] = {}
        for bundle, said, count in self._database.execute(
            "SELECT bundle, ifnull(said, 'waiting'), count(*) FROM parts GROUP BY bundle, said"
        ):
            bundles.setdefault(bundle, {"waiting": 0, "good": 0, "defective": 0})[said] = count
        rows = [
            row
            for bundle in bundles
            for row in self._database.execute(
                "SELECT id, bundle, record, has_map FROM parts WHERE bundle = ? AND said IS NULL ORDER BY id LIMIT ?",
                (bundle, _ON_PAGE),
            )
        ]
        parts = [
            Glance.of(bundle, msgspec.json.decode(record, type=VerdictRecord), has_map=bool(has_map))
            for _, bundle, record, has_map in sorted(rows)
        ]
        total = {name: sum(each[name] for each in bundles.values()) for name in ("waiting", "good", "defective")}
        return Waiting(waiting=total.pop("waiting"), said=total, lost=self._lost, bundles=bundles, parts=parts)

    def _picture(self, verdict_id: str, heat: bool) -> tuple[Path, str]:
        file, has_map, bundle = self._row("SELECT file, has_map, bundle FROM parts WHERE verdict_id = ?", verdict_id)
        image = self._folder / file
        if heat and not has_map:
            raise ReviewError("that part has no heat map")
        return (heat_file(image) if heat else image), bundle

    def _row(self, query: str, verdict_id: str) -> tuple[Any, ...]:
        found: tuple[Any, ...] | None = self._database.execute(query, (verdict_id,)).fetchone()
        if found is None:
            raise ReviewError("no part in the queue has that verdict", fix="load the page again")
        return found


def _as_file(seen: Seen, detector: Detector | None) -> tuple[bytes, str]:
    """Return the file that is kept of an image, and its suffix where its content says none."""
    if detector is None or seen.record.verdict == UNREADABLE:
        return seen.data, ".bin"
    if seen.asked.layout is None:
        return seen.data, ".png"
    try:
        return encode_png(rgb_of(seen, detector)), ".png"
    except Exception:
        if seen.verdict is not None:
            raise
        return seen.data, ".bin"  # reading the frame may be what failed: it is kept as it was sent


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
