"""Judged files that leave the watched folder, unless they are another image by then.

A camera may write to a file, or replace it, between the last look at it and its removal. So it gets
a hidden name first, under which no camera finds it, and is looked at again. A kill in between
leaves the hidden file, which :func:`give_back` finds by the verdict's identifier.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from kdx.station.judged_files import Identity, JudgedFile
from kdx.storage.files import sha256_file
from kdx.storage.renames import rename_new


def remove_judged(source: Path, file: JudgedFile) -> None:
    """Remove a judged file whose copy is complete; another image under its name stays.

    Raises:
        OSError: The file cannot be renamed or removed.
    """
    hidden = _hidden(source, file)
    source.rename(hidden)
    try:
        if is_renamed(file, hidden) or _is_judged_at(hidden, file):
            hidden.unlink()
    except OSError:
        give_back(source, file)
        raise
    give_back(source, file)  # it is another image, which is to be judged


def give_back(source: Path, file: JudgedFile) -> bool:
    """Give a hidden file its name again; return whether there was one.

    Where the name has been used again meanwhile, a judged file is removed, because its copy was
    complete before it was hidden. Another image gets the identifier of the verdict after its name.

    Raises:
        OSError: The file cannot be renamed or removed.
    """
    hidden = _hidden(source, file)
    if not os.path.lexists(hidden):
        return False
    try:
        rename_new(hidden, source)
    except FileExistsError:
        if _is_judged_at(hidden, file):
            hidden.unlink()
        else:
            rename_new(hidden, source.with_name(f"{source.stem}~{file.verdict_id}{source.suffix}"))
    return True


def identity_of(path: Path) -> Identity | None:
    """Return the identity of a file, or None if there is none."""
    with contextlib.suppress(OSError):
        return Identity.of(path.stat())
    return None


def is_judged(path: Path, found: Identity, file: JudgedFile) -> bool:
    """Whether a file is the one that was judged: by its content, where its status has changed."""
    return found == file.identity or (found.is_like(file.identity) and sha256_file(path) == file.image_sha256)


def is_renamed(file: JudgedFile, path: Path) -> bool:
    """Whether a file is another name of a judged one, which changes its ``ctime_ns``."""
    found = identity_of(path)
    return found is not None and found[:3] == file.identity[:3]


def _is_judged_at(path: Path, file: JudgedFile) -> bool:
    found = identity_of(path)
    return found is not None and is_judged(path, found, file)


def _hidden(source: Path, file: JudgedFile) -> Path:
    return source.with_name(f".{file.verdict_id}{source.suffix}")
