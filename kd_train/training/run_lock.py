"""The lock of a run folder: one process at a time trains in it.

It is a lock of the system on the folder of golden images, which stays in place as long as the run
does; ``kdx.storage.files`` locks the run folder itself for moments. It ends with the process,
however that ends, and leaves no file behind. Where there are no locks (Windows, some network
drives), nothing is locked.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

from kdx.errors import OutputError
from kdx.storage.locks import lock, open_to_lock

GOLDEN = "golden"


class RunLock(ExitStack):
    """A context manager that releases on leaving what it locked."""

    def __init__(self) -> None:
        super().__init__()
        self._held: set[tuple[int, int]] = set()

    def take(self, folder: Path, named: Path | None = None) -> None:
        """Lock a run folder; do nothing where there is no run, or if it is locked here already.

        Args:
            folder: The run folder.
            named: What the message calls it; None for ``folder``.

        Raises:
            OutputError: Another process trains in the folder.
        """
        handle = open_to_lock(folder / GOLDEN)
        if handle is None:
            return
        found = os.fstat(handle)
        if (found.st_dev, found.st_ino) in self._held:
            os.close(handle)
            return
        try:
            lock(handle)
        except BlockingIOError as error:
            os.close(handle)
            raise OutputError(
                f"another process trains in '{named or folder}'",
                fix="wait until it ends, or use another run folder",
            ) from error
        self.callback(os.close, handle)
        self._held.add((found.st_dev, found.st_ino))
