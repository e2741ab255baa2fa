"""Compiled models on disk, so that the next start need not compile.

OpenVINO's own ``CACHE_DIR`` identifies a model by a hash of its content and writes it in place. Two
processes that start together can read a file that is partly written, and a model with damaged
weights runs without an error (4 kB of zeros in the middle changed a score by 1 %). Here a file is
written in one step, and contains its own SHA-256.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from kdx.errors import KdxError
from kdx.storage.cache import warn_not_kept
from kdx.storage.files import remove_leftovers, write_atomic

_SUFFIX = ".blob"
_DIGEST_BYTES = 32
# Enough for about ten bundles at a few batch sizes; the least recently used files are deleted
# first.
_MOST_BYTES = 1 << 30


class BlobCache:
    """A folder of compiled models. A failure of the cache costs time, and never changes a result.

    Args:
        folder: The folder, which is created with the first file; None keeps nothing.
        private: Whether other users must not read or write the files.
    """

    def __init__(self, folder: Path | None, *, private: bool = False) -> None:
        self.folder = folder
        self._private = private

    def read(self, *key: object) -> bytes | None:
        """Return a compiled model, or None if there is no complete one."""
        path = self._path(key)
        if path is None:
            return None
        try:
            with path.open("rb") as file:
                digest, blob = file.read(_DIGEST_BYTES), file.read()
        except OSError:
            return None
        if hashlib.sha256(blob).digest() != digest:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # mark it as used
        return blob

    def write(self, blob: bytes, *key: object) -> None:
        """Store a compiled model; warn with ``RuntimeWarning`` if the folder cannot be written."""
        path = self._path(key)
        if path is None or self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            remove_leftovers(path)
            write_atomic(path, hashlib.sha256(blob).digest(), blob, private=self._private)
            self._make_room(path)
        except (OSError, KdxError) as error:
            warn_not_kept(self.folder, error)

    def _path(self, key: tuple[object, ...]) -> Path | None:
        name = hashlib.sha256("\n".join(map(str, key)).encode()).hexdigest()
        return self.folder / f"{name[:40]}{_SUFFIX}" if self.folder else None

    def _make_room(self, newest: Path) -> None:
        assert self.folder is not None
        files = sorted(
            ((file.stat().st_mtime, file.stat().st_size, file) for file in self.folder.glob(f"*{_SUFFIX}")),
            reverse=True,
        )
        total = 0
        for _, size, file in files:
            total += size
            if total > _MOST_BYTES and file != newest:
                file.unlink(missing_ok=True)
