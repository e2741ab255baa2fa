"""Video files, V4L2 devices and network streams as cameras, by PyAV (the extra ``camera``).

FFmpeg hides damage: its decoders fill what is missing with something plausible. Here they are asked
to fail instead, and what is built on a damaged frame counts as damaged until the next key frame.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from kdx.errors import DataError
from kdx.station.camera.address import CameraAddress
from kdx.station.camera.frames import CameraGoneError, Frame, VideoEndError

# After so many seconds without a frame, a live camera is gone.
_OPEN_SECONDS, _READ_SECONDS = 10.0, 10.0
_STEP_SECONDS = 0.005
# Formats whose values are taken as they are: FFmpeg would scale 10 and 12 bits to 16.
_GREY = {"gray": "gray", **{f"gray{bits}": f"gray{bits}le" for bits in (10, 12, 14, 16)}}


class VideoCamera:
    """A video file, a device or a stream that FFmpeg reads.

    Args:
        address: Which one.
        first: The number of the first frame that is delivered; those before it are skipped.

    Attributes:
        size: Width and height of its frames.

    Raises:
        DataError: It cannot be opened, or has no pictures.
    """

    def __init__(self, address: CameraAddress, first: int = 0) -> None:
        self._address = address
        try:
            self._container = _opened(address)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise DataError(
                f"the camera '{address.text}' cannot be opened: {_reason(error)}",
                expected="a video, a device or a stream that FFmpeg reads",
                fix=f"see what it says: ffprobe {address.text}",
            ) from error
        if not self._container.streams.video:
            self._container.close()
            raise DataError(f"'{address.text}' has no pictures", received=f"{len(self._container.streams)} streams")
        self._stream = self._container.streams.video[0]
        self._stream.codec_context.options = {"err_detect": "explode"}
        self.size: tuple[int, int] | None = (self._stream.width, self._stream.height)
        self._frames = (frame for frame in self._numbered() if frame.number >= first)

    def grab(self) -> Frame | None:
        """Return the next frame; of a device that is slow, None after a while.

        Raises:
            CameraGoneError: A device or stream ended, or sends nothing.
            VideoEndError: The file has no more frames.
        """
        frame = next(self._frames, None)
        if frame is not None:
            return frame
        if self._address.is_live:
            raise CameraGoneError(f"'{self._address.text}' sends no more frames")
        raise VideoEndError

    def take(self, seconds: float) -> Frame | None:
        """Return the next frame of a file, which stands for a camera that is triggered."""
        return self.grab()

    def close(self) -> None:
        """Close the file, the device or the connection."""
        self._container.close()

    def _numbered(self) -> Iterator[Frame]:
        """Yield all frames, also those that are damaged, or that the file declares and lacks."""
        number = 0
        is_damaged = self._address.is_live  # a stream is joined in the middle: it begins with a key frame
        problem = None
        for frame in self._decoded():
            if isinstance(frame, str):
                is_damaged, problem, pixels = True, frame, None
            else:
                is_damaged = frame.is_corrupt or (is_damaged and not frame.key_frame)
                problem = (problem or "a part of it is missing") if is_damaged else None
                pixels = _pixels(frame)
            if is_damaged and self._address.is_live and not number:
                continue
            yield Frame(number, pixels, problem)
            number += 1
        for missing in range(number, 0 if self._address.is_live else self._stream.frames):
            yield Frame(missing, None, f"the video ends after {number} of {self._stream.frames} frames")

    def _decoded(self) -> Iterator[Any]:
        """Yield frames, and the reason in place of one that cannot be decoded.

        Raises:
            CameraGoneError: A device or stream fails.
        """
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = self._next(packets)
            except (av.FFmpegError, OSError) as error:
                if self._address.is_live:
                    raise CameraGoneError(f"'{self._address.text}' is gone: {_reason(error)}") from error
                return  # what the file declares and lacks is counted
            if packet is None:
                return
            try:
                yield from packet.decode()
            except av.FFmpegError as error:
                yield f"it cannot be decoded: {_reason(error)}"

    def _next(self, packets: Iterator[Any]) -> Any:
        """Return the next packet, or None at the end.

        Raises:
            TimeoutError: A device delivers nothing.
        """
        give_up = time.monotonic() + _READ_SECONDS
        while True:
            try:
                return next(packets, None)
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise TimeoutError(f"no frame for {_READ_SECONDS:g} s") from None
                time.sleep(_STEP_SECONDS)
                packets = self._container.demux(self._stream)


def _opened(address: CameraAddress) -> Any:
    if address.kind == "video":
        return av.open(address.path)
    if address.kind == "device":
        # Without this flag, a device that delivers nothing would be waited for without an end.
        options = {"fflags": "nonblock", **dict(address.settings)}
        return av.open(address.path, format="v4l2", options=options)
    # By TCP, nothing is lost between the camera and FFmpeg.
    options = {"rtsp_transport": "tcp"} if address.path.lower().startswith("rtsp") else {}
    return av.open(address.url(), options=options, timeout=(_OPEN_SECONDS, _READ_SECONDS))


def _pixels(frame: Any) -> NDArray[Any]:
    """Return a frame's pixels: grey values as they are, everything else as RGB."""
    name = frame.format.name
    grey = _GREY.get(name.removesuffix("le").removesuffix("be"))
    pixels = frame.to_ndarray(format=grey or "rgb24")
    return np.ascontiguousarray(pixels)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
