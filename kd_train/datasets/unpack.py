"""Images that come inside videos, arrays or batches are unpacked once, into a cache folder, and found there again."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kdx.errors import OutputError
from kdx.progress import SILENT, Progress
from kdx.storage.files import new_folder, sha256_bytes

FOLDER = ".kdx-cache"


@dataclass(frozen=True)
class Unpacker:
    """Where unpacked images go, and who watches.

    Attributes:
        cache: The cache folder; None: ``.kdx-cache`` beside the data, or under the user's cache folder where nothing
            may be written there.
        progress: Shows how far it is.
    """

    cache: Path | None = None
    progress: Progress = SILENT

    def folder(self, home: Path, name: str, facts: object, fill: Callable[[Path], None]) -> Path:
        """Return the folder of unpacked images; fill it first where it is not there yet.

        It appears in one step, so one that is there is complete.

        Args:
            home: The data set's own folder.
            name: What is unpacked.
            facts: What it is unpacked from: another file, size or date, and it is unpacked anew.
            fill: Writes the images into a folder.

        Raises:
            OutputError: Neither place may be written to.
        """
        name = f"{name}-{sha256_bytes(repr(facts).encode())[:16]}"
        places = [self.cache] if self.cache is not None else [home.resolve().parent / FOLDER, user_cache()]
        for place in places:
            if (place / name).is_dir():
                return place / name
        target = _writable(places) / name
        with new_folder(target, force=True) as temporary:
            fill(temporary)
        return target


def user_cache() -> Path:
    """Return where this user's unpacked data sets go when nothing may be written beside the data."""
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
        reasons.append(f"'{place}': it may not be written to")
    raise OutputError(
        "there is no place for the unpacked images",
        expected="a folder that this user may write to",
        received="; ".join(reasons),
        fix="make one of these writable; the environment variable XDG_CACHE_HOME moves the user's",
    )
