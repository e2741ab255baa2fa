"""Every frame of a video comes once, and what is damaged is never shown as whole."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest

from kdx.errors import DataError
from kdx.station.camera.address import CameraAddress, parse_camera
from kdx.station.camera.frames import CameraGoneError, Frame, VideoEndError
from tests.kdx.station.camera.clips import GOOD, damage, parts, write_clip

pytest.importorskip("av", reason="the extra camera is not installed")

from kdx.station.camera.video import VideoCamera


def frames_of(path: Path, first: int = 0) -> list[Frame]:
    """Return all frames of a video."""
    camera = VideoCamera(parse_camera(str(path)), first)
    found: list[Frame] = []
    with contextlib.suppress(VideoEndError):
        while (frame := camera.grab()) is not None:
            found.append(frame)
    camera.close()
    return found


def noise(count: int) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 255, (64, 64, 3), np.uint8) for _ in range(count)]


def test_grey_frames_keep_every_value(tmp_path):
    images = [np.full((64, 48), value, np.uint8) for value in range(5)]
    found = frames_of(write_clip(tmp_path / "a.mkv", images))
    assert [frame.number for frame in found] == list(range(5))
    for frame, image in zip(found, images, strict=True):
        assert frame.problem is None
        np.testing.assert_array_equal(frame.pixels, image)


def test_twelve_bits_stay_twelve_bits(tmp_path):
    """FFmpeg's own conversion would multiply them by 16."""
    image = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    (frame,) = frames_of(write_clip(tmp_path / "a.mkv", [image], kind="gray12le"))
    np.testing.assert_array_equal(frame.pixels, image)


def test_colour_is_rgb(tmp_path):
    image = noise(1)[0]
    (frame,) = frames_of(write_clip(tmp_path / "a.mkv", [image], kind="bgr0"))
    np.testing.assert_array_equal(frame.pixels, image)


def test_a_video_is_continued_at_any_frame(tmp_path):
    path = write_clip(tmp_path / "a.mp4", parts(12), "mpeg4", "yuv420p")
    assert [frame.number for frame in frames_of(path, first=7)] == [7, 8, 9, 10, 11]
    assert frames_of(path, first=12) == []


def test_a_damaged_frame_is_incomplete_and_those_after_it_are_whole(tmp_path):
    path = write_clip(tmp_path / "a.avi", noise(8), "mjpeg", "yuvj420p")
    damage(path, 5)
    found = frames_of(path)
    assert [frame.number for frame in found] == list(range(8))
    assert [frame.number for frame in found if frame.problem] == [5]
    assert "cannot be decoded" in (found[5].problem or "")


def test_frames_that_are_built_on_a_damaged_one_are_incomplete_until_the_next_key_frame(tmp_path):
    """MPEG-4 has a key frame every 12 frames; those in between are differences."""
    moving = [np.roll(GOOD, index, axis=1) for index in range(16)]
    path = write_clip(tmp_path / "a.avi", moving, "mpeg4", "yuv420p")
    damage(path, 5, size=4)
    problems = [bool(frame.problem) for frame in frames_of(path)]
    assert problems[:5] == [False] * 5
    assert problems[5:12] == [True] * 7
    assert problems[12:16] == [False] * 4


def test_frames_that_a_file_declares_and_lacks_are_missing(tmp_path):
    path = write_clip(tmp_path / "a.avi", parts(12), "rawvideo")
    path.write_bytes(path.read_bytes()[: 5 * 64 * 64])
    found = frames_of(path)
    assert [frame.number for frame in found] == list(range(12))
    assert not any(frame.problem for frame in found[:3])
    assert all(frame.pixels is None and frame.problem for frame in found[-6:])


def test_what_is_no_video_is_refused(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"not a video" * 100)
    with pytest.raises(DataError, match="cannot be opened"):
        VideoCamera(parse_camera(str(tmp_path / "a.mp4")))


def test_a_stream_that_nobody_sends_is_named(tmp_path):
    with pytest.raises(DataError, match="cannot be opened: Connection refused"):
        VideoCamera(parse_camera("rtsp://127.0.0.1:9/cam"))


def test_a_stream_that_ends_is_a_camera_that_is_gone(tmp_path):
    path = write_clip(tmp_path / "a.avi", parts(3), "mjpeg", "yuvj420p")
    camera = VideoCamera(CameraAddress("http://camera/a", "stream", str(path), "a"))
    assert [camera.grab().number for _ in range(3)] == [0, 1, 2]
    with pytest.raises(CameraGoneError, match="sends no more frames"):
        camera.grab()
    camera.close()


def test_a_stream_that_is_joined_in_the_middle_begins_with_a_key_frame(tmp_path):
    path = write_clip(tmp_path / "a.avi", [np.roll(GOOD, index, axis=1) for index in range(16)], "mpeg4", "yuv420p")
    damage(path, 0, size=4)
    camera = VideoCamera(CameraAddress("http://camera/a", "stream", str(path), "a"))
    assert [camera.grab().problem for _ in range(4)] == [None] * 4
    camera.close()
