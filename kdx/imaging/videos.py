"""The frames of video files, each by its number, decoded with PyAV (the extra ``video``).

A file is read twice. The first pass lists the frames without decoding them. The second decodes
them, and every listed frame becomes a picture or an error: a decoder drops a damaged frame, or
shows what it makes of the frames around it, without a word.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kdx.errors import ImageError, KdxError
from kdx.imaging.video_pixels import pixels_of

if TYPE_CHECKING:
    import av
    from av.video.stream import VideoStream

# A Matroska file is cut if it ends before the end that it declares by more than this share of the
# time between two frames: times are rounded to milliseconds.
_FRAMES_AT_END = 0.5
_NO_TIME = np.iinfo(np.int64).min


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """The frames of a video, in the order in which they are shown.

    Attributes:
        path: The file.
        size: Width and height of its frames as they are stored, not turned.
        pts: Their presentation times in units of the stream, int64 ``(N,)``, increasing.
        seconds: The same in seconds since the first frame, float64 ``(N,)``.
        order: The place of each frame among the packets of the file, ``(N,)``.
        is_key: Whether a packet needs no other to be decoded, in the order of the file, ``(N,)``.
        cut: What is missing at the end of the file; None if nothing is known to be missing.
    """

    path: Path
    size: tuple[int, int]
    pts: NDArray[np.int64]
    seconds: NDArray[np.float64]
    order: NDArray[np.intp]
    is_key: NDArray[np.bool_]
    cut: ImageError | None

    def __len__(self) -> int:
        return len(self.pts)

    @property
    def delay(self) -> int:
        """The number of frames that are shown after a frame which was decoded later."""
        return int(max(0, (np.arange(len(self)) - self.order).max(), (self.order - np.arange(len(self))).max()))

    def depending_on(self, place: int) -> NDArray[np.intp]:
        """Return the places of a packet and of all that may need it.

        These are the packets up to the next key frame, and those that follow this key frame but are
        shown before it ("leading" pictures), which no later packet needs.
        """
        keys = np.flatnonzero(self.is_key)
        before, after = keys[keys < place], keys[keys > place]
        if len(before) and place < self._end_of_leading(int(before[-1])) and not self.is_key[place]:
            return np.arange(place, self._end_of_leading(int(before[-1])))
        if not len(after):
            return np.arange(place, len(self))
        end = int(after[0])
        return np.concatenate([np.arange(place, end), np.arange(end + 1, self._end_of_leading(end))])

    def _end_of_leading(self, key: int) -> int:
        """Return the place after the last of the pictures that are shown before their key frame."""
        shown = np.argsort(self.order)
        end = key + 1
        while end < len(self) and shown[end] < shown[key]:
            end += 1
        return end


def index_video(path: Path) -> VideoIndex:
    """List the frames of a video file, without decoding them.

    Raises:
        ImageError: The file is missing, damaged, or has no frames or several videos.
        ImportError: PyAV is not installed.
    """
    if not path.is_file():
        raise ImageError(f"'{path}' does not exist")
    with _opened(path) as (container, stream):
        found: list[tuple[int, bool]] = []
        longest = packets = 0
        failure: Exception | None = None
        try:
            for packet in container.demux(stream):
                packets += packet.size > 0
                if packet.size and not packet.is_discard:
                    pts = packet.dts if packet.pts is None else packet.pts
                    found.append((_NO_TIME if pts is None else pts, packet.is_keyframe))
                    longest = max(longest, packet.duration or 0)
        except (OSError, ValueError) as error:
            failure = error
        if not found:
            raise ImageError(f"'{path}' has no frames", received=str(failure or "an empty video"))
        times, is_key = np.array([each[0] for each in found], np.int64), np.array([each[1] for each in found])
        order = np.argsort(times, kind="stable")
        shown = times[order]
        if (np.diff(shown) == 0).any() or _NO_TIME in shown:
            raise ImageError(
                f"'{path}' has frames without a time of their own",
                expected="a presentation time for each frame",
                fix=f"write it again: ffmpeg -i '{path}' -c:v ffv1 NEW.mkv",
            )
        unit = float(stream.time_base or 1)
        end = float(shown[-1]) * unit + longest * unit
        cut = _cut(path, container, stream, packets, end, failure)
        return VideoIndex(path, (stream.width, stream.height), shown, (shown - shown[0]) * unit, order, is_key, cut)


def read_video(
    index: VideoIndex, *, is_turned: bool = True
) -> Generator[NDArray[np.uint8] | NDArray[np.uint16] | ImageError, None, None]:
    """Yield for each frame, in the order of the index, its pixels, or why it has none.

    At most :attr:`VideoIndex.delay` decoded frames are held.

    Args:
        index: The frames.
        is_turned: Whether frames are turned as the video says.

    Yields:
        Pixels as of :func:`kdx.imaging.video_pixels.pixels_of`, or an error for a frame
        that the decoder refused, dropped, or decoded from damaged ones.

    Raises:
        ImageError: The file cannot be opened.
    """
    is_bad = np.zeros(len(index), bool)
    waiting: deque[tuple[int, Any]] = deque()
    delay, seen, given = index.delay, 0, 0

    def spoil(place: int) -> None:
        if 0 <= place < len(index):
            is_bad[index.depending_on(place)] = True

    def result(number: int, frame: Any) -> Any:
        if frame is None or is_bad[index.order[number]]:
            return _undecodable(index.path, number, is_dropped=frame is None)
        try:
            return pixels_of(frame, f"'{index.path}', frame {number},", is_turned=is_turned)
        except ImageError as error:
            return error

    with _opened(index.path) as (container, stream):
        for decoded, place in _decoded(container, stream):
            if decoded is None:
                spoil(place)
                continue
            number = int(np.searchsorted(index.pts, decoded.pts if decoded.pts is not None else -1))
            if number >= len(index) or index.pts[number] != decoded.pts or number < seen:
                continue  # it was not listed: for example before the beginning that the file declares
            for missing in range(seen, number):
                spoil(int(index.order[missing]))
            if decoded.is_corrupt:
                spoil(int(index.order[number]))
            waiting.append((number, decoded))
            seen = number + 1
            while len(waiting) > delay:
                number, decoded = waiting.popleft()
                for missing in range(given, number):
                    yield result(missing, None)
                yield result(number, decoded)
                given = number + 1
        for missing in range(seen, len(index)):
            spoil(int(index.order[missing]))
        ready = dict(waiting)
        for number in range(given, len(index)):
            yield result(number, ready.pop(number, None))


def _decoded(container: av.container.InputContainer, stream: VideoStream) -> Iterator[tuple[Any, int]]:
    """Yield frames with the place of their packet, and None with the place of each bad packet."""
    place = 0
    try:
        for packet in container.demux(stream):
            if packet.size and packet.is_corrupt:
                yield None, place
            try:
                for frame in packet.decode():
                    yield frame, place
            except (OSError, ValueError):  # FFmpeg's errors are of these kinds
                yield None, place
            place += packet.size > 0 and not packet.is_discard
    except (OSError, ValueError):
        return  # what was not read is missing


@contextmanager
def _opened(path: Path) -> Iterator[tuple[av.container.InputContainer, VideoStream]]:
    import av

    try:
        container = av.open(str(path))
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(error)) from error
    with container:
        streams = [each for each in container.streams.video if not _is_cover(each)]
        if not streams:
            raise _unreadable(path, "no video in it")
        if len(streams) > 1:
            raise ImageError(
                f"'{path}' holds {len(streams)} videos",
                expected="one",
                fix=f"choose one: ffmpeg -i '{path}' -map 0:v:0 -c copy NEW.mkv",
            )
        stream = streams[0]
        if stream.metadata.get("alpha_mode") == "1":
            raise ImageError(
                f"'{path}' has an alpha channel beside its frames, which is not decoded",
                expected="opaque frames",
                fix=f"write it without: ffmpeg -i '{path}' -pix_fmt yuv420p NEW.mkv",
            )
        # With threads for frames, a decoder reports an error at a later packet.
        stream.codec_context.thread_type = "SLICE"
        stream.codec_context.options = {"err_detect": "explode"}
        try:
            yield container, stream
        except KdxError:
            raise
        except MemoryError as error:
            raise ImageError(f"the frames of '{path}' do not fit into the free memory") from error


def _unreadable(path: Path, received: str) -> ImageError:
    return ImageError(
        f"'{path}' is not a readable video",
        received=received,
        fix="if it is cut, or its recording was interrupted, copy or record it again; else remove it",
    )


def _is_cover(stream: VideoStream) -> bool:
    """Whether a stream is the picture of a cover, and no video."""
    return "attached_pic" in str(stream.disposition).lower()


def _cut(
    path: Path, container: Any, stream: VideoStream, packets: int, end: float, failure: Exception | None
) -> ImageError | None:
    """Return what is missing of a file that ends before the end that it declares."""
    found = missing = ""
    if stream.frames > packets:
        found, missing = f"{packets:,} frames", f"{stream.frames:,} frames, as its header says"
    elif failure is not None:
        found, missing = f"{packets:,} frames, then: {failure}", "a whole file"
    elif "matroska" in container.format.name:
        declared = _seconds(stream.metadata.get("DURATION", ""))
        if declared is None and len(container.streams) == 1 and container.duration:
            declared = container.duration / 1e6
        interval = 1 / float(stream.average_rate) if stream.average_rate else 0.0
        if declared is not None and end + _FRAMES_AT_END * interval < declared:
            found, missing = f"{end:.2f} s", f"{declared:.2f} s, as its header says"
    if not missing:
        return None
    return ImageError(
        f"'{path}' is cut: frames are missing at its end",
        expected=missing,
        received=found,
        fix="copy or record it again; its other frames were read",
    )


def _seconds(text: str) -> float | None:
    """Return the seconds of ``HH:MM:SS.FFF``; None for another text."""
    try:
        hours, minutes, seconds = text.split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:
        return None


def _undecodable(path: Path, number: int, *, is_dropped: bool) -> ImageError:
    why = "cannot be decoded" if is_dropped else "is damaged, or was decoded from a damaged frame"
    return ImageError(f"frame {number} of '{path}' {why}", fix="copy or record the video again")
