"""Where what a machine measured or compiled once is kept."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder: ``$KDX_CACHE_DIR``, or ``kdx`` in the user's cache. It need not exist, nor be writable."""
    chosen = os.environ.get("KDX_CACHE_DIR")
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local")) / "kdx"
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/kdx"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kdx"
