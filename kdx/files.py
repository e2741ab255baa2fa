"""Writing so that a crash, a kill or a full disk leaves either the old content or the new, never half of it."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from kdx.errors import OutputError


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


def hash_of_hashes(hashes: Iterable[str]) -> str:
    """Return one hash over files' content hashes, whatever their order."""
    return sha256_bytes("\n".join(sorted(hashes)).encode())


def write_atomic(path: Path, data: bytes) -> None:
    """Replace a file's content in one step; on any failure the old content stands and nothing is left behind."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp creates private files; an artefact is as readable as any other the user writes.
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and not error.filename:
            error.filename = str(path)  # a full disk does not say where
        raise
    _sync_folder(path.parent)


@contextlib.contextmanager
def new_folder(target: Path, *, force: bool = False) -> Iterator[Path]:
    """Fill a temporary folder beside ``target`` and rename it into place when the block ends well.

    Args:
        target: The folder to appear. Its parents are made.
        force: Replace an existing folder; it stands until the new one is complete.

    Raises:
        OutputError: ``target`` exists, is not an empty folder, and ``force`` is not given.
    """
    refuse_existing(target, force=force)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield temporary
        for path in (*sorted(temporary.rglob("*")), temporary):
            _sync_folder(path) if path.is_dir() else _sync_file(path)
        temporary.chmod(0o777 & ~_umask())
        _swap(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync_folder(target.parent)


def refuse_existing(target: Path, *, force: bool) -> None:
    """Raise ``OutputError`` when ``target`` holds something and may not be replaced."""
    is_empty_folder = target.is_dir() and not any(target.iterdir())
    if target.exists() and not is_empty_folder and not force:
        raise OutputError(
            f"'{target}' exists already",
            fix="choose another name; --force replaces what is of the same kind, nothing else",
        )


def _swap(temporary: Path, target: Path) -> None:
    """Put ``temporary`` in the place of ``target``; an old ``target`` is removed once the new one stands."""
    if not target.exists():
        temporary.rename(target)
    elif _exchange(temporary, target):
        shutil.rmtree(temporary, ignore_errors=True)
    else:
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent)) / target.name
        target.rename(old)
        try:
            temporary.rename(target)
        except BaseException:
            old.rename(target)
            old.parent.rmdir()
            raise
        shutil.rmtree(old.parent, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step, where the system can (Linux, most file systems)."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    at_cwd, rename_exchange = -100, 2
    return bool(renameat2(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), rename_exchange) == 0)


def _sync_file(path: Path) -> None:
    # Windows flushes only what was opened for writing.
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make a rename durable. Not every platform can open a folder; then the rename is atomic all the same."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
