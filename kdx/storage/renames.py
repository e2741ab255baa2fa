"""Renames that replace nothing."""

from __future__ import annotations

import ctypes
import errno
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

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
    renameat2 = _renameat2()
    if renameat2 is None:
        return errno.ENOSYS
    failed = renameat2(_AT_CWD, os.fsencode(source), _AT_CWD, os.fsencode(target), _NO_REPLACE)
    return ctypes.get_errno() if failed else 0


@lru_cache(maxsize=1)
def _renameat2() -> Any:
    """Return the function of the system's library, or None where there is none."""
    try:
        return ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return None
