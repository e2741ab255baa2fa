"""What is wrong with a station's surroundings: said once, waited out where time may help."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from kdx.errors import DataError, KdxError, OutputError
from kdx.station.options import WatchOptions
from kdx.storage.files import is_disk_full
from kdx.text import number_of

# After how many seconds a full disk, or a folder that is gone, is tried again; and how often, where
# nobody waits for what arrives later.
_AGAIN_SECONDS, _MOST_TRIES_ONCE = 2.0, 30
_STEP_SECONDS = 0.1


class Troubles:
    """The troubles of a station.

    Args:
        options: What the station is asked for.
        say: Is given what users should know.
        left: Returns how many files are not judged.
        is_stopping: Whether the station is to stop.
    """

    def __init__(
        self,
        options: WatchOptions,
        say: Callable[[str], None],
        left: Callable[[], int],
        is_stopping: Callable[[], bool],
    ) -> None:
        self._options, self._say, self._left, self._is_stopping = options, say, left, is_stopping
        self._said: dict[str, str | None] = {}
        self._tries = 0

    def change(self, kind: str, trouble: str | None, otherwise: str = "") -> None:
        """Say a trouble once, and once that it is over.

        Args:
            kind: What it is about.
            trouble: What is wrong; None if nothing is.
            otherwise: What is said when it is over.
        """
        before = self._said.get(kind)
        self._said[kind] = trouble
        if trouble is not None and before is None:
            self._say(trouble)
        elif trouble is None and before is not None:
            self._say(otherwise)

    def reset(self) -> None:
        """Take notice that a step worked."""
        self._tries = 0

    def wait_out(self, error: OSError) -> None:
        """Wait for a moment where time may help: a full disk, a folder that is gone.

        Raises:
            OSError: Nothing of that is the case.
            KdxError: As for :meth:`wait`.
        """
        folder, out = self._options.folder, self._options.out
        if is_disk_full(error):
            full = f"the disk of '{out}' is full"
            self.change("disk", f"{full}: files wait where they are")
            self.wait(lambda: OutputError(f"{full}: {self._unjudged()}", fix="make room, and run the command again"))
        elif os.path.isdir(folder):  # noqa: PTH112  # False where it cannot be looked at
            raise error
        else:
            gone = f"'{folder}' is gone: {error.strerror or error}"
            self.change("folder", gone)
            self.wait(lambda: DataError(f"{gone}; what is in it was not judged"))

    def wait(self, problem: Callable[[], KdxError]) -> None:
        """Wait before something is tried again.

        Raises:
            KdxError: ``problem``, where it was tried for a minute and nobody waits for what arrives
                later.
        """
        self._tries += 1
        if self._options.once and self._tries > _MOST_TRIES_ONCE:
            raise problem()
        for _ in range(round(_AGAIN_SECONDS / _STEP_SECONDS)):
            if not self._is_stopping():
                time.sleep(_STEP_SECONDS)

    def _unjudged(self) -> str:
        folder = self._options.folder
        return number_of(self._left(), f"[file in '{folder}' is|files in '{folder}' are] not judged")
