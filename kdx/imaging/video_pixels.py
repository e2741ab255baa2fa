"""The pixels of a decoded video frame, as those of an image file."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kdx.errors import ImageError

if TYPE_CHECKING:
    from av import VideoFrame

_ONE = 1 << 16  # in a display matrix


def pixels_of(frame: VideoFrame, name: str, *, is_turned: bool = True) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Return the pixels of a frame, turned as its display matrix says unless that is not wanted.

    Grey keeps its values. Every other format becomes RGB of 8 bits by libswscale (bicubic), with
    the matrix and the range of values that the video declares; without a declaration, those of
    BT.601 with luma from 16 to 235.

    Args:
        frame: The frame.
        name: What messages call it.
        is_turned: Whether the display matrix counts.

    Returns:
        uint8 ``(H, W)``, uint16 ``(H, W)`` for grey of more than 8 bits, or uint8 ``(H, W, 3)``.

    Raises:
        ImageError: The frame has transparent pixels, grey values in floating point, or is turned by
            an angle that is no multiple of 90 degrees.
    """
    kind = frame.format.name
    pixels: NDArray[Any]
    if kind.startswith("gray"):
        pixels = _grey(frame, kind, name)
    elif any(component.is_alpha for component in frame.format.components):
        rgba = frame.reformat(format="rgba", interpolation="BICUBIC").to_ndarray()
        if rgba[..., 3].min() < 255:
            raise ImageError(
                f"{name} has transparent pixels",
                expected="frames without alpha channel, or with one that is opaque everywhere",
                received=kind,
                fix="write the video without alpha channel: ffmpeg -i VIDEO -pix_fmt yuv420p NEW.mkv",
            )
        pixels = rgba[..., :3]
    else:
        pixels = frame.reformat(format="rgb24", interpolation="BICUBIC").to_ndarray()
    return np.ascontiguousarray(_upright(pixels, frame, name) if is_turned else pixels)


def _grey(frame: VideoFrame, kind: str, name: str) -> NDArray[Any]:
    """Return the grey values of a frame, without the padding of its rows."""
    if "f" in kind:
        raise ImageError(f"{name} has grey values in floating point", expected="integers", received=kind)
    dtype = {"gray": "|u1", "gray8": "|u1"}.get(kind, ">u2" if kind.endswith("be") else "<u2")
    plane: Any = frame.planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: frame.height]
    values: NDArray[Any] = np.ascontiguousarray(rows[:, : frame.width * np.dtype(dtype).itemsize]).view(dtype)
    native: NDArray[Any] = values.astype(np.uint8 if values.itemsize == 1 else np.uint16, copy=False)
    return native


def _upright(pixels: NDArray[Any], frame: VideoFrame, name: str) -> NDArray[Any]:
    """Return the pixels as the display matrix turns them: x' = a x + c y, y' = b x + d y."""
    side_data: Any = frame.side_data
    matrix = next((bytes(each) for each in side_data if each.type.name == "DISPLAYMATRIX"), None)
    if matrix is None:
        return pixels
    a, b, _, c, d = struct.unpack("=5i", matrix[:20])
    if (abs(a), b, c, abs(d)) == (_ONE, 0, 0, _ONE):
        return pixels[:: d // _ONE, :: a // _ONE]
    if (a, abs(b), abs(c), d) == (0, _ONE, _ONE, 0):
        swapped: NDArray[Any] = pixels.swapaxes(0, 1)
        return swapped[:: b // _ONE, :: c // _ONE]
    raise ImageError(
        f"{name} is turned by an angle that is no multiple of 90 degrees, or scaled",
        received=f"the display matrix {a / _ONE:.3g} {b / _ONE:.3g} {c / _ONE:.3g} {d / _ONE:.3g}",
        fix="write the video as it is shown: ffmpeg -i VIDEO NEW.mkv",
    )
