"""V4L2 devices and network streams as cameras, by PyAV (the extra ``camera``).

FFmpeg hides damage: its decoders fill what is missing with something plausible. Here they are asked
to fail instead, and what is built on a damaged frame counts as damaged until the next key frame.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import av

from kdx.errors import DataError, ImageError
from kdx.imaging.video_pixels import pixels_of
from kdx.station.camera.address import CameraAddress
from kdx.station.camera.frames import CameraGoneError, Frame
from kdx.text import number_of

# After so many seconds without a frame, a camera is gone.
_OPEN_SECONDS, _READ_SECONDS = 10.0, 10.0
_STEP_SECONDS = 0.005
# No codec shows a frame later than after so many others.
_MOST_DELAY = 16


class VideoCamera:
    """A device or a stream that FFmpeg reads.

    Args:
        address: Which one.
        say: Is given what users should know.
        lose: Is given how many frames came before the first that could be decoded.

    Attributes:
        size: Width and height of its frames.

    Raises:
        DataError: It cannot be opened, or has no pictures.
    """

    def __init__(self, address: CameraAddress, say: Callable[[str], None], lose: Callable[[str], None]) -> None:
        self._address, self._say, self._lose = address, say, lose
        try:
            self._container = _opened(address)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise DataError(
                f"the camera '{address.text}' cannot be opened: {_reason(error, address)}",
                expected="a device or a stream that FFmpeg reads",
                fix=f"see what it says: ffprobe {address.text}",
            ) from None  # FFmpeg's error names the URL with its password
        if not self._container.streams.video:
            self._container.close()
            raise DataError(f"'{address.text}' has no pictures", received=f"{len(self._container.streams)} streams")
        self._stream = self._container.streams.video[0]
        # With threads for frames, a decoder reports an error at a later packet.
        self._stream.codec_context.thread_type = "SLICE"
        self._stream.codec_context.options = {"err_detect": "explode"}
        self._stream.codec_context.copy_opaque = True  # a frame says which packet it is from
        self._packets = self._container.demux(self._stream)
        self.size: tuple[int, int] | None = (self._stream.width, self._stream.height)
        self._frames = self._numbered()

    def grab(self) -> Frame | None:
        """Return the next frame; None for a packet before the first key frame.

        Raises:
            CameraGoneError: The device or stream ended, or sends nothing.
        """
        try:
            return next(self._frames)
        except StopIteration:
            raise CameraGoneError(f"the camera '{self._address.name}' sends no more frames") from None

    def take(self, seconds: float) -> Frame | None:
        """Return the next frame."""
        return self.grab()

    def look(self) -> None:
        """Do nothing: reading says whether the device or the stream is still there."""

    def close(self) -> None:
        """Close the device or the connection."""
        self._container.close()

    def _numbered(self) -> Iterator[Frame | None]:
        """Yield all frames from the first key frame on, also those that are damaged.

        A decoder reports the error of a packet before it gives out frames of earlier packets. So
        damage is compared by the packets' places: it ends at a key frame of a later packet.

        Raises:
            CameraGoneError: The device or stream fails.
        """
        bad = {-1}  # a stream is joined in the middle
        errors: dict[int, str] = {}  # those that still have no number, by place
        number = sent = leading = 0
        is_begun = is_said = False
        failure: CameraGoneError | None = None
        packets = self._decoded()
        while True:
            try:
                place, given = next(packets)
            except StopIteration:
                break
            except CameraGoneError as error:
                failure = error
                break
            frame = None if isinstance(given, str) else given
            at = place if frame is None or frame.opaque is None else frame.opaque
            sent = max(sent, at + 1)
            if isinstance(given, str):
                bad.add(at)
                errors[at] = given
            elif frame is not None and frame.is_corrupt:
                bad.add(at)
            elif frame is not None and frame.key_frame and at not in bad:
                bad = {each for each in bad if each > at}
            is_damaged = any(each <= at for each in bad)
            if not is_begun:
                if frame is None or is_damaged:
                    leading += frame is not None
                    if is_damaged and place and not is_said:
                        is_said = True
                        self._say(f"'{self._address.name}' has sent no key frame yet: frames before it are left out")
                    yield None
                    continue
                is_begun = True
                self._count_left_out(max(at, leading))
                errors = {each: reason for each, reason in errors.items() if each > at}
            # An error has its number before the frames of later packets, or when none comes.
            for each in [each for each in errors if (frame is not None and each < at) or place - each > _MOST_DELAY]:
                yield Frame(number, None, errors.pop(each))
                number += 1
            if frame is not None:
                errors.pop(at, None)  # the decoder gives it nevertheless
                yield _frame(number, frame, is_damaged=is_damaged)
                number += 1
        if not is_begun:
            self._count_left_out(sent)
        else:
            for reason in errors.values():
                yield Frame(number, None, reason)
                number += 1
        if failure is not None:
            raise failure

    def _count_left_out(self, count: int) -> None:
        if count:
            self._lose(f"{number_of(count, '[frame was|frames were]')} left out before the first key frame")

    def _decoded(self) -> Iterator[tuple[int, Any]]:
        """Yield the place of each packet with a frame, None, or why it cannot be decoded.

        Raises:
            CameraGoneError: The device or stream fails.
        """
        place = 0
        while (packet := self._next()) is not None:
            packet.opaque = place
            frames: list[Any] = []
            try:
                if packet.size and packet.is_corrupt:
                    raise av.InvalidDataError(0, "a part of it is missing")
                frames = packet.decode()
            except av.FFmpegError as error:
                yield place, f"it cannot be decoded: {_reason(error, self._address)}"
            else:
                for frame in frames or [None] * (packet.size > 0):
                    yield place, frame
            place += packet.size > 0

    def _next(self) -> Any:
        """Return the next packet, or None at the end.

        Raises:
            CameraGoneError: The device or stream fails, or delivers nothing.
        """
        give_up = time.monotonic() + _READ_SECONDS
        try:
            while True:
                try:
                    return next(self._packets, None)
                except BlockingIOError:
                    if time.monotonic() > give_up:
                        raise TimeoutError(f"no frame for {_READ_SECONDS:g} s") from None
                    time.sleep(_STEP_SECONDS)
                    self._packets = self._container.demux(self._stream)  # an error ends a generator
        except (av.FFmpegError, OSError) as error:
            reason = _reason(error, self._address)
            raise CameraGoneError(f"the camera '{self._address.name}' is gone: {reason}") from None


def _frame(number: int, frame: Any, *, is_damaged: bool) -> Frame:
    try:
        pixels = pixels_of(frame, "the frame", is_turned=False)
    except ImageError as error:
        return Frame(number, None, error.message)
    return Frame(number, pixels, "it is damaged, or was decoded from a damaged frame" if is_damaged else None)


def _opened(address: CameraAddress) -> Any:
    if address.kind == "device":
        # Without this flag, a device that delivers nothing would be waited for without an end.
        options = {"fflags": "nonblock", **dict(address.settings)}
        return av.open(address.path, format="v4l2", options=options)
    # By TCP, nothing is lost between the camera and FFmpeg.
    options = {"rtsp_transport": "tcp"} if address.path.lower().startswith("rtsp") else {}
    return av.open(address.url(), options=options, timeout=(_OPEN_SECONDS, _READ_SECONDS))


def _reason(error: Exception, address: CameraAddress) -> str:
    """Return what FFmpeg says, without what is secret of a URL."""
    return getattr(error, "strerror", None) or str(error).replace(address.url(), address.text)
