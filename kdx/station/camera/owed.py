"""What is still to be put into the spool: it waits in memory while the disk is full."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
from numpy.typing import NDArray

from kdx.station.camera.frames import FrameInfo
from kdx.station.camera.spool import Spool
from kdx.station.record import NotJudged
from kdx.storage.files import is_disk_full

# So many records wait for room on a full disk; of further frames, one stands for several.
MOST_OWED = 1000


class _Owed(NamedTuple):
    """A frame or its record, since when it waits, and for how many frames it stands."""

    stem: str
    info: FrameInfo
    pixels: NDArray[Any] | None
    promised: str | None
    since: float
    frames: int = 1


class Owed:
    """Frames and records that are to be put into the spool, in order.

    Args:
        spool: The spool, which is told whether the disk is full.
        say: Is given ``full`` when the disk is full, once until it has taken all.
        full: What is said then.
    """

    def __init__(self, spool: Spool, say: Callable[[str], None], full: str) -> None:
        self._spool, self._say, self._full = spool, say, full
        self._waiting: deque[_Owed] = deque()

    @property
    def without_file(self) -> int:
        """How many frames have nothing on the disk that the next call would find."""
        return sum(owed.frames for owed in self._waiting if owed.promised is None)

    def add(self, stem: str, info: FrameInfo, pixels: NDArray[Any] | None, promised: str | None = None) -> None:
        """Add a frame; as for :meth:`Spool.put`, or for :meth:`Spool.fulfil` if it was promised."""
        self._waiting.append(_Owed(stem, info, pixels, promised, time.monotonic()))

    def settle(self) -> bool:
        """Put what waits into the spool; return whether the disk took all.

        Raises:
            OSError: It cannot be written for another reason than a full disk.
        """
        while self._waiting:
            owed = self._waiting[0]
            try:
                if owed.promised is None:
                    self._spool.put(owed.stem, owed.info, owed.pixels, owed.since)
                else:
                    self._spool.fulfil(owed.promised, owed.info, owed.pixels, owed.since)
            except OSError as error:
                if not is_disk_full(error):
                    raise
                if not self._spool.is_full:
                    self._spool.is_full = True
                    self._say(self._full)
                return False
            self._waiting.popleft()
        self._spool.is_full = False
        return True

    def shrink(self) -> None:
        """Bound the memory that is taken while the disk is full: no image is kept."""
        for index, owed in enumerate(self._waiting):
            if owed.pixels is not None:
                reason, problem = owed.info.reason or NotJudged.NO_ROOM, owed.info.problem or "the disk was full"
                info = msgspec.structs.replace(owed.info, reason=reason, problem=problem)
                self._waiting[index] = owed._replace(info=info, pixels=None)
        while len(self._waiting) > MOST_OWED:
            self._drop_one()

    def _drop_one(self) -> None:
        """Leave what was promised as it was written, or let one record stand for the last two."""
        for index in (-1, -2):
            if (promised := self._waiting[index].promised) is not None:
                self._spool.give_up(promised, self._waiting[index].since)
                del self._waiting[index]
                return
        last, before = self._waiting.pop(), self._waiting.pop()
        count = before.frames + last.frames
        info = msgspec.structs.replace(
            before.info,
            frame=None,
            part_id=None,
            product=None,
            reason=NotJudged.NO_ROOM,
            problem=f"the disk was full for so long that this record stands for {count:,} frames",
        )
        self._waiting.append(before._replace(info=info, frames=count))
