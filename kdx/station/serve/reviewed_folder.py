"""The images of which an operator said what they show, as a data set in the layout of MVTec AD.

Parts come here because of their score, and a file says so beside them: see
:mod:`kdx.folders.chosen_by_score`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from kdx.folders.chosen_by_score import CHOSEN_BY_SCORE
from kdx.storage.files import write_atomic

Said = Literal["good", "defective"]
_EACH: tuple[Said, ...] = ("good", "defective")
_WARNING = """The images in test/ were chosen by their score: kdx did not let these parts pass.

Use them to measure: kdx report BUNDLE FOLDER, kdx evaluate BUNDLE FOLDER, and
kdx calibrate BUNDLE DATA --with-defects FOLDER/test/defective.
kdx refuses them as good images for a threshold or a training: their good parts are those with the
highest scores. Keep this file beside them.
"""


def add_image(folder: Path, image: Path, said: Said) -> None:
    """Put an image where it belongs in the data set of a bundle; the image itself stays.

    Raises:
        OSError: A file cannot be written.
    """
    target = _place(folder, image, said)
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / CHOSEN_BY_SCORE, _WARNING.encode())
        _link(image, target)


def keep_image(folder: Path, image: Path, said: Said | None) -> None:
    """Remove an image from the data set wherever it does not belong.

    Args:
        folder: The data set.
        image: The image, which stays.
        said: What it shows; None for an image that does not belong to the data set.

    Raises:
        OSError: A file cannot be removed.
    """
    for each in _EACH:
        if each != said:
            _place(folder, image, each).unlink(missing_ok=True)


def match_images(folder: Path, said: Mapping[Path, Said | None]) -> None:
    """Make the data set agree with what was said of each image; other files stay as they are.

    Raises:
        OSError: A file cannot be written or removed.
    """
    present = {each: {file.name for file in (folder / "test" / each).glob("*")} for each in _EACH}
    for image, shown in said.items():
        if {each for each in _EACH if image.name in present[each]} != {shown} - {None}:
            if shown is not None and image.exists():
                add_image(folder, image, shown)
            keep_image(folder, image, shown)


def _place(folder: Path, image: Path, said: Said) -> Path:
    return folder / "test" / said / image.name


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            target.unlink()
        write_atomic(target, source.read_bytes())
