"""Judged files that are moved or linked to the folder of their verdict, or removed.

The ledger holds the intent before anything is done, and every step can be repeated: a kill in
between leaves the file at its old path or at its new one, whole.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from kdx.station.judged_files import GONE, LINKED, LINKING, MOVED, MOVING, REMOVING, Identity, JudgedFile
from kdx.station.ledger import Ledger
from kdx.station.removing import give_back, identity_of, is_judged, is_renamed, remove_judged
from kdx.storage.files import is_disk_full, remove_leftovers, sha256_file, sync_folder, write_parts
from kdx.storage.renames import rename_new

HEAT_MAPS = "heat_maps"
# File systems take 255 bytes; identifiers and the names of temporary files are added to these.
_LONGEST_NAME = 180
# Where a hard link cannot be made: another file system, or one that has none.
_NO_HARD_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
# After how many seconds a file is tried again that could not be placed.
_AGAIN_SECONDS = 60.0

_Step: TypeAlias = Callable[[JudgedFile, Path, Path], bool]


def free_place(out: Path, ledger: Ledger, verdict: str, name: str, verdict_id: str) -> str:
    """Return a place for a file, relative to the output folder, that no other file has.

    Cameras use names again: where an earlier file of the name lies, the identifier of the verdict
    follows the name.
    """
    place = _fitting(f"{verdict}/{name}", verdict_id)
    if not os.path.lexists(out / place):
        with ledger.transaction():
            ledger.give_free(place)
        if not ledger.is_taken(place):
            return place
    return _with_id(place, verdict_id)


def heat_map_place(out: Path, ledger: Ledger, place: str, verdict_id: str) -> str:
    """Return a place for a heat map, relative to the output folder, that no other file has."""
    picture = f"{HEAT_MAPS}/{_fitting(place, verdict_id)}.png"
    is_taken = os.path.lexists(out / picture) or ledger.is_taken(picture)
    return _with_id(picture, verdict_id) if is_taken else picture


def plain_heat_map_place(picture: str, verdict_id: str) -> str:
    """Return the place of a heat map whose name or subfolder the file system refuses."""
    folder, verdict, *_ = PurePosixPath(picture).parts
    return f"{folder}/{verdict}/{verdict_id}.png"


def _fitting(place: str, verdict_id: str) -> str:
    """Return a place whose name leaves room for what is added to it."""
    path = PurePosixPath(place)
    is_long = len(os.fsencode(path.name)) > _LONGEST_NAME
    return str(path.with_name(f"{verdict_id}{path.suffix}")) if is_long else place


def _with_id(place: str, verdict_id: str) -> str:
    path = PurePosixPath(place)
    return str(path.with_name(f"{path.stem}~{verdict_id}{path.suffix}"))


class Places:
    """Moves, links and removes judged files.

    Args:
        folder: The watched folder.
        out: The output folder.
        ledger: The ledger of the output folder.
        say: Is given what users should know.
    """

    def __init__(self, folder: Path, out: Path, ledger: Ledger, say: Callable[[str], None]) -> None:
        self._folder, self._out, self._ledger, self._say = folder, out, ledger, say
        self._again: dict[int, float] = {}  # files that could not be placed, and when they are tried again
        self._changed: set[Path] = set()  # folders in which something was renamed

    def finish(self) -> list[JudgedFile]:
        """Do what the ledger intends, also what an earlier process did not finish.

        A file that cannot be moved or linked stays where it is, and is tried again later.

        Returns:
            The files, with what became of them.

        Raises:
            OSError: The disk is full, or the watched folder is gone. What was done before that
                stands in the ledger.
        """
        finished: list[JudgedFile] = []
        try:
            for file in self._ledger.files(MOVING, LINKING, REMOVING):
                if self._again.get(file.id, 0.0) <= time.monotonic():
                    with self._unless_stuck(file):
                        finished.append(self._place(file))
        finally:
            self._settle(finished)
        return finished

    def remove_changed_links(self, path: str, identity: Identity) -> None:
        """Remove links to a file that was written to since its verdict: they show another image.

        Args:
            path: The file, relative to the watched folder.
            identity: What it is by now.
        """
        source = self._folder / path
        for file in self._ledger.linked(path):
            target = self._out / (file.place or "")
            with contextlib.suppress(FileNotFoundError):
                if file.place is not None and file.identity != identity and target.samefile(source):
                    target.unlink()
                    self._say(f"'{source}' was written to after its verdict: its link '{target}' is removed")

    @contextlib.contextmanager
    def _unless_stuck(self, file: JudgedFile) -> Iterator[None]:
        """Keep an error of one file from the files after it, and say it once."""
        try:
            yield
        except OSError as error:
            if is_disk_full(error) or not self._folder.is_dir():
                raise
            if file.id not in self._again:
                self._say(
                    f"'{self._folder / file.path}' cannot be sorted and stays where it is, as '{file.verdict}': "
                    f"{error.strerror or error}; it is tried again later"
                )
            self._again[file.id] = time.monotonic() + _AGAIN_SECONDS
        else:
            self._again.pop(file.id, None)

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

    def _place(self, file: JudgedFile) -> JudgedFile:
        """Move or link a file to its place, or to another one if that is taken; or remove it."""
        source = self._folder / file.path
        if give_back(source, file):  # an earlier process ended while it removed the file
            self._changed.add(source.parent)
        if file.state == REMOVING:
            found = identity_of(source)
            if found is not None and is_judged(source, found, file):
                self._remove(source, replace(file, identity=found))
            return replace(file, state=GONE)
        state, do = (MOVED, self._move) if file.state == MOVING else (LINKED, self._link)
        found = identity_of(source)
        present = None if found is None or not is_judged(source, found, file) else replace(file, identity=found)
        for place in _places(file):
            target = self._out / place
            if os.path.lexists(target) and _is_ours(file, source, target):
                if present is not None and state == MOVED:
                    self._remove(source, present)  # its copy, or the link to it, was complete
                return replace(file, state=state, place=place, placed=identity_of(target))
        if present is None:
            self._folder.stat()  # raises if it is the folder that is gone
            return replace(file, state=GONE)  # it was removed, or is another file by now
        for place in _places(file):
            target = self._out / place
            try:
                if not self._try(do, present, source, target):
                    return replace(file, state=GONE)
            except OSError as error:
                if is_disk_full(error):
                    raise
                if not os.path.lexists(source):
                    return replace(file, state=GONE)
                refused = error
            else:
                return replace(file, state=state, place=place, placed=identity_of(target))
        raise refused

    def _try(self, do: _Step, file: JudgedFile, source: Path, target: Path) -> bool:
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        self._make_folder(target)
        is_done = do(file, source, target)
        self._changed.add(target.parent)
        return is_done

    def _move(self, file: JudgedFile, source: Path, target: Path) -> bool:
        """Move a file; return False if it is another file by now, which stays."""
        if source.is_symlink():  # a relative one would lead nowhere from its new place
            target.symlink_to(source.resolve())
            self._remove(source, file)
            return True
        try:
            rename_new(source, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            return self._move_across(file, source, target)
        self._changed.add(source.parent)
        if not is_renamed(file, target) and not os.path.lexists(source):
            target.rename(source)  # it was written to between the last look and the move
            return False
        return True

    def _move_across(self, file: JudgedFile, source: Path, target: Path) -> bool:
        """Move a file to another file system: the copy is complete before the file is removed."""
        copy = target.with_name(f".{file.verdict_id}{target.suffix}")
        remove_leftovers(copy)
        try:
            with source.open("rb") as content:
                write_parts(copy, iter(lambda: content.read(1 << 20), b""))
            if identity_of(source) != file.identity:
                return False
            with contextlib.suppress(OSError):  # not every file system keeps times and permissions
                shutil.copystat(source, copy)
            rename_new(copy, target)
        finally:
            copy.unlink(missing_ok=True)
        sync_folder(target.parent)  # the copy has its name for certain before the file goes
        self._remove(source, file)
        return True

    def _remove(self, source: Path, file: JudgedFile) -> None:
        """Remove a file, unless it is another image by now, which stays to be judged."""
        self._changed.add(source.parent)
        with contextlib.suppress(FileNotFoundError):  # somebody else removed it
            remove_judged(source, file)

    def _link(self, file: JudgedFile, source: Path, target: Path) -> bool:
        """Link a file; return False if it is another file by now."""
        try:
            target.hardlink_to(source.resolve())
        except OSError as error:
            if error.errno not in _NO_HARD_LINK:
                raise
            target.symlink_to(source.resolve())
        if is_renamed(file, target):
            return True
        target.unlink()
        return False

    def _make_folder(self, target: Path) -> None:
        """Make the folder of a place, with its parents."""
        self._changed |= {folder.parent for folder in target.parents if not folder.exists()}
        target.parent.mkdir(parents=True, exist_ok=True)


def _places(file: JudgedFile) -> tuple[str, str, str]:
    """Return the place of a file, one for where that is taken, and one for where it is refused."""
    assert file.place is not None
    plain = f"{file.verdict}/{file.verdict_id}{PurePosixPath(file.place).suffix}"
    return file.place, _with_id(file.place, file.verdict_id), plain


def _is_ours(file: JudgedFile, source: Path, target: Path) -> bool:
    """Whether what lies at a place is the judged file: moved, copied or linked there before."""
    if not os.path.lexists(source):
        found = identity_of(target)
        return found is not None and found.is_like(file.identity)
    if file.state == LINKING or source.is_symlink():
        with contextlib.suppress(OSError):
            return target.samefile(source)
        return False
    if target.is_symlink() or not target.is_file() or target.stat().st_size != file.identity.size:
        return False
    return sha256_file(target) == file.image_sha256
