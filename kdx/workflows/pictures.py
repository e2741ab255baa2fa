"""The images of a call of ``kdx predict``: files, and the frames of videos that were named."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdx.errors import ImageError
from kdx.folders.image_search import is_image_name
from kdx.imaging.camera_frames import image_of_pixels
from kdx.imaging.images import InputSpec, decode_file, read_header
from kdx.imaging.other_formats import is_video
from kdx.imaging.value_range import warn_if_narrow
from kdx.imaging.videos import VideoIndex, index_video, read_video
from kdx.progress import SILENT, Progress, track
from kdx.workflows.packages import needs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Pictures:
    """Images by their paths, in a fixed order.

    A frame of a video has a path that no file has: ``clip.mp4/frame-000012``. The frames are
    numbered from 0. A video that cannot be read, or is cut, is one image that cannot be read, under
    the path of the file.

    Args:
        paths: The files that were named, or found in folders.
        progress: Shows how many videos were looked through.

    Attributes:
        paths: The images.
        seen_in_grey: Those that show colour, and were read for a mono detector.

    Raises:
        MissingPackageError: A file is a video, and PyAV is not installed.
    """

    def __init__(self, paths: Sequence[Path], progress: Progress = SILENT) -> None:
        self.paths: list[Path] = []
        self.seen_in_grey: set[Path] = set()
        self._frames: dict[Path, tuple[VideoIndex, int]] = {}
        self._errors: dict[Path, ImageError] = {}
        self._read = _Frames()
        videos = {path for path in paths if not is_image_name(path.name) and is_video(path)}
        if videos:
            with needs("video", "reading videos"):
                import av  # noqa: F401
        for path in track(progress, paths, "listing frames", len(paths)) if videos else paths:
            if path in videos:
                self._add_video(path)
            else:
                self.paths.append(path)

    def _add_video(self, path: Path) -> None:
        try:
            index = index_video(path)
        except ImageError as error:
            self._errors[path] = error
        else:
            digits = max(6, len(str(len(index))))
            frames = {path / f"frame-{number:0{digits}}": (index, number) for number in range(len(index))}
            self._frames |= frames
            self.paths += frames
            if index.cut is not None:
                self._errors[path] = index.cut
        if path in self._errors:
            self.paths.append(path)

    def is_file(self, path: Path) -> bool:
        """Whether a path is that of an image file."""
        return path not in self._frames and path not in self._errors

    def read(self, path: Path, spec: InputSpec) -> NDArray[np.uint8]:
        """Read an image like :func:`kdx.read_image`. Frames must be read in their order.

        Raises:
            ImageError: The image, or the frame, cannot be read.
        """
        if path in self._errors:
            raise self._errors[path]
        if path in self._frames:
            image = image_of_pixels(self._read.pixels(*self._frames[path]), spec, path)
        else:
            image = decode_file(path, spec)
        warn_if_narrow(path, image.value_range)
        if image.loses_colour:
            self.seen_in_grey.add(path)
        return image.pixels

    def size(self, path: Path) -> tuple[int, int]:
        """Return the width and height of an image that was just read."""
        if path not in self._frames:
            return read_header(path)[:2]
        height, width = self._read.pixels(*self._frames[path]).shape[:2]
        return width, height

    def fields(self, path: Path) -> dict[str, Any]:
        """Return what the record of a frame says of its video; nothing for files."""
        if path not in self._frames:
            return {}
        index, number = self._frames[path]
        return {"video": str(index.path), "frame": number, "time_s": round(float(index.seconds[number]), 6)}


def _nothing() -> Generator[NDArray[Any] | ImageError, None, None]:
    yield from ()


class _Frames:
    """Reads the frames of one video after the other; the current frame may be read again."""

    def __init__(self) -> None:
        self._index: VideoIndex | None = None
        self._rest = _nothing()
        self._number = -1
        self._current: NDArray[Any] | ImageError | None = None

    def pixels(self, index: VideoIndex, number: int) -> NDArray[Any]:
        """Return the pixels of a frame, which must not lie before the current one.

        Raises:
            ImageError: The frame cannot be decoded.
        """
        if index is not self._index:
            self._rest.close()
            self._index, self._rest, self._number = index, read_video(index), -1
        while self._number < number:
            gone = ImageError(f"'{index.path}' can no longer be read", fix="judge it again")
            self._current = next(self._rest, gone)
            self._number += 1
        if isinstance(self._current, ImageError):
            raise self._current
        assert self._current is not None
        return self._current
