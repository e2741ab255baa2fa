"""A camera that may be gone for a while: opened again after pauses that grow."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from kdx.errors import KdxError
from kdx.station.camera.frames import Camera

# How long a camera that is gone is left alone: twice as long each time.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0


class HeldCamera:
    """A camera that is open, or gone until :meth:`open_again` succeeds.

    Args:
        camera: The camera, which is open.
        opening: Opens it again.

    Attributes:
        gone: Why it does not answer; None while it is open.
        pause: How many seconds it is left alone since it was lost, or could not be opened again.
    """

    def __init__(self, camera: Camera, opening: Callable[[], Camera]) -> None:
        self._camera: Camera | None = camera
        self._opening = opening
        self._next_pause, self._again = FIRST_PAUSE, 0.0
        self.gone: KdxError | None = None
        self.pause = 0.0

    @property
    def camera(self) -> Camera:
        """The camera while it is open."""
        assert self._camera is not None
        return self._camera

    @property
    def is_due(self) -> bool:
        """Whether it is gone, and the pause is over after which it is opened again."""
        return self.gone is not None and time.monotonic() >= self._again

    def lose(self, error: KdxError) -> None:
        """Close a camera that does not answer any more, and begin a pause."""
        if self._camera is not None:
            with contextlib.suppress(Exception):  # of a driver that has just failed
                self._camera.close()
            self._camera = None
        self.gone = error
        self.pause, self._next_pause = self._next_pause, min(2 * self._next_pause, LONGEST_PAUSE)
        self._again = time.monotonic() + self.pause

    def open_again(self) -> bool:
        """Try to open a camera that is gone; return whether it is open. If not, a pause begins."""
        try:
            self._camera = self._opening()
        except KdxError as error:
            self.lose(error)
            return False
        self.gone = None
        return True

    def note_frame(self) -> None:
        """Take notice that a frame came: the next pause is the shortest one."""
        self._next_pause = FIRST_PAUSE

    def close(self) -> None:
        """Let another program have the camera."""
        if self._camera is not None:
            self._camera.close()
