"""The names of the parts of the layout of MVTec AD: ``train``, ``test`` and ``ground_truth``."""

from __future__ import annotations

from pathlib import Path

from kdx.folders.image_search import folders

_PARTS = ("train", "test", "groundtruth")


def is_part(name: str) -> bool:
    """Whether a folder of this name is a part of the layout."""
    return bare(name) in _PARTS


def bare(name: str) -> str:
    """Return a folder's name without case and punctuation: ``Ground-Truth`` is ``groundtruth``."""
    return "".join(filter(str.isalnum, name.casefold()))


def masks_folder(root: Path) -> Path | None:
    """Return the folder of masks of a folder in the layout of MVTec AD; None if there is none."""
    by_name = {bare(folder.name): folder for folder in folders(root)}
    return by_name.get("groundtruth") if "train" in by_name or "test" in by_name else None
