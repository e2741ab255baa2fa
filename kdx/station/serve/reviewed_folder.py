"""The images of which an operator said what they show, as a data set in the layout of MVTec AD.

Parts come here because of their score, and a file says so beside them: see
:mod:`kdx.folders.chosen_by_score`.
"""

from __future__ import annotations

import contextlib
import os
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


def place_image(folder: Path, image: Path, said: Said | None) -> None:
    """Put an image where it belongs in the data set of a bundle, and remove it from elsewhere.

    Args:
        folder: The data set.
        image: The image, which stays.
        said: What it shows; None for an image that no longer belongs to the data set.

    Raises:
        OSError: A file cannot be written.
    """
    for each in _EACH:
        target = folder / "test" / each / image.name
        if each != said:
            target.unlink(missing_ok=True)
        elif not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(folder / CHOSEN_BY_SCORE, _WARNING.encode())
            _link(image, target)


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            target.unlink()
        write_atomic(target, source.read_bytes())
