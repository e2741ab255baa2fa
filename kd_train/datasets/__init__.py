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
from kdx.folders.data_folder import (
    FolderOptions,
    ImageFolder,
    folders,
    image_files,
    open_defects,
    open_folder,
    require_defective,
)
from kdx.progress import SILENT, Progress

# Archives unpack into a folder of their own, sometimes into two.
_WRAPPERS = 2

__all__ = ["DatasetInfo", "categories", "open_data", "open_defective", "recognise"]


def open_data(
    root: Path,
    category: str | None = None,
    options: FolderOptions | None = None,
    *,
    cache: Path | None = None,
    progress: Progress = SILENT,
) -> ImageFolder:
    """Find the images of a published data set as downloaded, or of a folder in MVTec layout or of good images.

    Args:
        root: The data set's folder, a folder that holds only it, one category of it; or any folder of images.
        category: Which category, where there are several.
        options: What the user says about the folders; with any of it, the folder is not taken for a published data set
            whose layout says already which images are good.
        cache: Where images that come inside videos or batches are unpacked to. Default: ``.kdx-cache`` beside the data,
            or under the user's cache folder where nothing may be written there.
        progress: Told how far the unpacking is.

    Raises:
        DataError: Nothing is there in any known layout, a category must be named, the named one is not there, or the
            data set is not whole.
        OutputError: Images must be unpacked and nothing may be written.
    """
    root = Path(root)
    options = options or FolderOptions()
    match = _match(root, options)
    if match is None:
        folder = open_folder(root, options, looked_for=[layout.looked_for for layout in layouts()])
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
    if options.are_given:
        folder = open_folder(found.home / chosen, options)
    else:
        folder = layout.open(found.home, chosen, Unpacker(cache, progress))
    if found.is_published:
        require_whole(folder, layout, found.home, chosen)
    return replace(folder, dataset=layout.info.key if found.is_published else None, category=chosen or None)


def open_defective(
    root: Path, category: str | None = None, options: FolderOptions | None = None, *, progress: Progress = SILENT
) -> tuple[Path, ...]:
    """Return the defective images of a data set's test split, or of a folder that holds nothing else.

    Raises:
        DataError: As :func:`open_data`; or there are none, or the folder holds good images too.
    """
    root = Path(root)
    if category is None and _match(root, options or FolderOptions()) is None:
        return open_defects(root, options)
    return require_defective(open_data(root, category, options, progress=progress))


def categories(root: Path) -> tuple[str, ...]:
    """Return the categories of the data set in a folder: none where it has none, or where the folder is itself one."""
    match = _match(Path(root), FolderOptions())
    if match is None or match[1].category is not None:
        return ()
    return match[0].categories(match[1].home)


def recognise(root: Path) -> DatasetInfo | None:
    """Say which published data set a folder holds; None for any other."""
    match = _match(Path(root), FolderOptions())
    return match[0].info if match is not None and match[1].is_published else None


@functools.cache
def layouts() -> tuple[Layout, ...]:
    """Return every known layout, by the name of its module."""
    modules = sorted(module.name for module in pkgutil.iter_modules(__path__))
    found = (getattr(import_module(f"{__name__}.{name}"), "LAYOUT", None) for name in modules)
    return tuple(layout for layout in found if isinstance(layout, Layout))


def _match(root: Path, options: FolderOptions) -> tuple[Layout, Found] | None:
    """Find the layout of a folder, or of the only folder in it."""
    for _ in range(_WRAPPERS + 1):
        if not is_folder(root):
            return None
        for layout in layouts():
            if options.are_given and not layout.is_mvtec:
                continue
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
