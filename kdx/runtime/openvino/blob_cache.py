"""Compiled models on disk, so that the next start need not compile: only whole ones, and only for their own key.

OpenVINO's own ``CACHE_DIR`` finds a model by a hash of its content and writes it in place: two processes that start
together can meet a half-written file, and a blob with damaged weights is run as it is (4 kB of zeros in the middle
moved a score by 1 %, and nothing said so). Here a blob is written in one step and carries its own SHA-256.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from kdx.errors import KdxError
from kdx.storage.files import tidy, write_atomic

_SUFFIX = ".blob"
_DIGEST_BYTES = 32
# Enough for some ten bundles at a few batch sizes; the least recently used go first.
_MOST_BYTES = 1 << 30


class BlobCache:
    """A folder of compiled models. Whatever goes wrong with it costs time, never an answer.

    Args:
        folder: Made when the first blob is written; None keeps nothing.
        private: Let nobody else read or write what is kept.
    """

    def __init__(self, folder: Path | None, *, private: bool = False) -> None:
        self.folder = folder
        self._private = private

    def read(self, *key: object) -> bytes | None:
        """Return a blob, or None where there is none that is whole."""
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
            os.utime(path)  # used now
        return blob

    def write(self, blob: bytes, *key: object) -> None:
        """Keep a blob; where the folder cannot be written, do nothing."""
        path = self._path(key)
        if path is None or self.folder is None:
            return
        with contextlib.suppress(OSError, KdxError):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            tidy(path)
            write_atomic(path, hashlib.sha256(blob).digest(), blob, private=self._private)
            self._make_room(path)

    def _path(self, key: tuple[object, ...]) -> Path | None:
        name = hashlib.sha256("\n".join(map(str, key)).encode()).hexdigest()
        return self.folder / f"{name[:40]}{_SUFFIX}" if self.folder else None

    def _make_room(self, newest: Path) -> None:
        assert self.folder is not None
        found = sorted(
            ((file.stat().st_mtime, file.stat().st_size, file) for file in self.folder.glob(f"*{_SUFFIX}")),
            reverse=True,
        )
        total = 0
        for _, size, file in found:
            total += size
            if total > _MOST_BYTES and file != newest:
                file.unlink(missing_ok=True)
