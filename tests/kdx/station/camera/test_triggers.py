"""Each trigger gets exactly one record, and never the frame of another one."""

from __future__ import annotations

import errno
import signal
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kdx.station.camera import held, owed, triggered
from kdx.station.camera.frames import CameraGoneError, Frame, FrameInfo, infos_of
from kdx.station.camera.spool import Spool
from kdx.station.camera.triggered import TriggeredGrabber
from kdx.station.camera.triggers import Trigger, Triggers
from tests.kdx.station.camera.clips import GOOD, ScriptedCamera, parts, write_clip
from tests.kdx.station.camera.test_camera_command import arguments, place, posix, watching  # noqa: F401  # a fixture
from tests.kdx.station.stations import lines
from tests.kdx.station.test_watching import broker

pytest.importorskip("paho.mqtt", reason="paho-mqtt is not installed")

from kdx.station.camera.mqtt_triggers import asked_by


class Line:
    """A camera that is triggered; all triggers come before the first frame is taken."""

    def __init__(self, folder: Path, *scripts: Sequence[Any], room: int = 100) -> None:
        self.said: list[str] = []
        self._folder = folder / "camera"
        self.spool = Spool(self._folder, "top", room, keep=False)
        self.triggers = Triggers(self.spool, "top")
        cameras = [ScriptedCamera(script) for script in scripts]
        later = iter(cameras[1:])
        self.grabber = TriggeredGrabber(
            cameras[0], lambda: next(later), self.triggers, 60.0, self.spool, self.said.append
        )

    def run(self, count: int) -> list[tuple[str | None, int | None, str | None]]:
        """Trigger parts 0, 1 and so on; return part, number and reason of what is in the spool."""
        for number in range(count):
            self.triggers.add(f"part {number}")
        self.run_for(count)
        return [(info.part_id, info.frame, info.reason and info.reason.value) for info in self.take()]

    def run_for(self, count: int) -> None:
        """Answer a number of triggers."""
        answer, left = self.grabber._answer, iter(range(count - 1, -1, -1))

        def answering(trigger: Trigger) -> None:
            answer(trigger)
            if not next(left):
                self.spool.is_over.set()

        self.grabber._answer = answering  # type: ignore[method-assign]
        self.grabber.run()

    def take(self) -> list[FrameInfo]:
        found: list[FrameInfo] = []
        while (waiting := self.spool.next(0.0)) is not None:
            found += infos_of(self._folder / waiting[0])
            (self._folder / waiting[0]).unlink()
            self.spool.done(waiting[0])
        assert not list(self._folder.iterdir())
        return found


def test_each_trigger_has_its_frame_until_the_video_ends(tmp_path):
    line = Line(tmp_path, [7, 8])
    missed = [(f"part {number}", None, "missed_trigger") for number in (2, 3)]
    assert line.run(4) == [("part 0", 7, None), ("part 1", 8, None), *missed]
    assert line.spool.is_idle
    assert line.spool.is_blind  # no trigger will have a frame: a PLC reads it as a fault


def test_a_frame_that_does_not_come_is_missed_and_the_next_trigger_has_its_own(tmp_path):
    line = Line(tmp_path, [0, None, Frame(2, GOOD, "rows are missing")])
    assert line.run(3) == [
        ("part 0", 0, None),
        ("part 1", None, "missed_trigger"),
        ("part 2", 2, "incomplete_frame"),
    ]


def test_a_trigger_that_waited_too_long_gets_no_frame(tmp_path, monkeypatch):
    """Its part has moved on."""
    line = Line(tmp_path, [0])
    line.triggers.add("late")
    now = triggered.time.monotonic()
    monkeypatch.setattr(triggered.time, "monotonic", lambda: now + 61.0)
    waiting = line.triggers.next(0.0)
    assert waiting is not None
    line.grabber._answer(waiting)
    (info,) = line.take()
    assert (info.reason, info.problem) == ("missed_trigger", "no frame came within 60 s")


