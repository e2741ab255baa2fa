"""Locks between processes, which a killed one lets go of. Where the system has none, nothing is locked.

They are ``flock``'s, on folders and files that are there anyway: no lock file is ever left behind. Windows and some
network drives have none; there, what locks prevent stays as unlikely as it is.
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

# Whoever holds a folder's lock renames something; nobody who is well takes this long.
_PATIENCE_SECONDS = 30.0
_PAUSE_SECONDS = 0.02


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock: of those who change what stands in it, one goes at a time. Not to be nested.

    Raises:
        OutputError: Another process has held it for half a minute.
    """
    handle = open_folder(folder)
    try:
        if handle is not None:
            _wait(handle, folder)
        yield
    finally:
        if handle is not None:
            os.close(handle)


def open_folder(folder: Path) -> int | None:
    """Open a folder to be locked; None where the system, or the user, cannot."""
    try:
        return os.open(folder, os.O_RDONLY)
    except OSError:
        return None


def lock(handle: int) -> bool:
    """Lock an open file or folder until it is closed, at once or not at all.

    Returns:
        Whether it is locked; False where the system has no locks.

    Raises:
        BlockingIOError: Another holds the lock.
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


def _wait(handle: int, folder: Path) -> None:
    give_up = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            lock(handle)
        except BlockingIOError as error:
            if time.monotonic() > give_up:
                raise OutputError(
                    f"another process is changing what is in '{folder}' and does not finish",
                    fix="wait for it or end it, and call again",
                ) from error
            time.sleep(_PAUSE_SECONDS)
        else:
            return
