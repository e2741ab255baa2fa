"""The images of a run, found in its data folder by their content."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path

from kd_train.training.run_folder import Run
from kdx.errors import DataError, ImageError
from kdx.imaging.image_identity import Likeness, identify
from kdx.remarks import shorten
from kdx.storage.files import sha256_if_readable
from kdx.text import number_of


class MissingImagesWarning(UserWarning):
    """Some of the good images that were held out of training are missing."""


def training_files(run: Run, data: Path | None = None, most: int = 64) -> list[Path]:
    """Return some of the training images, evenly spread and recognised by their content.

    Args:
        run: The run.
        data: The data folder now; None for its place at training.
        most: The maximum number of images.

    Raises:
        DataError: The folder does not exist, or contains none of the images.
    """
    folder = run.config.open_data(data, "calibration_data")
    trained = run.config.known_images()
    good = sorted(folder.good)
    step = max(1, len(good) // (2 * most))
    # Every n-th image first, then the images between them, until there are enough.
    ordered = [path for start in range(step) for path in good[start::step]]
    found: list[Path] = []
    for path in ordered:
        if len(found) == most:
            break
        with contextlib.suppress(ImageError):  # others stand for one that cannot be read
            if trained.likeness(identify(path)) is Likeness.SAME:
                found.append(path)
    if not found:
        raise DataError(
            f"'{data or run.config.data}' contains none of the training images",
            fix="name the folder of the training data: `calibration_data`",
        )
    return found


def held_out_files(run: Run, data: Path | None = None) -> list[Path]:
    """Return the good images that were held out of training, recognised by their content.

    Warns with :class:`MissingImagesWarning` if some of them are missing.

    Args:
        run: The run.
        data: The data folder now; None for its place at training.

    Raises:
        DataError: The folder does not exist or contains none of the images, or no images were
            held out.
    """
    wanted = set(run.config.validation_images.values())
    if not wanted:
        raise DataError("training held out no good images", fix="train again: kdx train DATA --validation-fraction 0.2")
    where = data or Path(run.config.data)
    folder = run.config.open_data(data, "calibration_data")
    files = [(sha256_if_readable(path), path) for path in sorted(folder.good)]
    found = dict(files)
    unread = [str(path) for digest, path in files if digest is None]
    also = f"{number_of(len(unread), 'good [image|images]')} cannot be read: {shorten(unread)}" if unread else ""
    held_out = [path for digest, path in found.items() if digest in wanted]
    if not held_out:
        raise DataError(
            f"'{where}' contains none of the {len(wanted)} good images that were held out",
            received=also,
            fix="name the folder of the training data: `calibration_data`",
        )
    missing = [name for name, digest in run.config.validation_images.items() if digest not in found]
    if missing:
        count = number_of(len(missing), "[image|images]")
        said = f"'{where}' does not contain {count} of {len(wanted)} that were held out: {shorten(missing)}"
        warnings.warn(f"{said}; {also}" if also else said, MissingImagesWarning, stacklevel=2)
    return held_out
