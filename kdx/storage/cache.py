"""Where what a machine measured or compiled once is kept."""

from __future__ import annotations

import os
import sys
from pathlib import Path

VARIABLE = "KDX_CACHE_DIR"


def cache_folder() -> Path | None:
    """Return where kdx keeps what it can make again: ``KDX_CACHE_DIR``, or a folder in the user's cache.

    Returns:
        None where the variable is set and empty: nothing is kept.
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
