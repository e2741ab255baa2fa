"""Atomic writes: a crash, a kill or a full disk leaves the old content or all of the new one.

While a file or folder is written, it has a temporary name beside its target, and its writer holds a
lock on it. The lock distinguishes it from the leftovers of a killed writer, which are removed by
the next write.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from kdx.errors import OutputError
from kdx.storage.locks import lock, locked, open_to_lock
from kdx.storage.umask import umask

_PARTIAL = ".part"  # being written, or replaced and being removed
_OLD = ".old"  # holds the replaced folder where the system cannot exchange two folders in one step


def sha256_bytes(data: bytes) -> str:
    """Return the hexadecimal SHA-256 of some bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's content, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_if_readable(path: Path) -> str | None:
    """Return the hexadecimal SHA-256 of a file's content, or None if it cannot be read."""
    with contextlib.suppress(OSError):
        return sha256_file(path) if path.is_file() else None
    return None


def hash_of_hashes(hashes: Iterable[str]) -> str:
    """Return one hash over the hashes of files, independent of their order."""
    return sha256_bytes("\n".join(sorted(hashes)).encode())


def write_atomic(path: Path, *data: bytes, private: bool = False) -> None:
    """Replace a file's content in one step; after a failure the old content is unchanged.

    Args:
        path: The file.
        data: The new content, in one or several parts.
        private: Whether only this user may read or write the file, whatever the umask is.

    Raises:
        OSError: The file could not be written; the error names it.
    """
    write_parts(path, data, private=private)


