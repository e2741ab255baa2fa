"""Every number that a camera counts gets a place in the spool, whatever happens to its frame."""

from __future__ import annotations

import errno
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdx.station.camera import grabber, held, owed, spool
from kdx.station.camera.frames import CameraGoneError, Frame, FrameInfo, infos_of
from kdx.station.camera.grabber import MOST_MISSING, Grabber
from kdx.station.camera.spool import Spool
from tests.kdx.station.camera.clips import GOOD, ScriptedCamera


@pytest.fixture(autouse=True)
def no_pause(monkeypatch) -> None:
    monkeypatch.setattr(held, "FIRST_PAUSE", 0.0)
    monkeypatch.setattr(grabber, "_AGAIN_SECONDS", 0.0)


class Line:
    """A grabber with a spool and what it says; cameras are opened in turn."""

    def __init__(
        self, folder: Path, *scripts: Sequence[Any], is_live: bool = True, room: int = 100, **given: Any
    ) -> None:
        self.said: list[str] = []
        self.spool = Spool(folder / "camera", "top", room, keep=False)
        self.cameras = [ScriptedCamera(script, **given) for script in scripts]
        later = iter(self.cameras[1:])
        self.grabber = Grabber(
            self.cameras[0], lambda: next(later), "top", self.spool, self.said.append, is_live=is_live
        )
        self._folder = folder / "camera"

    def run(self) -> list[FrameInfo]:
        """Grab until the last camera ends, and return what is in the spool."""
        self.grabber.run()
        return self.take()

    def take(self) -> list[FrameInfo]:
        """Take out what is in the spool."""
        found: list[FrameInfo] = []
        while (waiting := self.spool.next(0.0)) is not None:
            found += infos_of(self._folder / waiting[0])
            (self._folder / waiting[0]).unlink()
            self.spool.done(waiting[0])
        return found


def fates(found: Sequence[FrameInfo]) -> list[tuple[int | None, str | None]]:
    return [(info.frame, info.reason and info.reason.value) for info in found]


def test_whole_frames_keep_their_order_and_number(tmp_path):
    line = Line(tmp_path, [7, 8, None, 9])
    found = line.run()
    assert fates(found) == [(7, None), (8, None), (9, None)]
    assert {info.camera for info in found} == {"top"}
    assert line.said == []
    assert not line.cameras[0].is_open


def test_a_gap_in_the_numbers_is_a_record_for_each_missing_frame(tmp_path):
    found = Line(tmp_path, [0, 3, 4]).run()
    assert fates(found) == [(0, None), (1, "lost_frame"), (2, "lost_frame"), (3, None), (4, None)]
    assert found[1].problem == "the camera counted it, and it did not arrive"


@pytest.mark.parametrize("number", [0, 5, 7 + MOST_MISSING])
def test_a_camera_that_counts_from_elsewhere_is_said(tmp_path, number):
    """Nothing says how many frames are missing: one record stands for them."""
    line = Line(tmp_path, [5, number])
    assert fates(line.run()) == [(5, None), (None, "lost_frame"), (number, None)]
    assert "whether frames are missing is not known" in line.said[0]


def test_an_incomplete_frame_is_kept_with_its_reason(tmp_path):
    found = Line(tmp_path, [0, Frame(1, GOOD, "rows are missing"), Frame(2, None, "nothing came"), 3]).run()
    assert fates(found) == [(0, None), (1, "incomplete_frame"), (2, "incomplete_frame"), (3, None)]
    assert [info.problem for info in found[1:3]] == ["rows are missing", "nothing came"]


def test_a_camera_that_is_gone_is_opened_again_and_counts_from_the_beginning(tmp_path):
    line = Line(tmp_path, [40, CameraGoneError("the cable is out")], [CameraGoneError("still out")], [0, 1])
    assert fates(line.run()) == [
        (40, None),
        (None, "camera_gone"),
        (None, "camera_gone"),
        (0, None),
        (1, None),
    ]
    assert line.said == [
        "the cable is out: no frames are judged until it is back",
        "the camera 'top' is back",
        "still out: no frames are judged until it is back",
        "the camera 'top' is back",
    ]
    assert [camera.is_open for camera in line.cameras] == [False] * 3


