"""The figures of a shift on the disk, so that a server that is started again counts on."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import msgspec

from kdx.station.serve.live import KeptShift, Live
from kdx.storage.files import write_atomic
from kdx.storage.json_records import UNREADABLE

FILE = "shift.json"
# A kill loses what was counted since the file was written last.
_SECONDS = 1.0


def read_shift(folder: Path | None) -> KeptShift | None:
    """Return the shift of an earlier call; None where there is none that can be read."""
    if folder is None:
        return None
    with contextlib.suppress(OSError, *UNREADABLE):
        return msgspec.json.decode((folder / FILE).read_bytes(), type=KeptShift)
    return None


class ShiftKeeper:
    """Writes the figures of a shift once a second, if they changed, and when it is closed.

    Args:
        folder: The folder of the server.
        live: The figures.
    """

    def __init__(self, folder: Path, live: Live) -> None:
        self._file, self._live, self._written = folder / FILE, live, -1
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kdx serve shift", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write the last figures, and end the thread."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._closing.wait(_SECONDS)
            version = self._live.version
            if version != self._written:
                with contextlib.suppress(OSError):  # for example a full disk: the next second may have room
                    write_atomic(self._file, msgspec.json.encode(self._live.kept()))
                    self._written = version
