"""Every frame of a video becomes the picture that was written, or an error."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kdx.errors import ImageError
from kdx.imaging.luma_chroma import BT601, BT709, FULL, LumaChroma, rgb_of
from kdx.imaging.videos import index_video, read_video
from tests.videos import damage, pictures, write_video

pytest.importorskip("av", reason="PyAV is not installed: pip install 'kdx[video]'")

COLOUR = pictures(12)
# Between what libswscale and the exact equations round.
_CONVERSION = 2


def frames_of(path: Path) -> list[Any]:
    index = index_video(path)
    found = list(read_video(index))
    assert len(found) == len(index)
    return found


def test_a_video_without_loss_is_read_to_its_own_pixels_and_times(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mov", COLOUR)
    index = index_video(path)
    assert index.cut is None
    np.testing.assert_allclose(index.seconds, np.arange(12) / 25, atol=1e-9)
    np.testing.assert_array_equal(frames_of(path), COLOUR)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.avi", "clip.ts"])
def test_frames_that_are_decoded_in_another_order_come_in_theirs(name: str, tmp_path: Path) -> None:
    codec = "mpeg4" if name.endswith("avi") else "libx264"
    path = write_video(tmp_path / name, pictures(30), codec, "yuv420p")
    assert index_video(path).delay > 0
    written = np.array(pictures(30), int)
    for number, found in enumerate(frames_of(path)):
        assert np.abs(written - found).mean(axis=(1, 2, 3)).argmin() == number


def test_a_variable_frame_rate_keeps_the_time_of_each_frame(tmp_path: Path) -> None:
    times = [0, 40, 45, 500, 1000, 60000]
    path = write_video(tmp_path / "clip.mov", COLOUR[:6], milliseconds=times)
    np.testing.assert_allclose(index_video(path).seconds, np.array(times) / 1000, atol=1e-9)
    np.testing.assert_array_equal(frames_of(path), COLOUR[:6])


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_frames_are_turned_as_players_turn_them(turn: int, tmp_path: Path) -> None:
    images = pictures(2, (32, 48))
    path = write_video(tmp_path / "clip.mov", images, prepare=lambda stream: stream.set_display_rotation(turn))
    for found, written in zip(frames_of(path), images, strict=True):
        np.testing.assert_array_equal(found, np.rot90(written, turn // 90))


@pytest.mark.parametrize(("across", "down", "is_swapped"), list(product((1, -1), (1, -1), (False, True))))
def test_mirrored_frames_stand_upright(across: int, down: int, is_swapped: bool, tmp_path: Path) -> None:
    one = 1 << 16
    first = (0, down * one, 0, across * one, 0) if is_swapped else (across * one, 0, 0, 0, down * one)
    matrix = (*first, 0, 0, 0, 1 << 30)
    images = pictures(1, (32, 48))
    path = write_video(tmp_path / "clip.mov", images, prepare=lambda stream: stream.set_display_matrix(matrix))
    written = images[0].swapaxes(0, 1) if is_swapped else images[0]
    np.testing.assert_array_equal(frames_of(path)[0], written[::down, ::across])


def test_an_angle_that_is_no_right_one_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mov", COLOUR[:1], prepare=lambda stream: stream.set_display_rotation(30))
    assert "no multiple of 90 degrees" in str(frames_of(path)[0])


@pytest.mark.parametrize(("kind", "bits"), [("gray", 8), ("gray10le", 10), ("gray12le", 12), ("gray16le", 16)])
def test_grey_keeps_its_values(kind: str, bits: int, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 1 << bits, (33, 47)).astype(np.uint8 if bits == 8 else np.uint16)
    path = write_video(tmp_path / "clip.mkv", [values], "ffv1", kind, given=kind)
    found = frames_of(path)[0]
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize(
    ("matrix", "is_full", "standard"),
    [(1, False, BT709), (5, False, BT601), (2, False, BT601), (5, True, FULL)],
)
@pytest.mark.parametrize("bits", [8, 10])
def test_colour_is_converted_as_the_video_declares(
    matrix: int, is_full: bool, standard: LumaChroma, bits: int, tmp_path: Path
) -> None:
    """Matrix 1 is BT.709, 5 is BT.601, and 2 none."""
    planes = np.random.default_rng(2).integers(40, 216, (3, 4, 4), dtype=np.uint8).repeat(8, axis=1).repeat(8, axis=2)

    def declare(stream: Any) -> None:
        stream.codec_context.colorspace = matrix
        stream.codec_context.color_range = 2 if is_full else 1

    given = planes if bits == 8 else planes.astype(np.uint16) * 4
    kind = "yuv444p" if bits == 8 else "yuv444p10le"
    path = write_planes(tmp_path / "clip.mkv", given, kind, declare)
    found = frames_of(path)[0].astype(int)
    assert np.abs(found - rgb_of(planes[0], planes[1], planes[2], standard)).max() <= _CONVERSION


def write_planes(path: Path, planes: NDArray[Any], kind: str, declare: Any) -> Path:
    """Write one frame of three planes of one size."""
    import av

    with av.open(str(path), "w") as file:
        stream = file.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = *planes.shape[1:], kind
        declare(stream)
        frame = av.VideoFrame(stream.width, stream.height, kind)
        for plane, values in zip(frame.planes, planes, strict=True):
            padded = np.zeros((stream.height, plane.line_size // values.itemsize), values.dtype)
            padded[:, : stream.width] = values
            plane.update(padded.tobytes())
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def test_alpha_that_hides_something_is_refused_and_any_other_is_dropped(tmp_path: Path) -> None:
    opaque = np.dstack([COLOUR[0], np.full((64, 64), 255, np.uint8)])
    glass = opaque.copy()
    glass[3, 4, 3] = 254
    path = write_video(tmp_path / "clip.mov", [opaque, glass], "png", "rgba", given="rgba")
    first, second = frames_of(path)
    np.testing.assert_array_equal(first, COLOUR[0])
    assert "has transparent pixels" in str(second)


# Damaged files


@pytest.mark.parametrize("packet", [0, 4, 13, 29])
@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("clip.mp4", "libx264", "yuv420p"),
        ("clip.mkv", "libx265", "yuv420p"),
        ("clip.mkv", "mpeg4", "yuv420p"),
        ("clip.avi", "mjpeg", "yuvj420p"),
        ("clip.mkv", "ffv1", "yuv420p"),
    ],
)
def test_what_a_damaged_packet_may_have_changed_is_no_picture(
    name: str, codec: str, pixels: str, packet: int, tmp_path: Path
) -> None:
    path = write_video(tmp_path / name, pictures(30), codec, pixels)
    whole = frames_of(path)
    found = frames_of(damage(path, packet))
    errors = [number for number, frame in enumerate(found) if isinstance(frame, ImageError)]
    assert errors
    assert len(errors) == 1 or codec != "mjpeg"
    # A key frame ends the damage: at most one group is lost, and the last frames of the one before.
    assert len(errors) <= 13
    for number, (frame, right) in enumerate(zip(found, whole, strict=True)):
        if number not in errors:
            np.testing.assert_array_equal(frame, right)
        else:
            assert f"frame {number} of" in str(frame)


@pytest.mark.parametrize(("name", "codec"), [("clip.mp4", "libx264"), ("clip.mkv", "libx264"), ("clip.avi", "mjpeg")])
def test_a_file_that_was_cut_says_so_and_gives_the_frames_that_it_has(name: str, codec: str, tmp_path: Path) -> None:
    kind = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = write_video(tmp_path / name, pictures(30), codec, kind, container={"movflags": "faststart"})
    index = index_video(path)
    assert index.cut is None
    whole = dict(zip(index.seconds.tolist(), frames_of(path), strict=True))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    index = index_video(path)
    assert "is cut: frames are missing at its end" in str(index.cut)
    found = dict(zip(index.seconds.tolist(), frames_of(path), strict=True))
    pictures_left = [second for second, frame in found.items() if not isinstance(frame, ImageError)]
    assert 5 < len(pictures_left) < 30
    for second in pictures_left:
        np.testing.assert_array_equal(found[second], whole[second])


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", pictures(30), "libx264", "yuv420p")
    path.write_bytes(path.read_bytes()[:-200])  # its index lies at its end
    for name, content in {"text.mp4": b"text", "empty.avi": b"", "clip.mp4": None}.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match=f"(?s){name}' is not a readable video.*copy or record it again"):
            index_video(tmp_path / name)
    with pytest.raises(ImageError, match="does not exist"):
        index_video(tmp_path / "none.mp4")


def test_two_videos_in_one_file_are_refused(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "two.mkv"), "w") as file:
        streams = [file.add_stream("ffv1", rate=25) for _ in range(2)]
        for stream in streams:
            stream.height = stream.width = 64
            stream.pix_fmt = "gray"
        for stream in streams:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(COLOUR[0][..., 0].copy(), format="gray")))
            file.mux(stream.encode(None))
    with pytest.raises(ImageError, match="holds 2 videos"):
        index_video(tmp_path / "two.mkv")