def test_pauses_grow_until_a_camera_is_back(tmp_path, monkeypatch):
    monkeypatch.setattr(held, "FIRST_PAUSE", 0.5)
    line = Line(tmp_path, [CameraGoneError("out")], [0, CameraGoneError("out")], [1])
    cameras, refusals = iter(line.cameras[1:]), iter([True, True, True, True, True, True, True, False, True, False])
    pauses: list[float] = []

    def reopen() -> ScriptedCamera:
        assert line.spool.is_blind
        if next(refusals):
            raise CameraGoneError("refused")
        return next(cameras)

    monkeypatch.setattr(line.grabber._held, "_opening", reopen)
    monkeypatch.setattr(line.spool.is_over, "wait", pauses.append)
    line.run()
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 0.5, 1]
    assert not line.spool.is_blind


def test_frames_that_find_no_room_are_undecided_and_counted(tmp_path):
    """The camera's third and fourth frame come while two wait; then one is taken out."""
    turn = threading.Semaphore(0)
    line = Line(tmp_path, [0, 1, 2, 3, 4], room=2, turn=turn)
    line.grabber.start()
    for _ in range(4):
        turn.release()
    while line.spool.waiting < 4:
        line.grabber.join(0.01)
    first = line.take()
    turn.release(2)
    line.grabber.join()
    assert fates(first + line.take()) == [(0, None), (1, None), (2, "no_room"), (3, "no_room"), (4, None)]
    assert line.said == [
        "frames come faster than they are judged: those for which there is no room are undecided",
        "there is room for frames again: 2 frames were not judged",
    ]


def test_a_video_waits_until_there_is_room(tmp_path):
    line = Line(tmp_path, range(5), is_live=False, room=2)
    line.grabber.start()
    found: list[FrameInfo] = []
    while line.grabber.is_alive() or line.spool.waiting:
        found += line.take()
        line.grabber.join(0.01)
    assert fates(found) == [(number, None) for number in range(5)]
    assert line.said == ["the video 'top' has ended: no more frames come"]


@pytest.mark.parametrize("is_live", [True, False])
def test_a_full_disk_loses_no_frame_in_silence(tmp_path, monkeypatch, is_live):
    """A live camera's frame is undecided once there is room; a video's frame waits for it."""
    line = Line(tmp_path, [0, 1, 2], is_live=is_live)
    put, refusals = line.spool.put, iter([False, True, False, False, False])

    def full(*given: Any) -> None:
        if next(refusals):
            raise OSError(errno.ENOSPC, "No space left on device")
        put(*given)

    monkeypatch.setattr(line.spool, "put", full)
    assert fates(line.run()) == [(0, None), (1, "no_room" if is_live else None), (2, None)]
    assert line.said[0] == "the disk is full: no frame can be judged until there is room"
    assert len(line.said) == (1 if is_live else 2)


def test_a_full_disk_keeps_no_image_in_the_memory_and_a_bounded_number_of_records(tmp_path, monkeypatch):
    """Seven frames of a live camera, for which four records may wait; then there is room."""
    monkeypatch.setattr(owed, "MOST_OWED", 4)
    line = Line(tmp_path, [*range(7), 7])
    put, take, is_full = line.spool.put, line.grabber._take, True

    def full(*given: Any) -> None:
        if is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        put(*given)

    def taking(frame: Frame) -> None:
        nonlocal is_full
        is_full = frame.number < 7
        take(frame)
        assert len(line.grabber._owed._waiting) <= 4
        assert all(each.pixels is None for each in line.grabber._owed._waiting)

    monkeypatch.setattr(line.spool, "put", full)
    monkeypatch.setattr(line.grabber, "_take", taking)
    found = line.run()
    assert fates(found) == [(0, "no_room"), (1, "no_room"), (2, "no_room"), (None, "no_room"), (7, None)]
    assert found[3].problem.endswith("this record stands for 4 frames")


