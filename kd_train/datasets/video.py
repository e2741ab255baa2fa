"""Single frames of videos, decoded by PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import Image

from kdx.errors import DataError

# Some encoders leave a few frames empty that the container counts; a video that lacks more is
# incomplete.
_DECODED_AT_LEAST = 0.9


def every_nth_frame(video: Path, step: int) -> Iterator[tuple[int, Image.Image]]:
    """Yield the RGB frames 0, ``step``, 2 · ``step`` and so on of a video, each with its number.

    Raises:
        DataError: The package ``av`` is not installed, or the video cannot be decoded.
    """
    av = _pyav()
    count = 0
    try:
        with av.open(str(video)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            declared = stream.frames
            for frame in container.decode(stream):
                if count % step == 0:
                    yield count, frame.to_image()
                count += 1
    except (av.FFmpegError, IndexError, OSError) as error:
        raise _damaged(video, f"{type(error).__name__} at frame {count}: {error}") from error
    if count < max(1, _DECODED_AT_LEAST * declared):
        raise _damaged(video, f"{count} frames of {declared}")


def _pyav() -> Any:
    try:
        return import_module("av")
    except ImportError as error:
        raise DataError(
            "videos are decoded with the package 'av' (PyAV), which is not installed",
            expected="the package av",
            received=str(error),
            fix='pip install "kdx[video]"',
        ) from error


def _damaged(video: Path, received: str) -> DataError:
    return DataError(
        f"the video '{video}' cannot be decoded",
        expected="a complete video file that FFmpeg can read",
        received=received,
        fix="download the video again",
    )
