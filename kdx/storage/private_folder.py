"""Checking that a folder is private: no other user can write to it or replace it.

A signature does not cover compiled models in the cache, which are code. If a signature is required,
they are used only if no other user but the administrator can have written them.
"""

from __future__ import annotations

import contextlib
import os
import stat
import warnings
from pathlib import Path

from kdx.storage.cache import VARIABLE, cache_folder

_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
_MOST_LINKS = 40


def private_cache(name: str) -> Path | None:
    """Return a private folder of the cache, or None with a ``RuntimeWarning``.

    On Windows, whose permissions are not checked, only the folder in the user's profile is used,
    and not one that ``KDX_CACHE_DIR`` names.
    """
    cache = cache_folder()
    if cache is None:
        return None
    folder = cache / name
    if os.name == "nt":
        fault = (
            f"{VARIABLE} names it, and kdx does not check its permissions on Windows" if VARIABLE in os.environ else ""
        )
    else:
        fault = _make(folder) or open_to_others(folder)
    if not fault:
        return folder
    warnings.warn(
        f"a signature is required, and other users could have written to '{folder}': {fault}. The folder is not used, "
        f"so loading takes longer. Set {VARIABLE} to a folder that only you can write to",
        RuntimeWarning,
        stacklevel=2,
    )
    return None


def open_to_others(folder: Path) -> str:
    """Return why a folder is not private, or an empty text, and remove exposed files in it.

    Every folder of the path is checked, also where symbolic links lead. It must belong to this user
    or to root. Others must not be able to write to it, unless it is sticky like ``/tmp``, where
    users cannot replace the files of others.
    """
    here = Path(os.path.sep)
    left = list((Path.cwd() / folder).parts[:0:-1])  # innermost first, without the root
    links = 0
    try:
        fault = _fault(here, is_last=False)
        while left and not fault:
            name = left.pop()
            here = here.parent if name == ".." else here / name
            if here.is_symlink():
                links += 1
                fault = _foreign(here.lstat(), here) or ("too many links" if links > _MOST_LINKS else "")
                target = here.readlink()
                left += [part for part in reversed(target.parts) if part != target.anchor]
                here = Path(target.anchor) if target.is_absolute() else here.parent
            else:
                fault = _fault(here, is_last=not left)
        return fault or _remove_exposed(here)
    except OSError as error:
        return f"'{error.filename or folder}': {error.strerror}"


def _make(folder: Path) -> str:
    """Create a private folder and its parents; return why that failed, or an empty text."""
    try:
        for part in (*reversed(folder.parents), folder):
            if not part.exists():
                part.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        return f"'{error.filename}': {error.strerror}"
    return ""


def _fault(folder: Path, *, is_last: bool) -> str:
    found = folder.lstat()
    is_sticky = bool(found.st_mode & stat.S_ISVTX) and not is_last
    if found.st_mode & _OTHERS_MAY_WRITE and not is_sticky:
        return f"'{folder}' can be written by others (mode {stat.S_IMODE(found.st_mode):o})"
    return _foreign(found, folder)


def _foreign(found: os.stat_result, path: Path) -> str:
    is_ours = found.st_uid in {0, os.geteuid()}
    return "" if is_ours else f"'{path}' belongs to another user (uid {found.st_uid})"


def _remove_exposed(folder: Path) -> str:
    """Remove files that others own or can write to; return why that failed, or an empty text."""
    for file in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process removed it
            found = file.lstat()
            if _foreign(found, file) or found.st_mode & _OTHERS_MAY_WRITE:
                if stat.S_ISDIR(found.st_mode):
                    return f"'{file}' can be written by others"
                file.unlink()
    return ""
