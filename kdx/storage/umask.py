"""The umask of the process, read without changing it where the system says it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_STATUS = Path("/proc/self/status")


def umask() -> int:
    """Return the permissions that new files do not get.

    ``os.umask`` can only read the umask by setting another one, with which a thread of the same
    process might create a file meanwhile. Linux says it in a file. On other systems this is the
    umask with which kdx was imported.
    """
    said = _said()
    return _AT_IMPORT if said is None else said


def _said() -> int | None:
    """Return the umask that the system says; None for a system that does not say it."""
    with contextlib.suppress(OSError):
        for line in _STATUS.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name == "Umask":
                return int(value, 8)
    return None


def _at_import() -> int:
    said = _said()
    if said is None:
        said = os.umask(0o077)  # a file that is created meanwhile is private, not open to everybody
        os.umask(said)
    return said


_AT_IMPORT = _at_import()
