"""The folder in which kdx keeps measurements and compiled models of a machine."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

VARIABLE = "KDX_CACHE_DIR"


def cache_folder() -> Path | None:
    """Return the cache folder of kdx: ``KDX_CACHE_DIR``, or a folder in the user's cache.

    Returns:
        The folder, or None if the variable is set and empty, so that nothing is kept.
    """
    if (chosen := os.environ.get(VARIABLE)) is not None:
        return Path(chosen).expanduser() if chosen else None
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA", "") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME", "") or "~/.cache"
    try:
        return Path(base).expanduser() / "kdx"
    except RuntimeError:  # no home
        return None


def warn_not_kept(folder: Path, error: Exception) -> None:
    """Warn with ``RuntimeWarning`` that nothing can be kept in a folder in the cache.

    As the place of the warning is here, Python shows it once for all folders. A cache that cannot
    be written changes no result; but without a word, nobody would know why starts take seconds.
    """
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    warnings.warn(
        f"the cache '{folder.parent}' cannot be written: {why}. What is measured and compiled is not kept, so every "
        f"start takes longer. Set {VARIABLE} to a folder that can be written to, or to nothing to keep nothing",
        RuntimeWarning,
        stacklevel=1,
    )


@contextlib.contextmanager
def nothing_cached() -> Iterator[None]:
    """Keep what is measured and compiled meanwhile out of the user's cache, and read nothing of it.

    It is a setting of the whole process: not for threads that do other work at the same time.
    """
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = ""
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(VARIABLE)
        else:
            os.environ[VARIABLE] = before
