"""The published data sets, in the layouts in which they are downloaded; one file each.

Every module here that defines ``LAYOUT`` is one. No torch here.
"""

from __future__ import annotations

import difflib
import functools
import pkgutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from kd_train.datasets.layout import DatasetInfo, Found, Layout, is_folder, require_whole
from kd_train.datasets.unpack import Unpacker
from kdx.errors import DataError
from kdx.folder import ImageFolder, folders, image_files, open_folder
from kdx.progress import SILENT, Progress

# Archives unpack into a folder of their own, sometimes into two.
_WRAPPERS = 2

__all__ = ["DatasetInfo", "categories", "open_data", "recognise"]


def open_data(
    root: Path, category: str | None = None, *, cache: Path | None = None, progress: Progress = SILENT
) -> ImageFolder:
    """Find the images of a published data set as downloaded, or of a folder in MVTec layout or of good images.

    Args:
        root: The data set's folder, a folder that holds only it, one category of it; or any folder of images.
        category: Which category, where there are several.
        cache: Where images that come inside videos or batches are unpacked to. Default: ``.kdx-cache`` beside the data,
            or under the user's cache folder where nothing may be written there.
        progress: Told how far the unpacking is.

    Raises:
        DataError: Nothing is there in any known layout, a category must be named, the named one is not there, or the
            data set is not whole.
        OutputError: Images must be unpacked and nothing may be written.
    """
    root = Path(root)
    match = _match(root)
    if match is None:
        folder = open_folder(root, looked_for=[layout.looked_for for layout in layouts()])
        if category is not None:
            raise DataError(
                f"'{root}' has no categories, so --category {category} cannot be chosen",
                expected="a data set of several categories",
                received=f"{len(folder.good)} good images and {len(folder.test)} test images in the folder itself",
                fix="leave --category out",
            )
        return folder
    layout, found = match
    chosen = _choose(root, layout, found, category)
    folder = layout.open(found.home, chosen, Unpacker(cache, progress))
    if found.is_published:
        require_whole(folder, layout, found.home, chosen)
    return replace(folder, dataset=layout.info.key if found.is_published else None, category=chosen or None)


def categories(root: Path) -> tuple[str, ...]:
    """Return the categories of the data set in a folder: none where it has none, or where the folder is itself one."""
    match = _match(Path(root))
    if match is None or match[1].category is not None:
        return ()
    return match[0].categories(match[1].home)


def recognise(root: Path) -> DatasetInfo | None:
    """Say which published data set a folder holds; None for any other."""
    match = _match(Path(root))
    return match[0].info if match is not None and match[1].is_published else None


@functools.cache
def layouts() -> tuple[Layout, ...]:
    """Return every known layout, by the name of its module."""
    modules = sorted(module.name for module in pkgutil.iter_modules(__path__))
    found = (getattr(import_module(f"{__name__}.{name}"), "LAYOUT", None) for name in modules)
    return tuple(layout for layout in found if isinstance(layout, Layout))


def _match(root: Path) -> tuple[Layout, Found] | None:
    """Find the layout of a folder, or of the only folder in it."""
    for _ in range(_WRAPPERS + 1):
        if not is_folder(root):
            return None
        for layout in layouts():
            found = layout.find(root)
            if found is not None:
                return layout, found
        inside = folders(root)
        # A folder of images, or one in MVTec layout, is what the user means and not a wrapper.
        if len(inside) != 1 or image_files(root) or any((root / name).exists() for name in ("train", "test", "good")):
            return None
        root = inside[0]
    return None


def _choose(root: Path, layout: Layout, found: Found, category: str | None) -> str:
    """Return the category to open; empty where the data set has none.

    Raises:
        DataError: It must be named, or the named one is not there.
    """
    if found.category is not None:
        if category in (None, found.category):
            return found.category
        raise DataError(
            f"'{root}' is the category '{found.category}' itself",
            expected=f"--category {found.category}, or none",
            received=f"--category {category}",
            fix="leave --category out, or give the folder that holds all categories",
        )
    known = layout.categories(found.home)
    title = layout.info.title if found.is_published else "the data"
    if category is None:
        if len(known) <= 1:
            return known[0] if known else ""
        raise DataError(
            f"'{root}' holds {len(known)} categories of {title}",
            expected=f"one of {', '.join(known)}",
            received="no category",
            fix=f"add --category {known[0]}, or another of them",
        )
    if category in known:
        return category
    near = difflib.get_close_matches(category, known, n=3, cutoff=0.3)
    raise DataError(
        f"{title} in '{root}' has no category '{category}'",
        expected=" or ".join(near or known) or "no category",
        received=f"--category {category}",
        fix=f"choose one of {', '.join(known)}" if known else "leave --category out",
    )
