"""Video files as cameras, whose frames are read as ``kdx predict`` reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kdx.errors import ImageError
from kdx.imaging.videos import index_video, read_video
from kdx.station.camera.address import CameraAddress
from kdx.station.camera.frames import Frame, VideoEndError


class VideoFile:
    """A video file, of which each frame comes once, whole or with the reason why it is not.

    Args:
        address: Which one.
        first: The number of the first frame that is delivered; those before it are skipped.
        lose: Is given what is missing at the end of the file, and the number of the first missing
            frame; not where that is skipped, because an earlier call was given it.

    Attributes:
        size: Width and height of its frames.

    Raises:
        ImageError: It cannot be read.
    """

    def __init__(self, address: CameraAddress, first: int, lose: Callable[[str, int], None]) -> None:
        self._index = index_video(Path(address.path))
        self._images = read_video(self._index, is_turned=False)
        self._first, self._next = first, 0
        self._lose = lose
        self.size: tuple[int, int] | None = self._index.size

    def grab(self) -> Frame | None:
        """Return the next frame.

        Raises:
            VideoEndError: The file has no more frames.
        """
        for image in self._images:
            number, self._next = self._next, self._next + 1
            if number >= self._first:
                return Frame(number, None, image.message) if isinstance(image, ImageError) else Frame(number, image)
        cut = self._index.cut
        if cut is not None and self._next >= self._first:
            self._first = self._next + 1
            self._lose(f"{cut.message}: expected {cut.expected}; received {cut.received}", self._next)
        raise VideoEndError

    def take(self, seconds: float) -> Frame | None:
        """Return the next frame, which stands for that of a camera that is triggered."""
        return self.grab()

    def look(self) -> None:
        """Do nothing: a file is there until its end."""

    def close(self) -> None:
        """Close the file."""
        self._images.close()
