"""Locks between processes, which the system releases when a process ends.

They are made by ``flock`` on folders and files that exist anyway, so no lock file remains. Windows
and some network drives have no such locks; there, nothing is locked.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from kdx.errors import OutputError

if sys.platform != "win32":
    import fcntl

# The holder of a folder's lock renames something, which never takes this long.
_PATIENCE_SECONDS = 30.0
_PAUSE_SECONDS = 0.02


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, so that one process at a time changes it; it must not be nested.

    Raises:
        OutputError: Another process has held the lock for half a minute.
    """
    handle = open_to_lock(folder)
    try:
        if handle is not None:
            _wait(handle, folder)
        yield
    finally:
        if handle is not None:
            os.close(handle)


@contextlib.contextmanager
def locked_output(folder: Path, command: str, output: Path) -> Iterator[None]:
    """Keep other calls of a command out of its output folder.

    Args:
        folder: The folder that is locked, which exists and stays where it is: the output folder, or
            one in it.
        command: The command, as messages name it.
        output: The output folder, as messages name it.

    Raises:
        OutputError: Another process holds the lock.
    """
    handle = open_to_lock(folder)
    try:
        _lock_at_once(handle, command, output)
        yield
    finally:
        if handle is not None:
            os.close(handle)


def open_to_lock(folder: Path) -> int | None:
    """Open a folder to be locked; return None if the system or the permissions do not allow it."""
    try:
        return os.open(folder, os.O_RDONLY)
    except OSError:
        return None


def lock(handle: int) -> bool:
    """Lock an open file or folder until it is closed, without waiting.

    Returns:
        Whether it is locked; False if the system has no locks.

    Raises:
        BlockingIOError: Another process holds the lock.
    """
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def _lock_at_once(handle: int | None, command: str, output: Path) -> None:
    try:
        if handle is not None:
            lock(handle)
    except BlockingIOError as error:
        raise OutputError(
            f"another {command} is working in '{output}'", fix="wait for it or end it, or choose another `out`"
        ) from error


def _wait(handle: int, folder: Path) -> None:
    give_up = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            lock(handle)
        except BlockingIOError as error:
            if time.monotonic() > give_up:
                raise OutputError(
                    f"another process is changing what is in '{folder}' and does not finish",
                    fix="wait for that process or end it, and try again",
                ) from error
            time.sleep(_PAUSE_SECONDS)
        else:
            return
