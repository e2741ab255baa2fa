"""What is wrong with the layout of a user's own folder, in words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdx.errors import DataError
from kdx.folders.good_names import is_good
from kdx.folders.image_search import listing, walk
from kdx.text import number_of


def nothing_found(root: Path, looked_for: Sequence[str]) -> DataError:
    """Return the error for a folder without images in any layout."""
    own = "train/good/*.png (and test/good, test/DEFECT_TYPE), or good images directly in the folder"
    return DataError(
        f"no images were found in '{root}'",
        expected="; or ".join([own, *looked_for]),
        received=listing(root),
        fix="name the folder that holds the images, or arrange them in one of these layouts",
    )


def counted(inside: Sequence[Path], direct: int) -> str:
    """Return a text that names folders with their images, and the number of images beside them."""
    links = {folder for folder in inside if folder.is_symlink()}
    counts = [
        f"{folder.name}/ ({number_of(sum(1 for _ in walk(folder)), '[image|images]')}"
        + (", a symbolic link, which is not followed)" if folder in links else ")")
        for folder in inside[:8]
    ]
    more = [f"{len(inside) - 8} more folders"] if len(inside) > 8 else []
    return ", ".join([*counts, *more, *([f"{number_of(direct, '[image|images]')} beside them"] if direct else [])])


def unclear_which_are_good(root: Path, inside: Sequence[Path], direct: int) -> DataError:
    """Return the error for subfolders with images of which none is known to be good."""
    good = next((folder.name for folder in inside if is_good(folder.name)), "")
    return DataError(
        f"'{root}' has subfolders with images, and it is unclear which of them are good",
        expected="good images directly in the folder; or train/good (and test/good, test/DEFECT_TYPE)",
        received=counted(inside, direct),
        fix="add the name of each folder of good images to `good_folders`"
        + (f', such as "{good}"' if good else "")
        + ("" if are_links(inside) else ", or pass `subfolders=True` if all of them are good"),
    )


def are_links(inside: Sequence[Path]) -> bool:
    """Whether all folders are symbolic links, which are not followed."""
    return all(folder.is_symlink() for folder in inside)


def subfolders_with_images(folder: Path, inside: Sequence[Path], direct: int) -> DataError:
    """Return the error for subfolders with images in a folder that should hold images itself."""
    return DataError(
        f"'{folder}' has subfolders with images",
        expected="images directly in it",
        received=counted(inside, direct),
        fix=("" if are_links(inside) else "pass `subfolders=True` to read all of them as one folder, or ")
        + "name the folder that holds the images",
    )
