"""Triggers: each asks for one frame, and gets exactly one record."""

from __future__ import annotations

import time
from queue import Empty, SimpleQueue

from kdx.station.camera.frames import FrameInfo
from kdx.station.camera.spool import Spool
from kdx.station.record import NotJudged, time_now

_NOTHING = "its frame did not come, or could not be kept"


class Trigger:
    """A trigger that came, and has a place in the spool.

    Args:
        stem: The name of its place.
        info: What is known of its frame.
        problem: Why no frame can be taken for it, or an empty text.
    """

    def __init__(self, stem: str, info: FrameInfo, problem: str = "") -> None:
        self.stem, self.info, self.problem = stem, info, problem
        self.came = time.monotonic()


class Triggers:
    """The triggers that wait. A trigger has a file in the spool before anything else is done.

    So it gets a record even if the process is killed before its frame comes.

    Args:
        spool: The spool.
        camera: The name of the camera.
    """

    def __init__(self, spool: Spool, camera: str) -> None:
        self._spool, self._camera = spool, camera
        self._waiting: SimpleQueue[Trigger] = SimpleQueue()
        self._count = 0

    def add(self, part_id: str | None = None, product: str | None = None, problem: str = "") -> None:
        """Add a trigger that came just now.

        Args:
            part_id: The part that its frame shows, or None.
            product: The product by which the bundle is chosen, or None.
            problem: Why no frame can be taken for it.

        Raises:
            OSError: Its place cannot be written.
        """
        self._count += 1
        now = time_now()
        info = FrameInfo(
            camera=self._camera,
            frame=None,
            time=now,
            reason=NotJudged.MISSED_TRIGGER,
            problem=problem or _NOTHING,
            part_id=part_id,
            product=product,
        )
        stamp = f"{now[:23].replace('-', '').replace(':', '')}Z"
        stem = self._spool.promise(f"{self._camera}-{stamp}-t{self._count:08d}", info)
        self._waiting.put(Trigger(stem, info, problem))

    def next(self, patience: float) -> Trigger | None:
        """Return the next trigger; None if there is none within so many seconds."""
        try:
            return self._waiting.get(timeout=max(patience, 0.0))
        except Empty:
            return None
