"""Renames that replace nothing."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

_AT_CWD, _NO_REPLACE = -100, 1


def rename_new(source: Path, target: Path) -> None:
    """Rename a file to a name that no other file has.

    Linux and Windows check and rename in one step. Elsewhere, and on file systems that cannot do
    so, a file that is created between the two is replaced.

    Raises:
        FileExistsError: There is something of this name.
        OSError: The file cannot be renamed.
    """
    number = _rename_no_replace(source, target)
    if number == errno.EEXIST or (number and os.name != "nt" and os.path.lexists(target)):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    if number:
        source.rename(target)


def _rename_no_replace(source: Path, target: Path) -> int:
    """Rename in one step where Linux can; return 0 or the number of the error."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return errno.ENOSYS
    failed = renameat2(_AT_CWD, os.fsencode(source), _AT_CWD, os.fsencode(target), _NO_REPLACE)
    return ctypes.get_errno() if failed else 0
