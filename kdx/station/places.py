"""Judged files that are moved or linked to the folder of their verdict.

The ledger holds the intent before anything is done, and every step can be repeated: a kill in
between leaves the file at its old path or at its new one, whole.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from kdx.station.ledger import GONE, LINKED, LINKING, MOVED, MOVING, Identity, JudgedFile, Ledger
from kdx.storage.files import remove_leftovers, sync_folder, write_parts

HEAT_MAPS = "heat_maps"
# File systems take 255 bytes; identifiers and the names of temporary files are added to these.
_LONGEST_NAME = 180
# Where a hard link cannot be made: another file system, or one that has none.
_NO_HARD_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})


def free_place(out: Path, ledger: Ledger, verdict: str, name: str, verdict_id: str) -> str:
    """Return a place for a file, relative to the output folder, that no other file has.

    Cameras use names again: where an earlier file of the name lies, the identifier of the verdict
    follows the name.
    """
    place = _fitting(f"{verdict}/{name}", verdict_id)
    if not os.path.lexists(out / place):
        ledger.give_free(place)
        if not ledger.is_taken(place):
            return place
    return _with_id(place, verdict_id)


def heat_map_place(ledger: Ledger, place: str, verdict_id: str) -> str:
    """Return a place for the heat map of a file, which no other judged file has.

    What a process left there that was killed before it recorded the verdict is replaced.
    """
    picture = f"{HEAT_MAPS}/{_fitting(place, verdict_id)}.png"
    return _with_id(picture, verdict_id) if ledger.is_taken(picture) else picture


def _fitting(place: str, verdict_id: str) -> str:
    """Return a place whose name leaves room for what is added to it."""
    path = PurePosixPath(place)
    is_long = len(os.fsencode(path.name)) > _LONGEST_NAME
    return str(path.with_name(f"{verdict_id}{path.suffix}")) if is_long else place


def _with_id(place: str, verdict_id: str) -> str:
    path = PurePosixPath(place)
    return str(path.with_name(f"{path.stem}~{verdict_id}{path.suffix}"))


class Places:
    """Moves and links judged files.

    Args:
        folder: The watched folder.
        out: The output folder.
        ledger: The ledger of the output folder.
    """

    def __init__(self, folder: Path, out: Path, ledger: Ledger) -> None:
        self._folder, self._out, self._ledger = folder, out, ledger
        self._changed: set[Path] = set()  # folders in which something was renamed

    def finish(self) -> list[JudgedFile]:
        """Do what the ledger intends, also what an earlier process did not finish.

        Returns:
            The files, with what became of them.

        Raises:
            OSError: A file cannot be moved, for example because the disk is full. What was done
                before that stands in the ledger.
        """
        finished: list[JudgedFile] = []
        do: dict[str, Callable[[JudgedFile], str]] = {MOVING: self._move, LINKING: self._link}
        try:
            for file in self._ledger.files(*do):
                finished.append(replace(file, state=do[file.state](file)))
        finally:
            self._settle(finished)
        return finished

    def _settle(self, files: Sequence[JudgedFile]) -> None:
        """Record what became of files, after it has reached the disk."""
        if not files:
            return
        for folder in self._changed:
            sync_folder(folder)
        with self._ledger.transaction():
            for file in files:
                self._ledger.settle(file)
        self._changed.clear()

    def _move(self, file: JudgedFile) -> str:
        source, target = self._paths(file)
        if not os.path.lexists(target):
            if _identity(source) != file.identity:
                return GONE  # it was removed, or is another file by now
            self._make_folder(target)
            if source.is_symlink():  # a relative one would lead nowhere from its new place
                target.symlink_to(source.resolve())
                self._changed.add(target.parent)
                self._remove(source)
                return MOVED
            try:
                source.rename(target)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                return self._move_across(file, source, target)
            if _identity(target) != file.identity and not os.path.lexists(source):
                target.rename(source)  # it was written to between the last look and the move
                return GONE
            self._changed |= {source.parent, target.parent}
        elif _identity(source) == file.identity and (target.is_symlink() or not _same_device(source, target)):
            self._remove(source)  # its copy, or the link to it, was complete when the process ended
        return MOVED

    def _move_across(self, file: JudgedFile, source: Path, target: Path) -> str:
        """Move a file to another file system: the copy is complete before the file is removed."""
        remove_leftovers(target)
        with source.open("rb") as content:
            write_parts(target, iter(lambda: content.read(1 << 20), b""))
        if _identity(source) != file.identity:
            target.unlink()
            return GONE
        shutil.copystat(source, target)
        self._remove(source)
        return MOVED

    def _remove(self, source: Path) -> None:
        source.unlink()
        self._changed.add(source.parent)

    def _link(self, file: JudgedFile) -> str:
        source, target = self._paths(file)
        if os.path.lexists(target):
            return LINKED
        if _identity(source) != file.identity:
            return GONE
        self._make_folder(target)
        try:
            target.hardlink_to(source.resolve())
        except OSError as error:
            if error.errno not in _NO_HARD_LINK:
                raise
            target.symlink_to(source.resolve())
        self._changed.add(target.parent)
        return LINKED

    def _paths(self, file: JudgedFile) -> tuple[Path, Path]:
        assert file.place is not None
        return self._folder / file.path, self._out / file.place

    def _make_folder(self, target: Path) -> None:
        """Make the folder of a place, with its parents."""
        self._changed |= {folder.parent for folder in target.parents if not folder.exists()}
        target.parent.mkdir(parents=True, exist_ok=True)


def _identity(path: Path) -> Identity | None:
    with contextlib.suppress(OSError):
        return Identity.of(path.stat())
    return None


def _same_device(one: Path, other: Path) -> bool:
    return one.stat().st_dev == other.stat().st_dev
