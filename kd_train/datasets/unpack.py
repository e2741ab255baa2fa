"""Images in videos, arrays or batches are unpacked once, into a cache folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kdx.errors import OutputError
from kdx.progress import SILENT, Progress
from kdx.storage.files import new_folder, sha256_bytes

CACHE_FOLDER = ".kdx-cache"


@dataclass(frozen=True)
class Unpacker:
    """Unpacks images into a cache folder.

    Attributes:
        cache: The cache folder; None for ``.kdx-cache`` beside the data, or the user's cache folder
            if that cannot be written.
        progress: The progress display.
    """

    cache: Path | None = None
    progress: Progress = SILENT

    def folder(self, home: Path, name: str, facts: object, fill: Callable[[Path], None]) -> Path:
        """Return the folder of unpacked images; unpack them first if it does not exist.

        The folder appears in one step, so an existing folder is complete.

        Args:
            home: The data set's own folder.
            name: The first part of the folder's name.
            facts: The files, sizes and dates of the source. If they change, images are unpacked
                again.
            fill: A function that writes the images into a given folder.

        Raises:
            OutputError: Neither place can be written.
        """
        name = f"{name}-{sha256_bytes(repr(facts).encode())[:16]}"
        places = [self.cache] if self.cache is not None else [home.resolve().parent / CACHE_FOLDER, user_cache()]
        for place in places:
            if (place / name).is_dir():
                return place / name
        target = _writable(places) / name
        with new_folder(target, force=True) as temporary:
            fill(temporary)
        return target


def user_cache() -> Path:
    """Return the user's cache folder for unpacked data sets."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "kdx" / "datasets"


def _writable(places: list[Path]) -> Path:
    reasons: list[str] = []
    for place in places:
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reasons.append(f"'{place}': {error.strerror or error}")
            continue
        if os.access(place, os.W_OK):
            return place
        reasons.append(f"'{place}': no write permission")
    raise OutputError(
        "the unpacked images cannot be written anywhere",
        expected="a folder that this user may write to",
        received="; ".join(reasons),
        fix="make one of these folders writable; the environment variable XDG_CACHE_HOME moves the user's cache",
    )