def test_triggers_are_undecided_while_the_camera_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(held, "FIRST_PAUSE", 0.0)
    gone = CameraGoneError("the cable is out")
    line = Line(tmp_path, [gone], [5])
    line.grabber._held._next_pause = 1e9
    answer = line.grabber._answer
    count = 0

    def back_after_the_third(trigger: Any) -> None:
        nonlocal count
        answer(trigger)
        count += 1
        if count == 3:
            line.grabber._held._again = 0.0

    monkeypatch.setattr(line.grabber, "_answer", back_after_the_third)
    assert line.run(4) == [
        *((f"part {number}", None, "missed_trigger") for number in range(3)),
        ("part 3", 5, None),
    ]
    assert line.said == ["the cable is out: triggers are undecided until it is back", "the camera is back"]


def test_a_station_whose_camera_is_gone_is_blind_until_it_is_back(tmp_path, monkeypatch):
    """A PLC reads it as a fault."""
    monkeypatch.setattr(held, "FIRST_PAUSE", 0.0)
    line = Line(tmp_path, [CameraGoneError("the cable is out")], [5])
    seen: list[bool] = []
    fulfil = line.grabber._fulfil

    def seeing(*given: Any) -> None:
        seen.append(line.spool.is_blind)
        fulfil(*given)

    monkeypatch.setattr(line.grabber, "_fulfil", seeing)
    assert line.run(2) == [("part 0", None, "missed_trigger"), ("part 1", 5, None)]
    assert seen == [True, False]


def test_a_camera_that_is_unplugged_between_two_triggers_is_gone_at_once(tmp_path, monkeypatch):
    line = Line(tmp_path, [0])
    monkeypatch.setattr(line.grabber._held.camera, "unplugged", CameraGoneError("the cable is out"))
    monkeypatch.setattr(line.triggers, "next", lambda _: None)
    lose = line.grabber._lose

    def losing(error: Any) -> None:
        lose(error)
        line.spool.is_over.set()

    monkeypatch.setattr(line.grabber, "_lose", losing)
    line.grabber.run()
    assert line.spool.is_blind
    assert line.said == ["the cable is out: triggers are undecided until it is back"]


def test_a_trigger_after_the_end_of_a_video_is_missed_too(tmp_path):
    """The station knows that the video has ended, and runs on."""
    line = Line(tmp_path, [7])
    answer, came = line.grabber._answer, iter(["last", None])
    for part in ("first", "after"):
        line.triggers.add(part)

    def answering(trigger: Trigger) -> None:
        answer(trigger)
        if trigger.info.part_id == "last":
            line.spool.is_over.set()

    def ending() -> None:
        end()
        if (part := next(came, None)) is not None:
            line.triggers.add(part)

    end, line.spool.end = line.spool.end, lambda *failure: end(*failure) if failure else ending()  # type: ignore[method-assign]
    line.grabber._answer = answering  # type: ignore[method-assign]
    line.grabber.run()
    fates = [(info.part_id, info.frame, info.reason) for info in line.take()]
    assert fates == [("first", 7, None), ("after", None, "missed_trigger"), ("last", None, "missed_trigger")]
    assert line.said == ["the video has ended: triggers are undecided from now on"]


def test_the_time_of_a_frame_is_when_it_came(tmp_path, monkeypatch):
    line = Line(tmp_path, [0, None])
    monkeypatch.setattr("kdx.station.camera.triggers.time_now", lambda: "2026-03-01T07:00:00.000+00:00")
    monkeypatch.setattr("kdx.station.camera.triggered.time_now", lambda: "2026-03-01T07:00:01.500+00:00")
    for _ in range(2):
        line.triggers.add()
    line.run_for(2)
    assert [info.time[17:23] for info in line.take()] == ["01.500", "00.000"]


def test_a_trigger_waits_for_no_file(tmp_path, monkeypatch):
    """It is queued, with its time, before the disk has taken what stands for it."""
    line = Line(tmp_path, [])
    threads: list[threading.Thread] = []
    promise = line.spool.promise

    def promising(*given: Any) -> str:
        threads.append(threading.current_thread())
        return promise(*given)

    monkeypatch.setattr(line.spool, "promise", promising)
    line.triggers.add("4711")
    waiting = line.triggers.next(0.0)
    assert waiting is not None
    assert (tmp_path / "camera" / f"{waiting.place.result()}.lost").exists()
    assert threads
    assert threading.current_thread() not in threads


