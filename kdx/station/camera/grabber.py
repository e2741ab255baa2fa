"""The thread that takes frames from a camera and puts each of them into the spool.

Frames that the camera counted and that did not come, incomplete ones, and those for which there was
no room are put in too, without an image: each gets a record that says why it was not judged.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from kdx.errors import KdxError
from kdx.station.camera.frames import Camera, Frame, FrameInfo, VideoEndError
from kdx.station.camera.held import HeldCamera
from kdx.station.camera.owed import Owed
from kdx.station.camera.spool import Spool
from kdx.station.record import NotJudged, time_now
from kdx.text import number_of

_AGAIN_SECONDS = 2.0
_PATIENCE_SECONDS = 0.5
# A camera that leaves out more numbers than this has begun to count again: nothing says how many
# frames are missing.
MOST_MISSING = 1000


class Grabber(threading.Thread):
    """Takes frames until the video ends, or until :meth:`end`.

    Args:
        camera: The camera, which is open.
        reopen: Opens it again after it was gone.
        name: The name of the camera.
        spool: Where frames are put.
        say: Is given what users should know. It is called in this thread.
        is_live: Whether frames come whether or not there is room; otherwise the camera waits.
    """

    def __init__(
        self,
        camera: Camera,
        reopen: Callable[[], Camera],
        name: str,
        spool: Spool,
        say: Callable[[str], None],
        *,
        is_live: bool,
    ) -> None:
        super().__init__(name=f"kdx camera {name}", daemon=True)
        self._held = HeldCamera(camera, reopen)
        self._named, self._spool, self._say, self._is_live = name, spool, say, is_live
        self._stopping = spool.is_over
        self._previous: int | None = None
        self._owed = Owed(spool, say, "the disk is full: no frame can be judged until there is room")
        self._dropped = 0

    def end(self, seconds: float) -> None:
        """Take no more frames, and wait for a camera that is being read."""
        self._stopping.set()
        self.join(seconds)

    def run(self) -> None:
        """Take frames; the spool is told when there are no more, and why."""
        failure: Exception | None = None
        try:
            self._grab_all()
            self._settle()
        except Exception as error:  # the station's own thread raises it
            failure = error
        try:
            if self._is_live and (count := self._owed.without_file):
                self._say(f"{number_of(count, '[frame has|frames have]')} no record: the disk is full")
            self._held.close()
        except Exception as error:  # of the camera's driver
            failure = failure or error
        finally:
            self._spool.end(failure)

    def _grab_all(self) -> None:
        while not self._stopping.is_set():
            self._settle()  # what a full disk did not take, also while no frame comes
            if self._held.gone is not None:
                self._stopping.wait(self._held.pause)
                if not self._stopping.is_set() and self._held.open_again():
                    self._spool.is_gone = False
                    self._say(f"the camera '{self._named}' is back")
                continue
            try:
                frame = self._held.camera.grab()
            except VideoEndError:
                if not self._is_live:
                    self._say(f"the video '{self._named}' has ended: no more frames come")
                break
            except KdxError as error:
                self._held.lose(error)
                self._previous = None
                self._spool.is_gone = True
                self._say(f"{error.message}: no frames are judged until it is back")
                self._owe(None, None, NotJudged.CAMERA_GONE, error.message)
                self._settle()
                continue
            if frame is not None:
                self._held.note_frame()
                self._take(frame)

    def _take(self, frame: Frame) -> None:
        """Put a frame into the spool, and what is missing before it."""
        previous, self._previous = self._previous, frame.number
        if previous is not None:
            self._note_missing(previous, frame.number)
        if not self._is_live:
            while not self._spool.has_room(_PATIENCE_SECONDS):
                if self._stopping.is_set():
                    return
        elif not self._spool.has_room(0.0):
            self._dropped += 1
            if self._dropped == 1:
                self._say("frames come faster than they are judged: those for which there is no room are undecided")
            self._owe(frame.number, None, NotJudged.NO_ROOM, "frames came faster than they were judged")
            self._settle()
            return
        elif self._dropped:
            count = number_of(self._dropped, "[frame was|frames were]")
            self._say(f"there is room for frames again: {count} not judged")
            self._dropped = 0
        reason = None if frame.problem is None else NotJudged.INCOMPLETE_FRAME
        self._owe(frame.number, frame.pixels, reason, frame.problem or "")
        self._settle()

    def _note_missing(self, previous: int, number: int) -> None:
        """Owe a record for each number that the camera left out."""
        missing = range(previous + 1, number)
        if number <= previous or len(missing) > MOST_MISSING:
            self._say(
                f"the camera '{self._named}' counts from {number:,} after {previous:,}: "
                "whether frames are missing is not known"
            )
            self._owe(None, None, NotJudged.LOST_FRAME, f"the camera counted from {number:,} after {previous:,}")
            return
        for each in missing:
            self._owe(each, None, NotJudged.LOST_FRAME, "the camera counted it, and it did not arrive")

    def _owe(self, number: int | None, pixels: NDArray[Any] | None, reason: NotJudged | None, problem: str) -> None:
        info = FrameInfo(camera=self._named, frame=number, time=time_now(), reason=reason, problem=problem)
        self._owed.add(stem_of(info, is_live=self._is_live), info, pixels)

    def _settle(self) -> None:
        """Put what is owed into the spool, as far as the disk takes it."""
        while not self._owed.settle():
            if self._is_live:
                self._owed.shrink()
                return
            if self._stopping.wait(_AGAIN_SECONDS):
                return


def stem_of(info: FrameInfo, *, is_live: bool) -> str:
    """Return the name of a frame's file without a suffix, which sorts after those before it.

    A video's frames always have the same names: where a call continues is seen by them.
    """
    stamp = f"-{info.time[:23].replace('-', '').replace(':', '')}Z" if is_live else ""
    return f"{info.camera}{stamp}-{'none' if info.frame is None else f'{info.frame:08d}'}"
