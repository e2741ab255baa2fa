"""The images of an archive, in an order that is the same every time, one folder's names in memory at a time."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdx.errors import DataError
from kdx.images import SUFFIXES


@dataclass
class Passed:
    """What a walk passed over: folders that are symbolic links, which may lead in a circle."""

    linked_folders: int = 0


def walk(root: Path, passed: Passed | None = None) -> Iterator[str]:
    """Yield the image files under a folder, as paths relative to it with ``/``.

    Names are sorted within each folder, a subfolder stands among the files of its own folder: the order is that of
    :func:`order`. Hidden files and folders are passed over, and whatever has no image's suffix. Names that are not
    UTF-8 keep their bytes as Python does (surrogate escapes).

    Raises:
        DataError: The folder is missing, or one of its folders may not be listed.
    """
    if not root.is_dir():
        raise DataError(f"there is no folder '{root}'", fix="name the folder that holds the images")
    yield from _walk(root, "", passed or Passed())


def _walk(folder: Path, prefix: str, passed: Passed) -> Iterator[str]:
    for name, is_folder, is_link in _entries(folder):
        if is_folder and is_link:
            passed.linked_folders += 1
        elif is_folder:
            yield from _walk(folder / name, f"{prefix}{name}/", passed)
        elif os.path.splitext(name)[1].lower() in SUFFIXES:  # noqa: PTH122 (millions of names)
            yield f"{prefix}{name}"


def _entries(folder: Path) -> list[tuple[str, bool, bool]]:
    """Return name, whether it is a folder and whether it is a link, of everything in a folder that is not hidden."""
    try:
        with os.scandir(folder) as found:
            return sorted(
                (entry.name, entry.is_dir(), entry.is_symlink()) for entry in found if not entry.name.startswith(".")
            )
    except OSError as error:
        raise DataError(
            f"the folder '{folder}' cannot be listed: {error.strerror}",
            expected="folders that this user may list",
            fix="change its permissions, or name another folder",
        ) from error


def order(path: str) -> list[str]:
    """Return what :func:`walk` sorts a path by."""
    return path.split("/")


def added(found: Iterable[str], known: Sequence[Iterable[str]]) -> Iterator[str]:
    """Yield the paths that were found and are in none of several earlier lists, all of them in the walk's order."""
    earlier = heapq.merge(*known, key=order)
    next_known = next(earlier, None)
    for path in found:
        while next_known is not None and order(next_known) < order(path):
            next_known = next(earlier, None)
        if next_known != path:
            yield path
