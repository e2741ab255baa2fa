"""Small video files for tests, written with PyAV, and the same files damaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Codecs with frames that need others, and in which order; all with a key frame at every tenth.
OPTIONS = {
    "libx264": {"x264-params": "keyint=10:scenecut=0:bframes=2"},
    "libx265": {"x265-params": "keyint=10:scenecut=0:bframes=2:log-level=none"},
    "mpeg4": {"g": "10", "bf": "2"},
    "ffv1": {"level": "3", "slicecrc": "1"},
}


def pictures(count: int, size: tuple[int, int] = (64, 64)) -> list[NDArray[np.uint8]]:
    """Return RGB images ``(H, W, 3)`` that differ, with smooth structure."""
    down, right = np.mgrid[: size[0], : size[1]]
    found = []
    for i in range(count):
        colours = down + right + 7 * i, 255 - down + 3 * i, np.full(size, 11 * i)
        found.append((np.stack(colours, axis=-1) % 256).astype(np.uint8))
    return found


def write_video(
    path: Path,
    images: Sequence[NDArray[Any]],
    codec: str = "png",
    pixels: str = "rgb24",
    *,
    given: str = "rgb24",
    milliseconds: Sequence[int] | None = None,
    prepare: Callable[[Any], None] = lambda _: None,
    container: dict[str, str] | None = None,
) -> Path:
    """Write a video, without loss by default, and return its path.

    Args:
        path: The file.
        images: Its frames.
        codec: The encoder.
        pixels: The pixel format of the video.
        given: The pixel format of the images.
        milliseconds: The time of each frame; None for 25 frames a second.
        prepare: Called with the stream before the first frame.
        container: Options of the container.
    """
    import av

    with av.open(str(path), "w", options=container or {}) as file:
        stream = file.add_stream(codec, rate=25, options=OPTIONS.get(codec, {}))
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pixels
        if milliseconds is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        prepare(stream)
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format=given)
            if milliseconds is not None:
                frame.pts, frame.time_base = milliseconds[number], Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def damage(path: Path, packet: int) -> Path:
    """Overwrite a packet, counted from 0 in the order of the file, and return the path.

    It is overwritten whole: a decoder may take a packet that is damaged in its middle for a right
    one, because most codecs have no checksums.
    """
    import av

    with av.open(str(path)) as file:
        packets = [(each.pos, bytes(each)) for each in file.demux(video=0) if each.size]
    position, content = packets[packet]
    size = len(content)
    data = bytearray(path.read_bytes())
    assert position is not None
    first = data.find(content[:8], position)  # the container's own header comes before
    assert 0 <= first < position + 64
    data[first : first + size] = b"\xa5" * size
    path.write_bytes(bytes(data))
    return path
