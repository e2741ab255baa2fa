"""Which files are images: one rule for every command, and a count of whatever a search leaves out."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from kdx.errors import DataError
from kdx.imaging.image_files import FORMATS
from kdx.remarks import FIRST, Remark

# What operating systems, archivers and network drives leave beside a user's files.
_SYSTEM = frozenset(
    {"$recycle.bin", "@eadir", "__macosx", "desktop.ini", "ehthumbs.db", "system volume information", "thumbs.db"}
)
_TEXTS = {
    "hidden": "hidden or system files and folders were left out",
    "not_an_image": "files that are not images of a known format were left out",
    "linked_folder": "folders are symbolic links and were not followed",
    "unused_image": "images outside of the layout's folders were left out",
    "unused_folder": "folders of images are not part of the layout and were left out",
    "empty_folder": "folders hold no images",
}


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes, in lower case, of the formats that kdx reads: all that Pillow knows for them."""
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS)


def is_image_name(name: str) -> bool:
    """Whether a file of this name is taken for an image."""
    return os.path.splitext(name)[1].lower() in image_suffixes()  # noqa: PTH122  # millions of names


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or one of the operating system's own."""
    return name.startswith(".") or name.lower() in _SYSTEM


class LeftOut:
    """What a search left out: counted by kind, the first few of each kind by name."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, list[str]] = {}

    def add(self, kind: str, name: str) -> None:
        """Count one; ``kind`` is a key of the texts above."""
        self._counts[kind] += 1
        first = self._first.setdefault(kind, [])
        if len(first) < FIRST:
            first.append(name)

    def add_all(self, other: LeftOut, prefix: str) -> None:
        """Add what another search left out, in a folder of this one."""
        for kind, count in other._counts.items():
            self._counts[kind] += count
            first = self._first.setdefault(kind, [])
            first += [f"{prefix}{name}" for name in other._first[kind]][: FIRST - len(first)]

    def count(self, kind: str) -> int:
        """Return how many of a kind were left out."""
        return self._counts[kind]

    @property
    def remarks(self) -> list[Remark]:
        """A remark on each kind."""
        return [
            Remark(kind=kind, text=text, count=self._counts[kind], first=tuple(self._first[kind]))
            for kind, text in _TEXTS.items()
            if self._counts[kind]
        ]


def walk(root: Path, left_out: LeftOut | None = None) -> Iterator[str]:
    """Yield the image files under a folder, at any depth, as paths relative to it with ``/``.

    Names are sorted within each folder, a subfolder stands among the files of its own folder. Hidden files and folders
    are left out, and whatever does not have an image's suffix; links to folders may lead in a circle and are not
    followed. Names that are not UTF-8 keep their bytes as Python does (surrogate escapes).

    Raises:
        DataError: The folder is missing, or one of its folders may not be listed.
    """
    if not root.is_dir():
        raise DataError(f"there is no folder '{root}'", fix="name the folder that holds the images")
    yield from _walk(root, "", left_out or LeftOut())


def _walk(folder: Path, prefix: str, left_out: LeftOut) -> Iterator[str]:
    for name, is_folder, is_link in scan(folder):
        if is_hidden(name):
            left_out.add("hidden", f"{prefix}{name}")
        elif is_folder and is_link:
            left_out.add("linked_folder", f"{prefix}{name}")
        elif is_folder:
            yield from _walk(folder / name, f"{prefix}{name}/", left_out)
        elif is_image_name(name):
            yield f"{prefix}{name}"
        else:
            left_out.add("not_an_image", f"{prefix}{name}")


def scan(folder: Path) -> list[tuple[str, bool, bool]]:
    """Return name, whether it is a folder and whether it is a link, of everything in a folder, sorted by name.

    Raises:
        DataError: It may not be listed.
    """
    try:
        with os.scandir(folder) as found:
            return sorted((entry.name, entry.is_dir(), entry.is_symlink()) for entry in found)
    except OSError as error:
        raise _unreadable(folder, error) from error


def holds_images(folder: Path) -> bool:
    """Whether there is an image file in a folder, at any depth; it may itself be a link."""
    return next(walk(folder), None) is not None


def entries(folder: Path) -> list[Path]:
    """Return everything directly in a folder, sorted by name.

    Raises:
        DataError: It may not be listed.
    """
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise _unreadable(folder, error) from error


def image_files(folder: Path) -> tuple[Path, ...]:
    """Return the image files directly in a folder, sorted by name; hidden files and others are left out."""
    if not folder.is_dir():
        return ()
    return tuple(
        path for path in entries(folder) if is_image_name(path.name) and not is_hidden(path.name) and not path.is_dir()
    )


def folders(folder: Path) -> tuple[Path, ...]:
    """Return the folders directly in a folder, sorted by name; hidden ones are left out."""
    if not folder.is_dir():
        return ()
    return tuple(path for path in entries(folder) if path.is_dir() and not is_hidden(path.name))


def listing(folder: Path) -> str:
    """Say in a few words what is directly in a folder."""
    names = [path.name + ("/" if path.is_dir() else "") for path in entries(folder)]
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return shown or "an empty folder"


def _unreadable(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"the folder '{folder}' cannot be listed: {(error.strerror or type(error).__name__).lower()}",
        expected="folders that this user may list",
        received=type(error).__name__,
        fix="change its permissions, or copy the data to where you may read it",
    )
