"""What a camera gives, and what is kept of it in the names and the content of files."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from kdx.errors import KdxError
from kdx.station.record import NotJudged
from kdx.storage.json_records import UNREADABLE

# The suffix of files that stand for frames of which there is no image: a line of JSON for each.
NO_IMAGE = ".lost"
_KEY = "kdx"


class CameraGoneError(KdxError):
    """The camera does not answer any more."""


class FrameError(KdxError):
    """A frame is missing, or damaged."""


@dataclass(frozen=True)
class Frame:
    """A frame that a camera delivered, whole or not.

    Attributes:
        number: The camera's number of the frame.
        pixels: uint8 or uint16 ``(H, W)``, or uint8 RGB ``(H, W, 3)``; None if nothing of it can be
            shown.
        problem: Why the frame is incomplete; None for a whole one.
    """

    number: int
    pixels: NDArray[Any] | None
    problem: str | None = None


class Camera(Protocol):
    """An open camera.

    Attributes:
        size: Width and height of its frames, as it declares them; None if it does not.
    """

    size: tuple[int, int] | None

    def take(self, seconds: float) -> Frame | None:
        """Let the camera take one frame, and return it; None if it does not come in time.

        Args:
            seconds: The time in which it must come.

        Raises:
            CameraGoneError: The camera does not answer any more.
            VideoEndError: There are no more frames.
        """
        ...

    def grab(self) -> Frame | None:
        """Return the next frame; None if none came for a while.

        Raises:
            CameraGoneError: The camera does not answer any more.
            VideoEndError: There are no more frames.
        """
        ...

    def look(self) -> None:
        """See whether the camera still answers while no frame is asked for.

        Raises:
            CameraGoneError: It does not.
        """
        ...

    def close(self) -> None:
        """Let another program have the camera."""
        ...


class VideoEndError(Exception):
    """A video has no more frames."""


class FrameInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of a frame beside its pixels.

    Attributes:
        camera: The name of the camera.
        frame: The camera's number of the frame, or None.
        time: UTC time at which it reached kdx, as in records; without a frame, that of its trigger.
        reason: Why it cannot be judged, or None.
        problem: The same in words.
        part_id: The part that it shows, where a trigger named it.
        product: The product, where a trigger named it.
        stem: Of a frame without an image, the name that its file would have, without a suffix.
    """

    camera: str
    frame: int | None
    time: str
    reason: NotJudged | None = None
    problem: str = ""
    part_id: str | None = None
    product: str | None = None
    stem: str = ""


def encoded(info: FrameInfo, pixels: NDArray[Any], *, compress: bool) -> bytes:
    """Return a frame as PNG, which loses nothing, with what is known of it as a text of the file.

    Args:
        info: What is known of it.
        pixels: As for :class:`Frame`.
        compress: Whether the file is kept, and should be small; compressing takes longer than
            anything else here.
    """
    text = PngInfo()
    text.add_text(_KEY, msgspec.json.encode(info).decode())
    buffer = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.save(buffer, format="PNG", pnginfo=text, compress_level=1 if compress else 0)
    return buffer.getvalue()


def infos_of(path: Path) -> list[FrameInfo]:
    """Return what a file says of its frames: one of an image, and any number without images.

    The list is empty for a file that is gone, or says nothing.
    """
    found: list[FrameInfo] = []
    try:
        if path.suffix == NO_IMAGE:
            for line in path.read_bytes().splitlines():
                found.append(msgspec.json.decode(line, type=FrameInfo))
        else:
            # Image.open would refuse frames of many pixels, of which nothing is decoded here.
            with path.open("rb") as file, PngImageFile(file) as image:
                found.append(msgspec.json.decode(image.info[_KEY], type=FrameInfo))
    except (KeyError, OSError, *UNREADABLE):  # the last line of a process that was killed
        pass
    except (SyntaxError, ValueError):  # as Pillow says that it is not a PNG file
        pass
    return found