def test_a_camera_whose_disk_is_full_is_blind_until_there_is_room(tmp_path, monkeypatch):
    """A PLC reads it as a fault; no frame need come for its end, and the record keeps its age."""
    line = Line(tmp_path, [0, None, None])
    put, grab = line.spool.put, line.cameras[0].grab
    blind: list[bool] = []
    since: list[float] = []

    def full(*given: Any) -> None:
        since.append(given[3])
        if len(since) < 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        put(*given)

    def grabbing() -> Frame | None:
        blind.append(line.spool.is_blind)
        return grab()

    monkeypatch.setattr(line.spool, "put", full)
    monkeypatch.setattr(line.cameras[0], "grab", grabbing)
    line.grabber.run()
    assert blind == [False, True, False, False]
    assert since == [line.spool.arrived(line.spool.next(0.0)[0])] * 3
    assert fates(line.take()) == [(0, "no_room")]


def test_a_camera_that_cannot_be_closed_still_ends_the_station(tmp_path, monkeypatch):
    line = Line(tmp_path, [])

    def broken() -> None:
        raise AttributeError("of the driver")

    monkeypatch.setattr(line.cameras[0], "close", broken)
    line.grabber.run()
    with pytest.raises(AttributeError, match="of the driver"):
        line.spool.next(600.0)


def test_another_error_ends_the_station(tmp_path):
    line = Line(tmp_path, [0, ValueError("a bug")])
    line.grabber.run()
    assert fates(infos_of(tmp_path / "camera" / line.spool.next(0.0)[0])) == [(0, None)]
    line.spool.done(line.spool.next(0.0)[0])
    with pytest.raises(ValueError, match="a bug"):
        line.spool.next(0.0)


def test_what_a_killed_process_left_comes_first(tmp_path):
    """A frame that has its record, and one that was being written, do not come again."""
    before = Spool(tmp_path / "camera", "top", 100, keep=False)
    for number in (3, 1, 2):
        before.put(f"top-{number}", FrameInfo(camera="top", frame=number, time="now"), np.zeros((4, 4), np.uint8))
    (tmp_path / "camera/.top-4.png").write_bytes(b"half")
    spool = Spool(tmp_path / "camera", "top", 100, keep=True)
    assert spool.begin(lambda name, _: name == "top-2.png") == ["top-1.png", "top-3.png"]
    assert not list((tmp_path / "camera").glob(".*"))
    assert [name for name, _ in [spool.next(0.0)]] == ["top-1.png"]


def test_a_name_that_exists_is_not_replaced(tmp_path):
    """The machine's clock was set back, and the camera counts from the beginning."""
    spool = Spool(tmp_path / "camera", "top", 100, keep=False)
    for pixels in (None, GOOD, None):
        spool.put("top-1", FrameInfo(camera="top", frame=1, time="now"), pixels)
    assert sorted(path.name for path in (tmp_path / "camera").iterdir()) == ["top-1.lost", "top-1~.png", "top-1~~.lost"]


def test_a_frame_that_somebody_removed_is_undecided(tmp_path):
    line = Line(tmp_path, [0, 1, 4, 5])
    line.grabber.run()
    for number in (0, 2):
        next((tmp_path / "camera").glob(f"*-{number:08d}.*")).unlink()
    found = line.take()
    assert fates(found) == [(None, "lost_frame"), (1, None), (None, "lost_frame"), (4, None), (5, None)]
    assert found[2].problem.endswith(".lost' was removed before it was judged, with 2 frames")
    assert line.spool.waiting == 0


def test_a_frame_that_was_removed_while_the_disk_is_full_has_its_room_back_once(tmp_path, monkeypatch):
    line = Line(tmp_path, [0, 1], is_live=False, room=2)
    line.grabber.run()
    next((tmp_path / "camera").glob("*-00000000.png")).unlink()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(line.spool, "_write", full)
        for _ in range(3):
            with pytest.raises(OSError, match="No space left"):
                line.spool.next(0.0)
    assert fates(line.take()) == [(None, "lost_frame"), (1, None)]
    line.spool.put("top-2", FrameInfo(camera="top", frame=2, time="now"), GOOD)
    assert line.spool.has_room(0.0)
    line.spool.put("top-3", FrameInfo(camera="top", frame=3, time="now"), GOOD)
    assert not line.spool.has_room(0.0)


