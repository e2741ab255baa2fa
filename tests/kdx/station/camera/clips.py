"""Videos of the test images, written by PyAV, and a camera that follows a script."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from kdx.station.camera.frames import Frame, VideoEndError
from tests.schema1 import FIXTURES

# The verdict of the bundle in FIXTURES on each.
GOOD, DEFECTIVE = (
    np.asarray(Image.open(FIXTURES / f"images/cell-{name}.png").convert("L")) for name in ("1", "hottest")
)


def write_clip(path: Path, frames: Iterable[NDArray[Any]], codec: str = "ffv1", kind: str = "gray") -> Path:
    """Write a video; its codec keeps every pixel unless another one is asked for."""
    av = pytest.importorskip("av", reason="the extra camera is not installed")
    container = av.open(str(path), "w")
    stream = None
    for pixels in frames:
        if stream is None:
            stream = container.add_stream(codec, rate=10)
            stream.height, stream.width = pixels.shape[:2]
            stream.pix_fmt = kind
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=_given(pixels))
        container.mux(stream.encode(picture))
    if stream is not None:
        container.mux(stream.encode(None))
    container.close()
    return path


def _given(pixels: NDArray[Any]) -> str:
    return "rgb24" if pixels.ndim == 3 else "gray" if pixels.dtype == np.uint8 else "gray12le"


def parts(count: int) -> list[NDArray[Any]]:
    """Return images, of which every tenth is defective."""
    return [DEFECTIVE if index % 10 == 9 else GOOD for index in range(count)]


def damage(path: Path, packet: int, size: int = 60) -> None:
    """Change bytes in the middle of a packet of a video."""
    av = pytest.importorskip("av", reason="the extra camera is not installed")
    with av.open(str(path)) as container:
        found = [(each.pos, each.size) for each in container.demux(container.streams.video[0]) if each.size]
    at = found[packet][0] + found[packet][1] // 2
    data = bytearray(path.read_bytes())
    for index in range(at, at + size):
        data[index] ^= 0x55
    path.write_bytes(data)


class ScriptedCamera:
    """A camera that does what a list says: delivers a frame, or raises an error; then it ends.

    Args:
        script: A number delivers a whole frame of it; None means that nothing came for a while.
        turn: Is waited for before each step, if it is given.
    """

    size = None

    def __init__(
        self, script: Sequence[int | Frame | Exception | None], turn: threading.Semaphore | None = None
    ) -> None:
        self._script, self._turn, self.is_open = iter(script), turn, True
        self.unplugged: Exception | None = None

    def grab(self) -> Frame | None:
        """Do the next step."""
        assert self.is_open
        if self._turn is not None:
            self._turn.acquire()
        step = next(self._script, VideoEndError())
        if isinstance(step, Exception):
            raise step
        return Frame(step, GOOD) if isinstance(step, int) else step

    def take(self, seconds: float) -> Frame | None:
        """Do the next step."""
        assert seconds > 0
        return self.grab()

    def look(self) -> None:
        """Say that it is gone if it was unplugged."""
        if self.unplugged is not None:
            raise self.unplugged

    def close(self) -> None:
        """Do nothing more."""
        self.is_open = False
