"""Which file is being judged, so that the next process knows at which file the last one ended.

A file that ends the process, for example because a runtime crashes at it, would otherwise end every
process that continues, and no file after it would ever be judged.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from kdx.station.judged_files import Identity
from kdx.storage.json_records import UNREADABLE

FILE = "in_hand.json"
# After so many processes that ended at it, a file is not judged any more.
MOST_TRIES = 3


class _File(msgspec.Struct):
    name: bytes
    size: int
    mtime_ns: int
    tries: int


class InHand:
    """The file in hand. It is written without waiting for the disk, which outlives the process.

    Args:
        out: The output folder.
    """

    def __init__(self, out: Path) -> None:
        self._path = out / FILE
        self._left: _File | None = None
        self._has_begun = False
        with contextlib.suppress(OSError, *UNREADABLE):
            self._left = msgspec.json.decode(self._path.read_bytes(), type=_File)

    def begin(self, name: str, identity: Identity) -> bool:
        """Take a file in hand; return False if too many processes ended at it."""
        file = _File(os.fsencode(name), identity.size, identity.mtime_ns, tries=1)
        left = self._left
        if left is not None and (left.name, left.size, left.mtime_ns) == (file.name, file.size, file.mtime_ns):
            file.tries = left.tries + 1
        if file.tries > MOST_TRIES:
            return False
        self._has_begun = True
        with contextlib.suppress(OSError):  # a full disk, which is reported where a record cannot be written
            self._path.write_bytes(msgspec.json.encode(file))
        return True

    def close(self) -> None:
        """Put the file down: the process ends, and not because of it."""
        if self._has_begun:  # otherwise, the file is one at which an earlier process ended
            with contextlib.suppress(OSError):
                self._path.unlink()
