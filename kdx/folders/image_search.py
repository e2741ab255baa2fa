"""Finding image files by one rule for all commands, and counting the files that are left out."""

from __future__ import annotations

import contextlib
import functools
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import Image

from kdx.errors import DataError
from kdx.imaging.image_files import FORMATS
from kdx.imaging.masks import masks_beside
from kdx.remarks import FIRST, Remark
from kdx.storage.json_records import BUNDLE_INDEX, RUN_INDEX
from kdx.text import agreeing

# The files of operating systems, archivers and network drives beside those of the user.
_SYSTEM = frozenset(
    {
        "$recycle.bin",
        "@eadir",
        "__macosx",
        "desktop.ini",
        "ehthumbs.db",
        "lost+found",
        "system volume information",
        "thumbs.db",
    }
)
_PARTS = ("train", "test", "groundtruth")
_TEXTS = {
    "hidden": "hidden or system [file or folder was|files and folders were] left out",
    "not_an_image": "[file that is not an image|files that are not images] of a known format [was|were] left out",
    "linked_folder": "[folder is a symbolic link and was|folders are symbolic links and were] not followed",
    "unlisted_folder": "[folder|folders] could not be listed and [was|were] left out",
    "not_a_file": "[image leads to no file|images lead to no file] and [was|were] left out",
    "own_output": "[run folder or bundle is|run folders and bundles are] no parts and [was|were] left out",
    "mask": "[mask|masks] of defects [was|were] left out",
    "named_twice": "[image was|images were] named more than once, and [is|each is] judged once",
    "unused_image": "[image|images] outside of the layout's folders [was|were] left out",
    "unused_folder": "[folder of images is|folders of images are] not part of the layout and [was|were] left out",
    "empty_folder": "[folder holds|folders hold] no images",
}


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Return all suffixes that Pillow knows for the formats that kdx reads, in lower case."""
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS)


def is_image_name(name: str) -> bool:
    """Whether a file of this name counts as an image."""
    return os.path.splitext(name)[1].lower() in image_suffixes()  # noqa: PTH122  # millions of names


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or belongs to the operating system."""
    return name.startswith(".") or name.lower() in _SYSTEM


# The files that make a folder a run or a bundle, and what such a folder is called.
_INDEXES = {RUN_INDEX: "run folder", BUNDLE_INDEX: "bundle"}


def own_kind(folder: Path) -> str:
    """Return what a folder that kdx wrote is called; empty for one that is no run or bundle."""
    with contextlib.suppress(OSError):  # whoever lists the folder says that the user may not enter it
        return next((kind for index, kind in _INDEXES.items() if (folder / index).is_file()), "")
    return ""


class LeftOut:
    """The files and folders that a search left out: counts by kind, and the first names."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, list[str]] = {}

    def add(self, kind: str, name: str) -> None:
        """Count a file or folder; ``kind`` is a key of the texts above."""
        self._counts[kind] += 1
        first = self._first.setdefault(kind, [])
        if len(first) < FIRST:
            first.append(name)

    def add_all(self, other: LeftOut, prefix: str) -> None:
        """Add the counts of another search, in a folder of this one."""
        for kind, count in other._counts.items():
            self._counts[kind] += count
            first = self._first.setdefault(kind, [])
            first += [f"{prefix}{name}" for name in other._first[kind]][: FIRST - len(first)]

    def first(self, kind: str) -> list[str]:
        """Return the first names of a kind."""
        return list(self._first.get(kind, ()))

    def count(self, kind: str) -> int:
        """Return how many of a kind were left out."""
        return self._counts[kind]

    @property
    def remarks(self) -> list[Remark]:
        """One remark for each kind."""
        return [
            Remark(kind=kind, text=agreeing(count, text), count=count, first=tuple(self._first[kind]))
            for kind, text in _TEXTS.items()
            if (count := self._counts[kind])
        ]


def walk(root: Path, left_out: LeftOut | None = None, *, is_strict: bool = True) -> Iterator[str]:
    """Yield the image files under a folder, at any depth, as paths relative to it with ``/``.

    Files and subfolders of each folder are sorted together by name. Hidden files and folders are
    left out, and files without the suffix of an image, and run folders and bundles in the folder,
    whose images are copies of others. Links to folders are not followed, because
    they may lead back to a folder above. A subfolder that is removed meanwhile holds nothing. Names
    that are not UTF-8 keep their bytes as surrogate escapes.

    Args:
        root: The folder.
        left_out: Counts what is left out.
        is_strict: Whether a subfolder that cannot be listed is an error; otherwise it is left out.

    Raises:
        DataError: The folder is missing, or the user may not list one of the folders.
    """
    require_folder(root)
    yield from _walk(root, "", left_out or LeftOut(), masks=True, is_strict=is_strict)


def walk_parts(root: Path, left_out: LeftOut | None = None) -> Iterator[str]:
    """Yield the files of :func:`walk` but for masks of defects, which show no part.

    Masks are the images in ``ground_truth`` beside ``train`` or ``test``, and ``NAME_mask`` beside
    an image ``NAME``.
    """
    require_folder(root)
    yield from _walk(root, "", left_out or LeftOut(), masks=False)


def require_folder(root: Path) -> None:
    """Raise ``DataError`` if there is no such folder."""
    if not checked_is_dir(root):
        raise DataError(f"there is no folder '{root}'", fix="name the folder that holds the images")


def _walk(folder: Path, prefix: str, left_out: LeftOut, *, masks: bool, is_strict: bool = True) -> Iterator[str]:
    try:
        found = scan(folder)
    except DataError as error:
        if prefix and isinstance(error.__cause__, (FileNotFoundError, NotADirectoryError)):
            return  # it was removed since the folder around it was listed
        if is_strict or not prefix:
            raise
        left_out.add("unlisted_folder", prefix.removesuffix("/"))
        return
    if prefix and any(name in _INDEXES for name, is_folder, _ in found if not is_folder):
        left_out.add("own_output", prefix.removesuffix("/"))
        return
    beside = frozenset() if masks else _masks_among([name for name, is_folder, _ in found if not is_folder])
    truth = None if masks else _truth_among([name for name, is_folder, _ in found if is_folder])
    for name, is_folder, is_link in found:
        if is_hidden(name):
            left_out.add("hidden", f"{prefix}{name}")
        elif name in beside:
            left_out.add("mask", f"{prefix}{name}")
        elif name == truth and not is_link:
            for mask in _walk(folder / name, f"{prefix}{name}/", LeftOut(), masks=True):
                left_out.add("mask", mask)
        elif is_folder and is_link:
            left_out.add("linked_folder", f"{prefix}{name}")
        elif is_folder:
            yield from _walk(folder / name, f"{prefix}{name}/", left_out, masks=masks, is_strict=is_strict)
        elif is_image_name(name):
            yield f"{prefix}{name}"
        else:
            left_out.add("not_an_image", f"{prefix}{name}")


def _masks_among(names: Iterable[str]) -> frozenset[str]:
    images = [Path(name) for name in names if is_image_name(name)]
    return frozenset(path.name for path in masks_beside(images))


def bare(name: str) -> str:
    """Return a folder's name without case and punctuation: ``Ground-Truth`` is ``groundtruth``."""
    return "".join(filter(str.isalnum, name.casefold()))


