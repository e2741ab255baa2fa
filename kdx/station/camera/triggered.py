"""The thread that takes one frame for each trigger, and puts it into the spool."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
from numpy.typing import NDArray

from kdx.errors import KdxError
from kdx.station.camera.frames import Camera, Frame, VideoEndError
from kdx.station.camera.held import HeldCamera
from kdx.station.camera.owed import Owed
from kdx.station.camera.spool import Spool
from kdx.station.camera.triggers import Trigger, Triggers
from kdx.station.record import NotJudged, time_now
from kdx.storage.files import is_disk_full
from kdx.text import number_of

_PATIENCE_SECONDS = 0.5


class TriggeredGrabber(threading.Thread):
    """Takes a frame for each trigger until the video ends, or until :meth:`end`.

    A trigger whose frame does not come in time has a record that says so, and never the frame of
    another one.

    Args:
        camera: The camera, which is open.
        reopen: Opens it again after it was gone.
        triggers: What asks for frames.
        seconds: The time within which a trigger must have its frame.
        spool: Where frames are put.
        say: Is given what users should know. It is called in this thread.
    """

    def __init__(
        self,
        camera: Camera,
        reopen: Callable[[], Camera],
        triggers: Triggers,
        seconds: float,
        spool: Spool,
        say: Callable[[str], None],
    ) -> None:
        super().__init__(name="kdx camera", daemon=True)
        self._held = HeldCamera(camera, reopen)
        self._triggers, self._seconds, self._spool, self._say = triggers, seconds, spool, say
        self._owed = Owed(spool, say, "the disk is full: triggers are undecided until there is room")
        self._ended = ""
        self._is_end_new = False

    def end(self, seconds: float) -> None:
        """Take no more frames, and wait for a camera that is being read."""
        self._spool.is_over.set()
        self.join(seconds)

    def run(self) -> None:
        """Take frames; the spool is told when there are no more, and why."""
        failure: Exception | None = None
        try:
            while not self._spool.is_over.is_set():
                if self._held.is_due and self._held.open_again():
                    self._spool.is_gone = False
                    self._say("the camera is back")
                trigger = self._triggers.next(0.0 if self._is_end_new else _PATIENCE_SECONDS)
                if trigger is not None:
                    self._answer(trigger)
                elif self._is_end_new:  # after the triggers that waited; later ones have records too
                    self._is_end_new = False
                    self._spool.end()
                else:
                    self._settle()
                    self._look()
            self._settle()
        except Exception as error:  # the station's own thread raises it
            failure = error
        try:
            if count := self._owed.without_file:
                self._say(f"{number_of(count, '[trigger has|triggers have]')} no record: the disk is full")
            self._held.close()
        except Exception as error:  # of the camera's driver
            failure = failure or error
        finally:
            self._spool.end(failure)

    def _answer(self, trigger: Trigger) -> None:
        """Take the frame of a trigger, or say why there is none."""
        left = self._seconds - (time.monotonic() - trigger.came)
        late = f"no frame came within {self._seconds:g} s"
        gone = "" if self._held.gone is None else self._held.gone.message
        problem = trigger.problem or ("" if left > 0 else late) or self._ended or gone
        if problem:
            self._fulfil(trigger, None, NotJudged.MISSED_TRIGGER, problem)
            return
        if not self._spool.has_room(0.0):
            self._fulfil(trigger, None, NotJudged.NO_ROOM, "frames came faster than they were judged")
            return
        frame: Frame | None = None
        try:
            frame = self._held.camera.take(left)
        except VideoEndError:
            self._ended, self._is_end_new = "the video has no more frames", True
            self._spool.is_gone = True
            self._say("the video has ended: triggers are undecided from now on")
            late = self._ended
        except KdxError as error:
            self._lose(error)
            late = error.message
        if frame is None:
            self._fulfil(trigger, None, NotJudged.MISSED_TRIGGER, late)
            return
        self._held.note_frame()
        reason = None if frame.problem is None else NotJudged.INCOMPLETE_FRAME
        trigger.info = msgspec.structs.replace(trigger.info, time=time_now())
        self._fulfil(trigger, frame.pixels, reason, frame.problem or "", frame.number)

    def _look(self) -> None:
        """Notice between two triggers that the camera is gone: the next part would be undecided."""
        if self._held.gone is None:
            try:
                self._held.camera.look()
            except KdxError as error:
                self._lose(error)

    def _lose(self, error: KdxError) -> None:
        """Close a camera that does not answer any more."""
        self._held.lose(error)
        self._spool.is_gone = True
        self._say(f"{error.message}: triggers are undecided until it is back")

    def _fulfil(
        self,
        trigger: Trigger,
        pixels: NDArray[Any] | None,
        reason: NotJudged | None,
        problem: str,
        number: int | None = None,
    ) -> None:
        info = msgspec.structs.replace(trigger.info, frame=number, reason=reason, problem=problem)
        promised = None
        try:
            promised = trigger.place.result()
        except OSError as error:
            if not is_disk_full(error):
                raise
        self._owed.add(trigger.stem, info, pixels, promised)
        self._settle()

    def _settle(self) -> None:
        """Put what is owed into the spool; while the disk is full, it waits without its image."""
        if not self._owed.settle():
            self._owed.shrink()