def test_triggers_that_find_no_room_are_bounded_and_have_one_record(tmp_path, monkeypatch):
    monkeypatch.setattr("kdx.station.camera.triggers.MOST_WAITING", 2)
    line = Line(tmp_path, [0, 1])
    assert [line.triggers.add(f"part {number}") for number in range(5)] == [True, True, False, False, False]
    line.run_for(3)
    found = line.take()
    assert [(info.part_id, info.frame) for info in found] == [("part 0", 0), ("part 1", 1), (None, None)]
    assert found[2].problem == "more than 2 triggers waited: this record stands for 3"


def full_disk(line: Line, monkeypatch: Any) -> threading.Event:
    """Let the disk be full while the event is set."""
    write, is_full = line.spool._write, threading.Event()

    def refusing(name: str, data: bytes) -> None:
        if is_full.is_set():
            raise OSError(errno.ENOSPC, "No space left on device")
        write(name, data)

    monkeypatch.setattr(line.spool, "_write", refusing)
    return is_full


def test_a_trigger_for_which_the_disk_has_no_room_at_all_is_said(tmp_path, monkeypatch):
    line = Line(tmp_path, [0])
    full_disk(line, monkeypatch).set()
    assert line.run(1) == []
    assert line.said[1:] == ["1 trigger has no record: the disk is full"]


def test_a_trigger_that_finds_no_room_is_undecided(tmp_path):
    assert Line(tmp_path, [0, 1], room=1).run(2) == [("part 0", 0, None), ("part 1", None, "no_room")]


@pytest.mark.parametrize("is_promised", [True, False])
def test_a_full_disk_loses_no_trigger(tmp_path, monkeypatch, is_promised):
    """A PLC stops the line, and sees no fault once there is room, though no trigger comes."""
    monkeypatch.setattr(triggered, "_PATIENCE_SECONDS", 0.0)
    line = Line(tmp_path, [0, 1])
    is_full = full_disk(line, monkeypatch)
    if not is_promised:
        is_full.set()
    for part in ("first", "second"):
        line.triggers.add(part)
    line.triggers.close()
    is_full.set()
    for _ in range(2):
        line.grabber._answer(line.triggers.next(0.0))  # type: ignore[arg-type]
    assert (line.spool.is_blind, line.spool.waiting) == (True, 0)
    is_full.clear()
    monkeypatch.setattr(line.grabber, "_look", line.spool.is_over.set)
    line.grabber.run()
    assert not line.spool.is_blind
    assert [(info.part_id, info.reason) for info in line.take()] == [("first", "no_room"), ("second", "no_room")]
    assert line.said == ["the disk is full: triggers are undecided until there is room"]


def test_a_trigger_whose_frame_a_full_disk_did_not_take_has_a_record_by_the_next_call(tmp_path, monkeypatch):
    line = Line(tmp_path, [0])
    is_full = full_disk(line, monkeypatch)
    line.triggers.add("first")
    line.triggers.close()
    is_full.set()
    line.run_for(1)
    assert line.said == ["the disk is full: triggers are undecided until there is room"]
    (name,) = Spool(tmp_path / "camera", "top", 100, keep=False).begin(lambda *_: False)
    (info,) = infos_of(tmp_path / "camera" / name)
    assert (info.part_id, info.reason) == ("first", "missed_trigger")


def test_triggers_on_a_full_disk_take_a_bounded_memory(tmp_path, monkeypatch):
    """Two were promised: the last is as it was written then. One stands for three others."""
    monkeypatch.setattr(owed, "MOST_OWED", 2)
    line = Line(tmp_path, range(5))
    is_full = full_disk(line, monkeypatch)
    for part in ("a", "b"):
        line.triggers.add(part)
    line.triggers._writer.submit(is_full.set).result()
    for part in ("c", "d", "e"):
        line.triggers.add(part)
    for _ in range(5):
        line.grabber._answer(line.triggers.next(0.0))  # type: ignore[arg-type]
    assert line.spool.waiting == 1
    is_full.clear()
    line.grabber._settle()
    found = line.take()
    assert [(info.part_id, info.reason) for info in found] == [
        ("b", "missed_trigger"), ("a", "no_room"), (None, "no_room"),
    ]  # fmt: skip
    assert found[2].problem.endswith("stands for 3 frames")