def is_part(name: str) -> bool:
    """Return whether a folder of this name is a part of the layout of MVTec AD."""
    return bare(name) in _PARTS


def _truth_among(names: Iterable[str]) -> str | None:
    """Return which of the folders beside each other holds the masks in the layout of MVTec AD."""
    by_name = {bare(name): name for name in names}
    return by_name.get("groundtruth") if "train" in by_name or "test" in by_name else None


def scan(folder: Path) -> list[tuple[str, bool, bool]]:
    """Return the entries of a folder by name, each with whether it is a folder, and a link.

    Raises:
        DataError: The user may not list the folder.
    """
    try:
        with os.scandir(folder) as found:
            return sorted((entry.name, _is_folder(entry), entry.is_symlink()) for entry in found)
    except OSError as error:
        raise _unreadable(folder, error) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: like one to nothing, it is named by whoever reads it
        if entry.is_symlink():
            return False
        raise


def checked_is_dir(path: Path) -> bool:
    """Whether a path is that of a folder.

    What cannot be looked at for another reason than below is none, and is reported when it is read.
    So is a link to where the user may not look.

    Raises:
        DataError: The user may not enter the folder around it.
    """
    try:
        return path.is_dir()
    except PermissionError as error:
        if os.path.islink(path):  # noqa: PTH114  # which raises nothing
            return False
        raise _unreadable(path.parent, error) from error
    except OSError:
        return False


def leads_up(folder: Path) -> bool:
    """Whether a folder is a symbolic link to a folder that it lies in."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def holds_images(folder: Path) -> bool:
    """Whether a folder, which may be a link, holds an image file at any depth.

    The images in run folders and bundles do not count.
    """
    return not own_kind(folder) and next(walk(folder), None) is not None


def entries(folder: Path) -> list[Path]:
    """Return everything directly in a folder, sorted by name.

    Raises:
        DataError: The user may not list the folder.
    """
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise _unreadable(folder, error) from error


def image_files(folder: Path) -> tuple[Path, ...]:
    """Return the image files directly in a folder, sorted by name, without hidden files."""
    if not checked_is_dir(folder):
        return ()
    return tuple(
        path
        for path in entries(folder)
        if is_image_name(path.name) and not is_hidden(path.name) and not checked_is_dir(path)
    )


def folders(folder: Path) -> tuple[Path, ...]:
    """Return the folders directly in a folder, sorted by name, without hidden ones."""
    if not checked_is_dir(folder):
        return ()
    return tuple(path for path in entries(folder) if not is_hidden(path.name) and checked_is_dir(path))


def listing(folder: Path) -> str:
    """Return a short text that lists what is directly in a folder."""
    names = [path.name + ("/" if checked_is_dir(path) else "") for path in entries(folder)]
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return shown or "an empty folder"


def _unreadable(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"the folder '{folder}' cannot be listed: {(error.strerror or type(error).__name__).lower()}",
        expected="folders that the user may list",
        received=type(error).__name__,
        fix="change its permissions, or copy the data to where you may read it",
    )
