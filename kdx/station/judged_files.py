"""The judged files in the ledger: what became of each, and what is kept of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from kdx.station.database import Database

# What became of a judged file. The first is that of a file which is left where it is; the next
# three are intents, which become one of the others.
HERE, MOVING, LINKING, REMOVING = "here", "moving", "linking", "removing"
MOVED, LINKED, GONE = "moved", "linked", "gone"


class Identity(NamedTuple):
    """By what a file at a path is known again: written to, it is another file.

    Attributes:
        size: Its size in bytes.
        mtime_ns: When its content changed last. Programs can set it back.
        inode: Its number in the file system, which another file of the same name does not have.
        ctime_ns: When anything of it changed last, which programs cannot set back. On Windows, when
            it was created.
    """

    size: int
    mtime_ns: int
    inode: int = 0
    ctime_ns: int = 0

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        """Return the identity of a file from its status."""
        # SQLite has integers with a sign, and some file systems number files with all 64 bits.
        return cls(status.st_size, status.st_mtime_ns, status.st_ino & (1 << 63) - 1, status.st_ctime_ns)

    def is_like(self, other: Identity) -> bool:
        """Whether size and time of change agree: renamed, linked or copied, a file keeps these.

        It may still be another image: only the content decides that.
        """
        return self[:2] == other[:2]


@dataclass(frozen=True)
class JudgedFile:
    """A file that has its verdict.

    Attributes:
        path: Its path, relative to the watched folder.
        identity: What was judged.
        verdict_id: The identifier of its verdict.
        verdict: The verdict.
        state: What became of the file.
        place: Where the file goes or went, relative to the output folder; None if it stays.
        heat_map: The picture of its map, relative to the output folder, or None.
        bytes: The size of what is kept of it in the output folder and may be deleted later.
        id: Its number in the ledger.
        image_sha256: The hash of what was judged, or None if it could not be read.
        placed: Identity of the file at its place, where file systems differ in how exact times are.
    """

    path: str
    identity: Identity
    verdict_id: str
    verdict: str
    state: str
    place: str | None
    heat_map: str | None
    bytes: int
    id: int = 0
    image_sha256: str | None = None
    placed: Identity | None = None


class JudgedFiles(Database):
    """The part of a ledger that is about files."""

    def add_file(self, file: JudgedFile, seconds: float) -> None:
        """Add a judged file, at a time of the station's own clock."""
        self.forget_path(file.path)  # what it was before it was written to
        self._base.execute(
            "INSERT INTO files (path, size, mtime_ns, inode, ctime_ns, verdict_id, verdict, state, place, heat_map, "
            "bytes, seconds, image_sha256) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                os.fsencode(file.path),
                *file.identity,
                file.verdict_id,
                file.verdict,
                file.state,
                encoded_path(file.place),
                encoded_path(file.heat_map),
                file.bytes,
                seconds,
                file.image_sha256,
            ),
        )

    def files(self, *states: str) -> Iterator[JudgedFile]:
        """Yield the files in some states, in the order in which they were judged."""
        marks = ", ".join("?" * len(states))
        yield from map(_file, self._rows(f"{_SELECT} WHERE state IN ({marks}) ORDER BY id", states))

    def known(self) -> dict[str, Identity]:
        """Return the judged files that may lie in the watched folder, by path."""
        found = self._rows(
            "SELECT path, size, mtime_ns, inode, ctime_ns FROM files WHERE state IN (?, ?, ?, ?, ?) ORDER BY id",
            (HERE, MOVING, LINKING, REMOVING, LINKED),
        )
        return {os.fsdecode(path): Identity(*identity) for path, *identity in found}

    def image_sha256(self, path: str) -> str | None:
        """Return the hash of what was judged last at a path, or None."""
        where = "WHERE path = ? ORDER BY id DESC LIMIT 1"
        found = self._rows(f"SELECT image_sha256 FROM files {where}", (os.fsencode(path),))  # noqa: S608
        return found[0][0] if found else None

    def see_again(self, path: str, before: Identity, now: Identity) -> None:
        """Record that a file is the one that was judged, although its status has changed."""
        where = "path = ? AND size = ? AND mtime_ns = ? AND inode = ? AND ctime_ns = ?"
        self._base.execute(
            f"UPDATE files SET inode = ?, ctime_ns = ? WHERE {where}",  # noqa: S608
            (now.inode, now.ctime_ns, os.fsencode(path), *before),
        )

    def forget_path(self, path: str) -> None:
        """Forget the files of a path that stayed there and of which nothing is to be deleted."""
        where = "WHERE path = ? AND state IN (?, ?) AND bytes = 0"
        self._base.execute(f"DELETE FROM files {where}", (os.fsencode(path), HERE, LINKED))  # noqa: S608

    def settle(self, file: JudgedFile) -> None:
        """Record what became of a file that was to be moved or linked: its state.

        A file that left the watched folder, and of which nothing is to be deleted, is forgotten.
        """
        if file.state in {MOVED, GONE} and not file.bytes:
            self.forget([file])
        else:
            self._base.execute(
                "UPDATE files SET state = ?, place = ?, size = ?, mtime_ns = ?, inode = ?, ctime_ns = ? WHERE id = ?",
                (file.state, encoded_path(file.place), *(file.placed or file.identity), file.id),
            )

    def linked(self, path: str) -> list[JudgedFile]:
        """Return the verdicts on a file of the watched folder to which there is a link."""
        found = self._rows(f"{_SELECT} WHERE path = ? AND state = ? ORDER BY id", (os.fsencode(path), LINKED))
        return [_file(row) for row in found]

    def heat_map(self, verdict_id: str) -> str | None:
        """Return the place of the heat map of a verdict, or None."""
        found = self._rows("SELECT heat_map FROM files WHERE verdict_id = ?", (verdict_id,))
        return decoded_path(found[0][0]) if found else None

    def move_heat_map(self, verdict_id: str, place: str) -> None:
        """Record another place of the heat map of a verdict."""
        self._base.execute("UPDATE files SET heat_map = ? WHERE verdict_id = ?", (encoded_path(place), verdict_id))

    def is_taken(self, place: str) -> bool:
        """Whether a place in the output folder is that of a judged file or its heat map."""
        found = self._rows("SELECT 1 FROM files WHERE place = ?1 OR heat_map = ?1", (os.fsencode(place),))
        return bool(found)

    def give_free(self, place: str) -> None:
        """Give a place free whose file somebody took away, in a transaction."""
        where = "WHERE place = ? AND state NOT IN (?, ?)"
        self._base.execute(f"UPDATE files SET place = NULL {where}", (os.fsencode(place), MOVING, LINKING))  # noqa: S608

    def oldest(self, verdict: str, before: float, after: int, limit: int) -> list[JudgedFile]:
        """Return the files with a verdict that something is kept of, which came first.

        Args:
            verdict: The verdict.
            before: A time of the station's own clock, before which they were judged.
            after: The number of the file after which they come.
            limit: How many files at most.
        """
        where = "WHERE verdict = ? AND id > ? AND seconds < ? AND bytes > 0 AND state IN (?, ?, ?, ?)"
        given = (verdict, after, before, HERE, MOVED, LINKED, GONE, limit)
        return [_file(row) for row in self._rows(f"{_SELECT} {where} ORDER BY id LIMIT ?", given)]

    def kept(self, after: int, limit: int) -> list[JudgedFile]:
        """Return files of which something is kept that may be deleted, the oldest first.

        Args:
            after: The number of the file after which they come.
            limit: How many files at most.
        """
        where = "WHERE id > ? AND bytes > 0 AND state IN (?, ?, ?, ?) ORDER BY id LIMIT ?"
        return [_file(row) for row in self._rows(f"{_SELECT} {where}", (after, HERE, MOVED, LINKED, GONE, limit))]

    def kept_bytes(self) -> int:
        """Return the size of all that is kept of judged files in the output folder."""
        return int(self._rows("SELECT ifnull(sum(bytes), 0) FROM files")[0][0])

    def forget(self, files: Sequence[JudgedFile]) -> None:
        """Forget files of which nothing is kept any more."""
        self._base.executemany("DELETE FROM files WHERE id = ?", [(file.id,) for file in files])

    def discard(self, file: JudgedFile) -> None:
        """Record that nothing is kept any more of a file that is still in the watched folder."""
        self._base.execute("UPDATE files SET bytes = 0, heat_map = NULL, place = NULL WHERE id = ?", (file.id,))


_SELECT = (
    "SELECT path, verdict_id, verdict, state, place, heat_map, bytes, id, image_sha256, "
    "size, mtime_ns, inode, ctime_ns FROM files"
)


def _file(row: tuple[Any, ...]) -> JudgedFile:
    path, verdict_id, verdict, state, place, heat_map, kept, number, sha256, *identity = row
    return JudgedFile(
        os.fsdecode(path),
        Identity(*identity),
        verdict_id,
        verdict,
        state,
        decoded_path(place),
        decoded_path(heat_map),
        kept,
        number,
        sha256,
    )


def encoded_path(path: str | None) -> bytes | None:
    """Return a path as the database holds it: a name may be no valid text."""
    return None if path is None else os.fsencode(path)


def decoded_path(path: bytes | None) -> str | None:
    """Return a path that the database holds."""
    return None if path is None else os.fsdecode(path)