def test_a_trigger_whose_process_was_killed_has_a_record(tmp_path):
    """Before its frame came, and between its frame and the removal of what stood for it."""
    line = Line(tmp_path, [])
    line.triggers.add("before")
    line.triggers.add("between")
    line.triggers.close()
    stems = sorted(path.stem for path in (tmp_path / "camera").iterdir())
    (tmp_path / f"camera/{stems[1]}.png").write_bytes(b"its frame")
    spool = Spool(tmp_path / "camera", "top", 100, keep=False)
    assert spool.begin(lambda *_: False) == [f"{stems[0]}.lost", f"{stems[1]}.png"]
    (info,) = infos_of(tmp_path / f"camera/{stems[0]}.lost")
    assert (info.part_id, info.reason) == ("before", "missed_trigger")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (b"", (None, None)),
        (b"4711\n", ("4711", None)),
        ("Gehäuse 7".encode(), ("Gehäuse 7", None)),
        (b'{"part_id": "4711", "product": "nut"}', ("4711", "nut")),
    ],
)
def test_what_a_message_says(message, expected):
    assert asked_by(message) == expected


@pytest.mark.parametrize(
    "message", [b"\xff\xfe", b"a\nb", b"x" * 201, b"{", b'{"part": "4711"}', b'{"part_id": 4711}', b'{"product": ""}']
)
def test_a_message_that_cannot_be_read_is_no_part(message):
    with pytest.raises(ValueError):  # noqa: PT011  # its kind is all that counts
        asked_by(message)


@posix
def test_triggers_of_a_broker_have_one_record_each(place):  # noqa: F811
    """A good and a defective part, a message that cannot be read, and two after the video's end."""
    pytest.importorskip("amqtt", reason="the broker amqtt is not installed")
    from paho.mqtt.publish import single

    write_clip(place / "clip.mkv", [*parts(1), *parts(10)[9:]])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    more = ("--trigger", f"mqtt://127.0.0.1:{port}/line/triggers")
    with broker(port), watching(place, *more) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        while "triggers come from" not in process.stderr.readline():
            pass
        for message in ("4711", '{"part_id": "4712"}', "{", "4713", "4714"):
            single("line/triggers", message, qos=2, hostname="127.0.0.1", port=port)
            process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
        assert "3 undecided (3 missed_trigger)" in process.stderr.read()
    records = lines(place / "out")
    assert [(record["part_id"], record["verdict"], record.get("reason")) for record in records] == [
        ("4711", "good", None),
        ("4712", "defective", None),
        (None, "undecided", "missed_trigger"),
        ("4713", "undecided", "missed_trigger"),
        ("4714", "undecided", "missed_trigger"),
    ]
    assert "cannot be read" in records[2]["error"]["message"]
    assert list((place / "out/camera").iterdir()) == []


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["IN", "--trigger", "mqtt://h/t"], "--trigger would change nothing without --camera"),
        (["--camera", "CLIP", "--trigger-timeout", "1"], "--trigger-timeout would change nothing without --trigger"),
        (["--camera", "rtsp://h/c", "--trigger", "mqtt://h/t"], "frames of a stream were taken some time before"),
        (["--camera", "CLIP", "--trigger", "mqtt://h/t", "--part-id", "(?P<part>x)"], "--part-id would change nothing"),
        (["--camera", "CLIP", "--trigger", "software"], "--trigger does not name a broker and a topic"),
    ],
)
def test_triggers_that_make_no_sense_are_refused(place, cli, more, message):  # noqa: F811
    (place / "in").mkdir()
    names = {"CLIP": str(place / "clip.mkv"), "IN": str(place / "in")}
    words = ["watch", *(names.get(word, word) for word in more), *arguments(place)[3:]]
    assert message in cli(*words, code=2).stderr
