"""The folder in which kdx keeps measurements and compiled models of a machine."""

from __future__ import annotations

import os
import sys
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
