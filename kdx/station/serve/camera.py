"""The camera of a server: a request is a trigger, and is answered with the verdict on its frame."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from kdx.errors import KdxError
from kdx.station.camera.address import CameraAddress
from kdx.station.camera.frames import Camera, CameraGoneError, Frame, FrameError, FrameInfo, VideoEndError, encoded
from kdx.station.camera.held import HeldCamera
from kdx.station.record import NotJudged, time_now
from kdx.station.serve.fault_log import log_fault


class Shot(NamedTuple):
    """What came of a trigger.

    Attributes:
        info: The camera, the number of the frame and its time, and why it cannot be judged.
        data: The frame as PNG; empty if there is none.
        error: Why it cannot be judged, or None.
    """

    info: FrameInfo
    data: bytes = b""
    error: KdxError | None = None


class TriggeredCamera:
    """A camera that takes a frame when it is asked, in a thread of its own.

    A camera that is gone is opened again by a later trigger, or by :meth:`try_again`, after pauses
    that grow.

    Args:
        address: The camera.
        opening: Opens it.
        seconds: The time from a trigger to its frame; one that comes later may show another part.

    Attributes:
        name: The name of the camera.
        size: Width and height of its frames, or None.
        progress: Grows whenever its thread has done something.

    Raises:
        KdxError: It cannot be opened.
    """

    def __init__(self, address: CameraAddress, opening: Callable[[], Camera], seconds: float) -> None:
        self.name, self._seconds = address.name, seconds
        camera = opening()
        self.size = camera.size
        self._held = HeldCamera(camera, opening)
        self._ended: FrameError | None = None
        self._ping: Future[None] | None = None
        self.progress = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kdx serve camera")

    def take(self) -> Future[Shot]:
        """Take a frame; what is wrong with it is in the result."""
        return self._thread.submit(self._take, time.monotonic())

    @property
    def problem(self) -> KdxError | None:
        """Why it takes no frames: the camera is gone, or the video has ended; None if it does."""
        return self._held.gone or self._ended

    @property
    def is_working(self) -> bool:
        """Whether it takes frames."""
        return self.problem is None

    def ping(self) -> None:
        """See whether the camera is still there; or open it again, where that is due."""
        if self._ping is None or self._ping.done():
            self._ping = self._thread.submit(self._look)

    try_again = ping

    def close(self) -> None:
        """Answer the triggers that wait, and close the camera."""
        self._thread.shutdown()
        self._held.close()

    def _take(self, came: float) -> Shot:
        late = FrameError(
            f"no frame came within {self._seconds:g} s, and the part was not judged",
            fix="see whether the camera takes frames when it is asked, and send fewer triggers at once",
        )
        give_up = came + self._seconds
        if time.monotonic() >= give_up:
            return self._missed(late)
        frame: Frame | None = None

        def take() -> None:
            nonlocal frame
            left = give_up - time.monotonic()
            if left > 0:  # opening it may have taken seconds
                frame = self._held.camera.take(left)

        problem = self._attempt(take)
        if problem is not None:
            return self._missed(problem)
        if frame is None:
            return self._missed(late)
        self._held.note_frame()
        if frame.problem is not None or frame.pixels is None:
            info = self._info(frame.number, NotJudged.INCOMPLETE_FRAME)
            return Shot(info, error=FrameError(f"the frame is not whole: {frame.problem}"))
        info = self._info(frame.number)
        return Shot(info, encoded(info, frame.pixels, compress=False))

    def _look(self) -> None:
        if self._ended is None:
            self._attempt(lambda: self._held.camera.look())

    def _attempt(self, work: Callable[[], None]) -> KdxError | None:
        """Do something with the camera, opened again where that is due; return what is wrong."""
        try:
            if self._held.is_due:
                self._held.open_again()
            if self._held.gone is None:
                work()
        except VideoEndError:
            self._ended = FrameError("the video has no more frames", fix="start kdx serve again")
        except KdxError as error:
            self._held.lose(error)
        except Exception as error:  # of the camera's driver: the part has a record all the same
            log_fault()
            text = f"unexpected {type(error).__name__}: {error}"
            self._held.lose(CameraGoneError(text, fix="see the log of kdx serve"))
        finally:
            self.progress += 1
        return self.problem

    def _missed(self, error: KdxError) -> Shot:
        return Shot(self._info(None, NotJudged.MISSED_TRIGGER), error=error)

    def _info(self, number: int | None, reason: NotJudged | None = None) -> FrameInfo:
        return FrameInfo(camera=self.name, frame=number, time=time_now(), reason=reason)
