"""Every frame of a video comes once, and what is damaged is never shown as whole."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kdx.errors import DataError
from kdx.station.camera.address import CameraAddress, parse_camera
from kdx.station.camera.frames import CameraGoneError, Frame, VideoEndError
from kdx.station.camera.grabbing import open_camera
from tests.kdx.station.camera.clips import GOOD, damage, parts, write_clip
from tests.videos import damage as overwrite
from tests.videos import pictures, write_video

av = pytest.importorskip("av", reason="the extra camera is not installed")

from kdx.station.camera.video import VideoCamera  # noqa: E402


def frames_of(path: Path, first: int = 0, lost: list[str] | None = None) -> list[Frame]:
    """Return all frames of a video; what is missing at its end is added to a list."""
    given: list[str] = [] if lost is None else lost
    camera = open_camera(parse_camera(str(path)), first, lose=lambda text, *_: given.append(text))
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


@pytest.mark.parametrize("name", ["a.avi", "a.mkv"])
def test_a_video_that_is_cut_says_so_once_at_its_end(name, tmp_path):
    path = write_clip(tmp_path / name, parts(12), "rawvideo" if name == "a.avi" else "ffv1")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    lost: list[str] = []
    found = frames_of(path, lost=lost)
    assert 3 < len(found) < 9
    assert not any(frame.problem for frame in found[:3])
    assert len(lost) == 1
    assert "is cut: frames are missing at its end" in lost[0]
    again: list[str] = []
    assert frames_of(path, first=len(found), lost=again) == []  # the call before was killed before this
    assert again == lost
    assert frames_of(path, first=len(found) + 1, lost=again) == []
    assert len(again) == 1


def test_frames_before_the_beginning_that_a_file_declares_are_not_missing(tmp_path):
    """An edit list: the packets of the first frames are marked as not shown."""
    whole = write_video(tmp_path / "a.mp4", pictures(12), "mpeg4", "yuv420p")
    with av.open(str(whole)) as source, av.open(str(tmp_path / "b.mp4"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.pts -= 5 * packet.duration
                packet.dts -= 5 * packet.duration
                packet.stream = stream
                target.mux(packet)
    lost: list[str] = []
    found = frames_of(tmp_path / "b.mp4", lost=lost)
    assert [(frame.number, frame.problem) for frame in found] == [(number, None) for number in range(len(found))]
    assert 0 < len(found) < 12
    assert lost == []


def damaged_video(folder: Path) -> tuple[Path, Path]:
    """Return a video with bidirectional frames, and the same with a packet that is no packet."""
    if "libx264" not in av.codecs_available:
        pytest.skip("this PyAV has no encoder for H.264")
    whole = write_video(folder / "a.mp4", pictures(40), "libx264", "yuv420p")
    with av.open(str(whole)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        position = packets[11].pos  # it follows a key frame, which is given out after its error
        assert packets[10].is_keyframe
    data = bytearray(whole.read_bytes())
    data[position : position + 4] = b"\0\0\0\5"
    (folder / "b.mp4").write_bytes(data)
    return whole, folder / "b.mp4"


@pytest.mark.parametrize("is_live", [False, True])
def test_no_frame_with_wrong_pixels_is_whole(is_live, tmp_path):
    """A decoder reports the error of a packet before it gives out the key frame that it follows."""
    whole, damaged = damaged_video(tmp_path)
    right = [frame.pixels for frame in frames_of(whole)]
    found = live_frames(damaged)[0] if is_live else frames_of(damaged)
    assert len(found) == 40
    sound = [frame for frame in found if frame.problem is None]
    assert len(sound) >= 30  # one of the four groups is damaged
    for frame in sound:
        assert frame.pixels is not None
        np.testing.assert_array_equal(frame.pixels, right[frame.number])


def test_what_is_no_video_is_refused(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"not a video" * 100)
    with pytest.raises(DataError, match="is not a readable video"):
        open_camera(parse_camera(str(tmp_path / "a.mp4")))


def test_a_stream_that_nobody_sends_is_named(tmp_path):
    with pytest.raises(DataError, match="cannot be opened: Connection refused"):
        open_camera(parse_camera("rtsp://127.0.0.1:9/cam"))


def live_frames(path: Path) -> tuple[list[Frame], list[str], list[str]]:
    """Return all frames of a file that is read like a stream, what is said, and what is lost."""
    said: list[str] = []
    lost: list[str] = []
    camera = VideoCamera(CameraAddress("http://camera/a", "stream", str(path), "a"), said.append, lost.append)
    found: list[Frame] = []
    with contextlib.suppress(CameraGoneError):
        while True:
            found += [frame for frame in [camera.grab()] if frame is not None]
    camera.close()
    return found, said, lost


def test_a_stream_that_ends_is_a_camera_that_is_gone(tmp_path):
    found, said, lost = live_frames(write_clip(tmp_path / "a.avi", parts(3), "mjpeg", "yuvj420p"))
    assert [(frame.number, frame.problem) for frame in found] == [(0, None), (1, None), (2, None)]
    assert said == lost == []


@pytest.mark.parametrize(("count", "after"), [(16, 4), (10, 0)], ids=["a key frame comes", "none comes"])
def test_frames_before_the_first_key_frame_are_said_and_counted(count, after, tmp_path):
    moving = [np.roll(GOOD, index, axis=1) for index in range(count)]
    path = write_clip(tmp_path / "a.avi", moving, "mpeg4", "yuv420p")
    overwrite(path, 0)
    found, said, lost = live_frames(path)
    assert [(frame.number, frame.problem) for frame in found] == [(number, None) for number in range(after)]
    assert said == ["'a' has sent no key frame yet: frames before it are left out"]
    assert lost == [f"{count - after} frames were left out before the first key frame"]


def test_a_device_that_has_no_frame_yet_is_asked_again(tmp_path, monkeypatch):
    """FFmpeg's error ends the generator of PyAV that raised it."""
    path = write_clip(tmp_path / "a.avi", parts(5), "mjpeg", "yuvj420p")
    container = av.open(str(path))

    class Slow:
        streams, close = container.streams, container.close

        def demux(self, stream: object) -> Iterator[object]:
            yield next(container.demux(stream))
            raise BlockingIOError

    monkeypatch.setattr("kdx.station.camera.video._opened", lambda _: Slow())
    monkeypatch.setattr("kdx.station.camera.video._STEP_SECONDS", 0)
    camera = VideoCamera(CameraAddress("/dev/video0", "device", "/dev/video0", "video0"), print, print)
    assert [camera.grab().number for _ in range(5)] == list(range(5))
    camera.close()
