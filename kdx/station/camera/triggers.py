"""Triggers: each asks for one frame, and gets exactly one record."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, Queue

from kdx.station.camera.frames import FrameInfo
from kdx.station.camera.spool import Spool
from kdx.station.record import NotJudged, time_now

_NOTHING = "its frame did not come, or could not be kept"
# So many triggers wait for their frames; of further ones, one record stands for several.
MOST_WAITING = 10_000


class Trigger:
    """A trigger that came just now.

    Args:
        info: What is known of its frame.
        problem: Why no frame can be taken for it, or an empty text.

    Attributes:
        came: When it came, by a clock that does not jump.
        stem: The name under which its place was asked for.
        place: The name of its place in the spool, or the ``OSError`` for which it has none.
    """

    stem: str
    place: Future[str]

    def __init__(self, info: FrameInfo, problem: str = "") -> None:
        self.came = time.monotonic()
        self.info, self.problem = info, problem


class Triggers:
    """The triggers that wait. Each gets a file in the spool, which another thread writes at once.

    So it gets a record even if the process is killed before its frame comes, and no frame waits for
    the disk.

    Args:
        spool: The spool.
        camera: The name of the camera.
    """

    def __init__(self, spool: Spool, camera: str) -> None:
        self._spool, self._camera = spool, camera
        self._waiting: Queue[Trigger] = Queue(MOST_WAITING)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="kdx triggers")
        self._count = self._refused = 0
        self._lock = threading.Lock()

    def add(self, part_id: str | None = None, product: str | None = None, problem: str = "") -> bool:
        """Add a trigger that came just now.

        Args:
            part_id: The part that its frame shows, or None.
            product: The product by which the bundle is chosen, or None.
            problem: Why no frame can be taken for it.

        Returns:
            Whether it has a record of its own: False if too many triggers wait.
        """
        trigger = Trigger(self._info(part_id, product, problem), problem)
        with self._lock:
            if self._waiting.full():
                self._refused += 1
                return False
            self._promise(trigger)
            self._waiting.put_nowait(trigger)
            return True

    def next(self, patience: float) -> Trigger | None:
        """Return the next trigger; None if there is none within so many seconds."""
        with contextlib.suppress(Empty):
            return self._waiting.get(timeout=max(patience, 0.0))
        return self._refusals()

    def close(self) -> None:
        """Wait until every trigger has its file. No more may be added."""
        self._refusals()
        self._writer.shutdown()

    def _refusals(self) -> Trigger | None:
        """Return what stands for the triggers that found no room, if there were any."""
        with self._lock:
            if not self._refused:
                return None
            problem = f"more than {MOST_WAITING:,} triggers waited: this record stands for {self._refused:,}"
            self._refused = 0
            trigger = Trigger(self._info(None, None, problem), problem)
            self._promise(trigger)
            return trigger

    def _info(self, part_id: str | None, product: str | None, problem: str) -> FrameInfo:
        return FrameInfo(
            camera=self._camera,
            frame=None,
            time=time_now(),
            reason=NotJudged.MISSED_TRIGGER,
            problem=problem or _NOTHING,
            part_id=part_id,
            product=product,
        )

    def _promise(self, trigger: Trigger) -> None:
        self._count += 1
        stamp = f"{trigger.info.time[:23].replace('-', '').replace(':', '')}Z"
        trigger.stem = f"{self._camera}-{stamp}-t{self._count:08d}"
        trigger.place = self._writer.submit(self._spool.promise, trigger.stem, trigger.info)
