"""By what it is seen that a file was written to or replaced, without reading it."""

from __future__ import annotations

from pathlib import Path


def stamp_of(path: Path) -> tuple[int, ...] | None:
    """Return what changes when a file is written to or replaced; None if it cannot be looked at.

    Returns:
        Its size in bytes, the time of its last change in ns, its number in the file system, and the
        time of the last change of its status in ns (on Windows, when it was created).
    """
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns
