"""Keeping what commands write apart from images, for whoever reads these later takes all for parts.

Runs and bundles hold golden images. Where one lies among images nevertheless, it is recognised by
its index.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from pathlib import Path

from kdx.errors import DataError, OutputError
from kdx.folders.good_names import is_good
from kdx.folders.image_search import (
    LeftOut,
    checked_is_dir,
    entries,
    folders,
    holds_images,
    image_files,
    is_hidden,
    is_part,
    leads_up,
    own_kind,
    walk,
)
from kdx.text import number_of

# An output so many folders below one of images is among them. Further up, folders are of another
# purpose more often than not.
_LEVELS = 2


def among_images(what: str, option: str, output: Path, folder: Path) -> OutputError:
    """Return the error for an output that would lie among images.

    Args:
        what: What would be written.
        option: The parameter that names the output.
        output: The output.
        folder: The folder of images.
    """
    return OutputError(
        f"{what} would lie among the images in '{folder}'",
        expected=f"a folder for `{option}` outside of it: whoever reads the images later would take pictures in it for "
        "parts",
        received=f"`{option}={output}`",
        fix="choose a folder beside it",
    )


def require_apart_from_images(what: str, output: Path, data: Iterable[Path] = (), *, option: str = "out") -> None:
    """Refuse a folder that would lie among images.

    Args:
        what: What would be written, for the message.
        output: The folder.
        data: Data folders of the work that are known; in those, every place among their images
            counts. In others, the two folders around the output do.
        option: The parameter that names the output.

    Raises:
        OutputError: It would lie among images.
    """
    data = list(data)
    if any(not checked_is_dir(each) and each.is_file() for each in data):  # refused as such, before anything is written
        return
    require_apart_from_data(what, output, data, option=option)
    real = Path(os.path.realpath(output))
    works_in = Path.cwd()
    for around in real.parents[:_LEVELS]:
        if around == works_in or around in works_in.parents:
            break
        if around.is_dir() and _is_of_images(around, real):
            raise among_images(what, option, output, around)


def require_apart_from_data(what: str, output: Path, data: Iterable[Path], *, option: str) -> None:
    """Refuse an output among the images of data folders; see :func:`require_apart_from_images`.

    A single picture may lie among pictures that are not of these folders.
    """
    real = Path(os.path.realpath(output))
    for folder in data:
        if checked_is_dir(folder) and _is_among(real, Path(os.path.realpath(folder))):
            raise among_images(what, option, output, folder)


def _is_among(output: Path, data: Path) -> bool:
    """Whether an output lies where the images of a data folder are looked for."""
    if output == data or not output.is_relative_to(data):
        return False
    inside = folders(data)
    if any(is_part(folder.name) for folder in inside):
        return is_part(output.relative_to(data).parts[0])
    return bool(image_files(data)) or any(is_good(folder.name) and holds_images(folder) for folder in inside)


def _is_of_images(folder: Path, output: Path) -> bool:
    """Whether a folder is one of images, and not one of results with a picture among them.

    One that the user may not list is none: nobody finds images in it. An example is ``/home``.
    """
    try:
        images = set(image_files(folder))
        if images and (is_good(folder.name) or not _is_mixed(folder, images, output)):
            return True
        inside = folders(folder) if is_part(folder.name) else ()
    except DataError:
        return False
    return any(_holds_images(each) for each in inside if each != output and each not in output.parents)


def _is_mixed(folder: Path, images: AbstractSet[Path], output: Path) -> bool:
    """Whether other files, runs or bundles lie beside a folder's images."""
    others = (each for each in entries(folder) if each not in images and each != output and not is_hidden(each.name))
    return any(each.is_file() or own_kind(each) for each in others)


def _holds_images(folder: Path) -> bool:
    """Whether a folder that is no run and no bundle holds images that the user may list."""
    try:
        return bool(image_files(folder)) and not own_kind(folder)
    except DataError:
        return False


def outputs_in(folder: Path, *, itself: bool = False) -> list[Path]:
    """Return the first run folders and bundles in the subfolders of a folder, at any depth.

    Args:
        folder: The folder.
        itself: Whether the folder itself may be one.
    """
    if itself and own_kind(folder):
        return [folder]
    found: list[Path] = []
    for each in folders(folder):
        left_out = LeftOut()
        if own_kind(each):
            found.append(each)
        elif not leads_up(each):
            for _ in walk(each, left_out):
                pass
        found += [each / name for name in left_out.first("own_output")]
    return found


def refuse_outputs(root: Path, found: list[Path]) -> None:
    """Raise ``DataError`` for a run folder or a bundle among images."""
    if not found:
        return
    kinds = ", ".join(f"'{path}', a {own_kind(path)}" for path in found)
    raise DataError(
        number_of(len(found), f"[folder that kdx wrote lies|folders that kdx wrote lie] among the images in '{root}'"),
        expected="images alone: the pictures in a run folder or a bundle are not parts of this folder",
        received=kinds,
        fix=f"move {'it' if len(found) == 1 else 'them'} to a place outside of the images",
    )