def write_parts(
    path: Path, parts: Iterable[bytes], *, private: bool = False, before: Callable[[], object] | None = None
) -> None:
    """Write a file as :func:`write_atomic` does, from parts that need not fit into memory.

    Args:
        path: The file.
        parts: The new content.
        private: As for :func:`write_atomic`.
        before: What is called when the disk holds the new content, right before it replaces the
            old; an error that it raises leaves the old.
    """
    try:
        handle, temporary = _make_file(path)
    except OSError as error:
        _blame(error, f".{path.name}.", path)
        raise
    try:
        # The lock is held until the file has its final name.
        with os.fdopen(handle, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
            if os.name != "nt":
                _publish(temporary, path, private, before)
        if os.name == "nt":  # Windows does not rename open files
            _publish(temporary, path, private, before)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        _blame(error, temporary.name, path)
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def new_folder(target: Path, *, force: bool = False, check: Callable[[], None] | None = None) -> Iterator[Path]:
    """Fill a temporary folder, and rename it to ``target`` if the block ends without an error.

    Args:
        target: The folder to create, with its parents. If it is a link, the folder that it leads to
            is replaced.
        force: Whether to replace an existing folder, which remains until the new one is complete.
        check: What is called right before the rename, while no other process changes ``target``; an
            error that it raises leaves ``target`` as it is.

    Yields:
        The temporary folder.

    Raises:
        OutputError: ``target`` exists, is not an empty folder, and ``force`` is False.
        OSError: A file could not be written; the error names ``target``.
    """
    named, target = target, Path(os.path.realpath(target))
    remove_leftovers(target)
    refuse_existing(target, force=force)
    made = _make_parents(target)
    try:
        handle, temporary = _make_folder(target)
    except OSError as error:
        _blame(error, f".{target.name}.", named)
        _remove_empty(made)
        raise
    try:
        yield temporary
        for path in (*sorted(temporary.rglob("*")), temporary):
            if path.is_symlink():
                continue
            sync_folder(path) if path.is_dir() else _sync_file(path)
        temporary.chmod(0o777 & ~umask())
        with locked(target.parent):
            refuse_existing(target, force=force)  # another process may have created it meanwhile
            if check is not None:
                check()
            replaced = _swap(temporary, target)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        _remove_empty(made)
        _blame(error, temporary.name, named)
        raise
    finally:
        if handle is not None:
            os.close(handle)
    if replaced is not None:
        shutil.rmtree(replaced, ignore_errors=True)
    sync_folder(target.parent)


def remove_leftovers(target: Path) -> None:
    """Remove what killed writers of a file or folder left beside it, but nothing else.

    If a writer was killed while it replaced a folder, the old folder gets its name back.
    """
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[a-z0-9_]{{8}}({re.escape(_PARTIAL)}|{re.escape(_OLD)})")
    with contextlib.suppress(OSError, OutputError), locked(target.parent):
        for left in [path for path in target.parent.iterdir() if pattern.fullmatch(path.name)]:
            if left.suffix == _OLD and not os.path.lexists(target):
                (left / target.name).rename(target)
            _remove_left(left)


def restore(folder: Path) -> None:
    """Restore folders whose replacement was interrupted, see :func:`remove_leftovers`."""
    with contextlib.suppress(OSError):
        for replaced in folder.glob(f".*{_OLD}/*"):
            remove_leftovers(folder / replaced.name)


def refuse_existing(target: Path, *, force: bool) -> None:
    """Check before long work that an output can be written.

    Raises:
        OutputError: The output holds something and must not be replaced, a file stands where its
            folder would be, or nothing can be created in that folder.
    """
    is_empty_folder = target.is_dir() and not any(target.iterdir())
    if target.exists() and not is_empty_folder and not force:
        raise OutputError(
            f"'{target}' exists already",
            fix="choose another name; `force=True` replaces an output of the same kind, and nothing else",
        )
    around = next(folder for folder in target.absolute().parents if folder.exists())
    if not around.is_dir():
        raise OutputError(f"'{target}' cannot be written: '{around}' is a file", fix="choose a name in a folder")
    require_writable(around)


def require_writable(folder: Path) -> None:
    """Raise ``OutputError`` if files cannot be created in a folder, before long work."""
    if not os.access(folder, os.W_OK):
        raise OutputError(
            f"'{folder}' cannot be written",
            fix="ask for permission, or work on a copy in a folder that you may write to",
        )


def is_disk_full(error: OSError) -> bool:
    """Whether an error says that a disk, or the user's share of it, is full."""
    return error.errno in {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


def sync_folder(folder: Path) -> None:
    """Make a rename durable. Where the platform cannot open a folder, the rename is only atomic."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _publish(temporary: Path, path: Path, private: bool, before: Callable[[], object] | None) -> None:
    # mkstemp creates private files; outputs get the permissions of the user's other files.
    if not private:
        temporary.chmod(0o666 & ~umask())
    if before is not None:
        before()
    temporary.replace(path)


def _make_file(path: Path) -> tuple[int, Path]:
    """Create and lock a temporary file beside the target; return its handle and its path."""
    while True:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=_PARTIAL, dir=path.parent)
        if _is_ours(handle, Path(name)):
            return handle, Path(name)
        os.close(handle)


def _make_folder(target: Path) -> tuple[int | None, Path]:
    """Create and lock a temporary folder beside the target; return its handle and path."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=_PARTIAL, dir=target.parent))
        handle = open_to_lock(path)
        if path.exists() if handle is None else _is_ours(handle, path):
            return handle, path
        if handle is not None:
            os.close(handle)


def _is_ours(handle: int, path: Path) -> bool:
    """Lock a new file or folder; return False if another process took it for leftovers first."""
    try:
        lock(handle)
        return os.path.samestat(os.fstat(handle), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _remove_left(path: Path) -> None:
    """Remove a temporary file or folder whose writer is dead, if the system has locks."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        try:
            if lock(handle):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        finally:
            os.close(handle)


def _make_parents(target: Path) -> list[Path]:
    """Create the parents of a folder, and return those that were missing, the innermost first."""
    missing = [parent for parent in target.parents if not parent.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    return missing


def _remove_empty(folders: Iterable[Path]) -> None:
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _blame(error: BaseException, temporary: str, path: Path) -> None:
    """Make a system error name the target instead of no file or the temporary one."""
    if isinstance(error, OSError) and (not error.filename or temporary in str(error.filename)):
        error.filename = str(path)


def _swap(temporary: Path, target: Path) -> Path | None:
    """Rename ``temporary`` to ``target``; return where the old ``target`` is, to be removed."""
    if not target.exists():
        temporary.rename(target)
        return None
    if _exchange(temporary, target):
        return temporary
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=_OLD, dir=target.parent)) / target.name
    target.rename(old)
    try:
        temporary.rename(target)
    except BaseException:
        old.rename(target)
        old.parent.rmdir()
        raise
    return old.parent


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step, if the system can (Linux, most file systems)."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    at_cwd, rename_exchange = -100, 2
    return bool(renameat2(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), rename_exchange) == 0)


def _sync_file(path: Path) -> None:
    # Windows flushes only files that are open for writing; elsewhere a read-only file must do.
    with path.open("r+b" if os.name == "nt" else "rb") as file:
        os.fsync(file.fileno())
