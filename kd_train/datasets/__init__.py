"""The published data sets, in the layouts in which they are downloaded.

Every module of this package that defines ``LAYOUT`` is a data set. None of them imports torch.
"""

from __future__ import annotations

import difflib
import functools
import pkgutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from kd_train.datasets.layout import DatasetInfo, Layout, Location, is_folder, require_complete
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

# An archive unpacks into a folder of its own, some archives into two nested folders.
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
    """Find the images of a published data set, or of a folder of one's own.

    A folder of one's own has the MVTec layout or contains good images.

    Args:
        root: The data set's folder, the folder around it, one category of it, or any folder of
            images.
        category: The category of a data set that has several.
        options: The user's description of the folders. If any of it is given, the folder is not
            taken for a published data set whose layout already says which images are good.
        cache: The folder that images in videos or batches are unpacked to. Default: ``.kdx-cache``
            beside the data, or the user's cache folder if that cannot be written.
        progress: The progress display of the unpacking.

    Raises:
        DataError: The folder has no known layout, a category must be named, the named category does
            not exist, or the data set is incomplete.
        OutputError: Images must be unpacked, and no folder can be written.
    """
    root = Path(root)
    options = options or FolderOptions()
    match = _match(root, options)
    if match is None:
        folder = open_folder(root, options, looked_for=[layout.looked_for for layout in layouts()])
        if category is not None:
            raise DataError(
                f"'{root}' has no categories, but `category={category}` was given",
                expected="a data set of several categories",
                received=f"{len(folder.good)} good images and {len(folder.test)} test images in the folder itself",
                fix="leave `category` out",
            )
        return folder
    layout, location = match
    chosen = _choose_category(root, layout, location, category)
    if options.are_given:
        folder = open_folder(location.home / chosen, options)
    else:
        folder = layout.open(location.home, chosen, Unpacker(cache, progress))
    if location.is_published:
        require_complete(folder, layout, location.home, chosen)
    return replace(folder, dataset=layout.info.key if location.is_published else None, category=chosen or None)


def open_defective(
    root: Path, category: str | None = None, options: FolderOptions | None = None, *, progress: Progress = SILENT
) -> tuple[Path, ...]:
    """Return a data set's defective test images, or the images of a folder of defective ones.

    Raises:
        DataError: See :func:`open_data`; or there are none, or the folder contains good images too.
    """
    root = Path(root)
    if category is None and _match(root, options or FolderOptions()) is None:
        return open_defects(root, options)
    return require_defective(open_data(root, category, options, progress=progress))


def categories(root: Path) -> tuple[str, ...]:
    """Return a data set's categories; none if the folder is itself a category."""
    match = _match(Path(root), FolderOptions())
    if match is None or match[1].category is not None:
        return ()
    return match[0].categories(match[1].home)


def recognise(root: Path) -> DatasetInfo | None:
    """Return the published data set that a folder contains; None for any other folder."""
    match = _match(Path(root), FolderOptions())
    return match[0].info if match is not None and match[1].is_published else None


@functools.cache
def layouts() -> tuple[Layout, ...]:
    """Return every known layout, in the order of the modules' names."""
    modules = sorted(module.name for module in pkgutil.iter_modules(__path__))
    defined = (getattr(import_module(f"{__name__}.{name}"), "LAYOUT", None) for name in modules)
    return tuple(layout for layout in defined if isinstance(layout, Layout))


def _match(root: Path, options: FolderOptions) -> tuple[Layout, Location] | None:
    """Find the layout of a folder, or of the only folder in it."""
    for _ in range(_WRAPPERS + 1):
        if not is_folder(root):
            return None
        for layout in layouts():
            if options.are_given and not layout.is_mvtec:
                continue
            location = layout.find(root)
            if location is not None:
                return layout, location
        inside = folders(root)
        # A folder of images or in MVTec layout is the user's data, not a folder around a data set.
        if len(inside) != 1 or image_files(root) or any((root / name).exists() for name in ("train", "test", "good")):
            return None
        root = inside[0]
    return None


def _choose_category(root: Path, layout: Layout, location: Location, category: str | None) -> str:
    """Return the category to open; empty if the data set has none.

    Raises:
        DataError: A category must be named, or the named one does not exist.
    """
    if location.category is not None:
        if category in (None, location.category):
            return location.category
        raise DataError(
            f"'{root}' is the category '{location.category}' itself",
            expected=f"`category={location.category}`, or none",
            received=f"`category={category}`",
            fix="leave `category` out, or give the folder that contains all categories",
        )
    known = layout.categories(location.home)
    title = layout.info.title if location.is_published else "the data"
    if category is None:
        if len(known) <= 1:
            return known[0] if known else ""
        raise DataError(
            f"'{root}' holds {len(known)} categories of {title}",
            expected=f"one of {', '.join(known)}",
            received="no category",
            fix=f"name one: `category={known[0]}`",
        )
    if category in known:
        return category
    near = difflib.get_close_matches(category, known, n=3, cutoff=0.3)
    raise DataError(
        f"{title} in '{root}' has no category '{category}'",
        expected=" or ".join(near or known) or "no category",
        received=f"`category={category}`",
        fix=f"choose one of {', '.join(known)}" if known else "leave `category` out",
    )