def test_frames_that_arrive_while_another_is_recorded_end_nothing(tmp_path):
    """The camera's thread puts one in at the worst moment."""
    spool = Spool(tmp_path / "camera", "top", 100, keep=False)

    class Files(deque[Any]):
        def __iter__(self) -> Iterator[Any]:
            found = super().__iter__()
            spool.put("top-2", FrameInfo(camera="top", frame=2, time="now"), GOOD)
            return found

    spool.put("top-1", FrameInfo(camera="top", frame=1, time="now"), GOOD)
    spool._files = Files(spool._files)
    name, _ = spool.next(0.0)
    assert spool.arrived(name) == spool._files[0].since


def test_what_is_known_of_a_frame_is_read_whatever_its_size(tmp_path, monkeypatch):
    """Of a line-scan camera, frames may have more pixels than Pillow opens."""
    spool = Spool(tmp_path / "camera", "top", 100, keep=False)
    info = FrameInfo(camera="top", frame=1, time="now")
    spool.put("top-1", info, GOOD)
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 10)
    assert infos_of(tmp_path / "camera/top-1.png") == [info]
    (tmp_path / "camera/top-2.png").write_bytes(b"no image")
    assert infos_of(tmp_path / "camera/top-2.png") == []


def test_a_camera_that_stays_faster_than_the_judge_takes_neither_files_nor_memory_for_each_frame(tmp_path, monkeypatch):
    """Two images wait, and nobody takes them out. Every number has a line all the same."""
    monkeypatch.setattr(spool, "MOST_IN_FILE", 100)
    line = Line(tmp_path, range(450), room=2)
    line.grabber.run()
    assert len(list((tmp_path / "camera").iterdir())) == len(line.spool._files) == 2 + 5
    assert line.spool.waiting == line.spool.left() == 450
    found = line.take()
    assert fates(found) == [(0, None), (1, None), *((number, "no_room") for number in range(2, 450))]
    assert line.spool.waiting == 0


def lost(number: int) -> tuple[str, FrameInfo, None]:
    return f"top-{number}", FrameInfo(camera="top", frame=number, time="now"), None


@pytest.mark.parametrize("why", ["it is taken out", "it was removed", "an image came"])
def test_what_no_more_is_added_to(tmp_path, why):
    spool = Spool(tmp_path / "camera", "top", 100, keep=False)
    spool.put(*lost(1))
    if why == "it is taken out":
        assert spool.next(0.0)[0] == "top-1.lost"
    elif why == "it was removed":
        (tmp_path / "camera/top-1.lost").unlink()
    else:
        spool.put("top-1.5", FrameInfo(camera="top", frame=None, time="now"), GOOD)
    spool.put(*lost(2))
    assert (tmp_path / "camera/top-2.lost").exists()
    assert spool.waiting == (3 if why == "an image came" else 2)


def test_a_line_that_does_not_reach_the_disk_leaves_nothing_of_it(tmp_path, monkeypatch):
    """Half of it would hide the lines that are added when there is room again."""
    spool = Spool(tmp_path / "camera", "top", 100, keep=True)
    spool.put(*lost(1))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            spool.put(*lost(2))
    spool.put(*lost(3))
    path = tmp_path / "camera/top-1.lost"
    assert fates(infos_of(path)) == [(1, None), (3, None)]
    with path.open("ab") as file:  # a process that was killed while it wrote
        file.write(b'{"camera":"to')
    assert fates(infos_of(path)) == [(1, None), (3, None)]
    after = Spool(tmp_path / "camera", "top", 100, keep=True)
    assert after.begin(lambda *_: False) == ["top-1.lost"]
    assert after.waiting == 2


def test_a_wait_for_frames_ends_when_there_are_no_more(tmp_path):
    line = Line(tmp_path, [])
    line.grabber.start()
    assert line.spool.next(600.0) is None
    assert line.spool.is_idle


def test_the_end_of_a_video_interrupts_one_wait_alone(tmp_path, monkeypatch):
    """A station that runs on after it waits, and takes no time of the processor."""
    line = Line(tmp_path, [0], is_live=False)
    line.grabber.run()
    (info,) = line.take()
    assert info.frame == 0
    waits: list[bool] = []
    monkeypatch.setattr(line.spool._news, "wait_for", lambda condition, _: waits.append(bool(condition())))
    assert line.spool.next(0.5) is None
    assert waits == [False]
    assert line.spool.is_idle
