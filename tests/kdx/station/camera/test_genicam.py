"""GenICam cameras: the simulated ones of the package genicam, and what they cannot do by
stand-ins."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdx.errors import DataError, OptionError
from kdx.station.camera.address import parse_camera
from kdx.station.camera.frames import CameraGoneError
from tests.kdx.station.stations import lines
from tests.kdx.station.test_watching import ON_CPU
from tests.schema1 import old_bundle

pytest.importorskip("genicam", reason="the extra camera is not installed")
pytest.importorskip("harvesters", reason="the extra camera is not installed")

from genicam import genapi, gentl

from kdx.station.camera.frame_counter import FrameCounter
from kdx.station.camera.genicam import GenicamCamera, _set_software_trigger

# Three simulated cameras of 400 × 400 pixels, with the serial numbers 0, 1 and 2.
PRODUCER = Path(gentl.__file__).with_name("viky.cti")
pytestmark = pytest.mark.skipif(not PRODUCER.exists(), reason="this genicam brings no simulated camera")


@pytest.fixture
def opened() -> Iterator[Callable[..., GenicamCamera]]:
    """Opens a simulated camera, and closes it."""
    cameras: list[GenicamCamera] = []

    def opening(given: str, *, is_triggered: bool = False) -> GenicamCamera:
        address = parse_camera(f"genicam:{PRODUCER}{given}")
        cameras.append(GenicamCamera(address, is_triggered=is_triggered))
        return cameras[-1]

    yield opening
    for camera in cameras:
        camera.close()


def grabbed(camera: GenicamCamera, count: int) -> list[Any]:
    found: list[Any] = []
    while len(found) < count:
        if (frame := camera.grab()) is not None:
            found.append(frame)
    return found


@pytest.mark.parametrize(
    ("kind", "shape"), [("Mono8", (100, 120)), ("RGBa8", (100, 120, 3))], ids=["grey", "colour with alpha"]
)
def test_frames_are_numbered_by_the_camera_and_set_as_asked(opened, kind, shape):
    camera = opened(f"?serial=1&PixelFormat={kind}&Width=120&Height=100&AcquisitionFrameRate=200")
    assert camera.size == (120, 100)
    frames = grabbed(camera, 3)
    assert [frame.problem for frame in frames] == [None] * 3
    assert {(frame.pixels.shape, frame.pixels.dtype) for frame in frames} == {(shape, np.dtype(np.uint8))}
    numbers = [frame.number for frame in frames]
    assert numbers == sorted(set(numbers))


def test_a_selector_may_be_repeated(opened):
    """It says which of several values the next feature is."""
    values = [f"ChunkSelector={name}&ChunkEnable=1" for name in ("NrBounces", "Scan3dData")]
    nodes = opened(f"?serial=1&{'&'.join(values)}")._acquirer.remote_device.node_map
    for name in ("NrBounces", "Scan3dData"):
        nodes.ChunkSelector.from_string(name)
        assert nodes.ChunkEnable.value


def test_several_cameras_need_a_serial_number(opened):
    with pytest.raises(OptionError) as caught:
        opened("")
    assert caught.value.received == "Viky 0, Viky 1, Viky 2"
    assert "?serial=0" in caught.value.fix


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ("?serial=9", DataError, "there is no camera"),
        ("?serial=1&NoSuchFeature=1", OptionError, "has no feature 'NoSuchFeature'"),
        ("?serial=1&PixelFormat=Nope", OptionError, "does not take PixelFormat=Nope"),
        ("?serial=1&AcquisitionFrameRate=1e9", OptionError, "must be smaller than or equal 200"),
        ("?serial=1&PixelFormat", OptionError, "settings without a value"),
        ("?serial=1&ComponentSelector=Range&ComponentEnable=1", OptionError, "does not read the pixel format"),
    ],
)
def test_what_a_camera_does_not_have_is_named(opened, given, kind, message):
    with pytest.raises(kind, match=message):
        opened(given)
    opened("?serial=1")  # it was let go


def test_a_camera_that_another_program_uses_is_not_there(opened):
    opened("?serial=1")
    with pytest.raises(DataError, match="there is no camera") as caught:
        opened("?serial=1")
    assert "end the program that uses it" in caught.value.fix


def test_a_file_that_is_no_producer_is_named(tmp_path):
    (tmp_path / "a.cti").write_text("nothing", encoding="utf-8")
    for name in ("a.cti", "missing.cti"):
        with pytest.raises(DataError, match="cannot be loaded"):
            GenicamCamera(parse_camera(f"genicam:{tmp_path / name}"))


def test_a_camera_without_a_software_trigger_takes_one_frame_after_another(opened):
    """It begins to take frames at each trigger, so that none is older than it."""
    camera = opened("?serial=1&PixelFormat=Mono8&AcquisitionFrameRate=200", is_triggered=True)
    for _ in range(3):
        assert not camera._acquirer.is_acquiring()
        frame = camera.take(60.0)
        assert (frame.pixels.shape, frame.problem) == ((400, 400), None)
    assert not camera._acquirer.is_acquiring()


def test_a_frame_that_comes_too_late_is_thrown_away(opened, monkeypatch):
    """A camera with a software trigger: after a miss, it begins from the start."""
    camera = opened("?serial=1", is_triggered=True)
    stand_in = standing_in(monkeypatch, camera, None, {"frame_id": 1}, None, None)._acquirer
    camera._has_trigger = True
    assert camera.take(60.0).number == 1
    assert stand_in.done == ["execute"]
    monkeypatch.setattr("kdx.station.camera.genicam.time", Clock([0.0, 0.0, 0.5, 3.0, 3.0, 3.0]))
    assert camera.take(2.0) is None
    assert stand_in.done == ["execute", "execute", "stop", "start"]


def test_a_frame_that_a_producer_waited_for_too_long_is_thrown_away(opened, monkeypatch):
    """It measures its timeout by the machine's clock, which may be set back meanwhile."""
    camera = opened("?serial=1", is_triggered=True)
    stand_in = standing_in(monkeypatch, camera, None, {"frame_id": 1}, None, {"frame_id": 2})._acquirer
    camera._has_trigger = True
    monkeypatch.setattr("kdx.station.camera.genicam.time", Clock([0.0, 0.0, 0.5, 3.0, 3.0]))
    assert camera.take(2.0) is None
    assert stand_in.done == ["execute", "stop", "start"]
    monkeypatch.setattr("kdx.station.camera.genicam.time", Clock([3.0, 3.0, 3.5, 4.0, 4.0]))
    assert camera.take(2.0).number == 2


def test_frames_that_nobody_asked_for_are_thrown_away_before_a_trigger_and_counted(opened, monkeypatch):
    """Otherwise each part would get the frame of the one before it."""
    camera = opened("?serial=1", is_triggered=True)
    queued = [{"frame_id": 1}, "incomplete", None], [None], [{"frame_id": 5}, None]
    script = [*queued[0], {"frame_id": 3}, *queued[1], {"frame_id": 4}, *queued[2], {"frame_id": 6}]
    standing_in(monkeypatch, camera, *script)
    said: list[str] = []
    camera._has_trigger, camera._say = True, said.append
    assert [camera.take(60.0).number for _ in range(3)] == [3, 4, 6]
    assert said == ["the camera '1' sent 2 frames without a trigger, which are not judged"]
    assert camera._unasked == 3


@pytest.mark.parametrize("given", ["TriggerMode=On&TriggerSource=Line1", "TriggerSource=Line1", "TriggerMode=Off"])
def test_a_trigger_of_the_users_own_is_not_overwritten_in_silence(opened, given):
    with pytest.raises(OptionError, match="would be overwritten"):
        opened(f"?serial=1&{given}", is_triggered=True)


def test_a_software_trigger_is_set_where_the_camera_has_one():
    class Node:
        def __init__(self) -> None:
            self.value = ""

        def from_string(self, value: str) -> None:
            self.value = value

    class Nodes(dict[str, Node]):
        has_node, get_node = dict.__contains__, dict.__getitem__

    nodes = Nodes(TriggerMode=Node(), TriggerSource=Node())
    _set_software_trigger(nodes)
    assert {name: node.value for name, node in nodes.items()} == {"TriggerMode": "On", "TriggerSource": "Software"}


class Clock:
    """Shows the times of a list."""

    def __init__(self, times: list[float]) -> None:
        self._times = iter(times)

    def monotonic(self) -> float:
        return next(self._times)


class StandIn:
    """Buffers of a camera that counts as a list says; an error is raised instead of a buffer."""

    def __init__(self, camera: GenicamCamera, buffers: list[Any]) -> None:
        self._buffers, self._camera, self.parent = iter(buffers), camera, self
        self.remote_device = self.port = self.node_map = self.TriggerSoftware = self
        self.done: list[str] = []

    def try_fetch(self, **_: object) -> Any:
        step = next(self._buffers)
        if isinstance(step, Exception):
            raise step
        if step == "incomplete":
            self._camera._incomplete.emit()
            return None
        if step is None:
            return None
        fields = {
            "frame_id": 1, "pixel_format": 0x01080001, "width": 4, "height": 2, "delivered_image_height": 2,
            "padding_x": 1, "image_offset": 3, "raw_buffer": bytes(range(3 + 2 * 5)), "parent": self, **step,
        }  # fmt: skip
        return type("Buffer", (), fields)()

    def queue_buffer(self, _: object) -> None:
        pass

    def execute(self) -> None:
        self.done.append("execute")

    def start(self) -> None:
        self.done.append("start")

    def stop(self) -> None:
        self.done.append("stop")

    def read(self, *_: object) -> None:
        raise next(self._buffers)


def standing_in(monkeypatch: pytest.MonkeyPatch, camera: GenicamCamera, *buffers: Any) -> GenicamCamera:
    camera._acquirer.stop()
    monkeypatch.setattr(camera, "_acquirer", StandIn(camera, list(buffers)))
    return camera


def test_rows_and_their_padding_are_read_from_where_the_buffer_says(opened, monkeypatch):
    (frame,) = grabbed(standing_in(monkeypatch, opened("?serial=1"), {}), 1)
    np.testing.assert_array_equal(frame.pixels, [[3, 4, 5, 6], [8, 9, 10, 11]])


def test_incomplete_buffers_have_a_number_and_no_picture(opened, monkeypatch):
    frames = [{"frame_id": 7}, "incomplete", {"frame_id": 9, "delivered_image_height": 1}, {"frame_id": 10}]
    found = grabbed(standing_in(monkeypatch, opened("?serial=1"), *frames), 4)
    assert [(frame.number, frame.problem) for frame in found] == [
        (7, None),
        (8, "its buffer is incomplete"),
        (9, "1 of 2 rows came"),
        (10, None),
    ]


def test_a_buffer_that_cannot_be_read_is_incomplete(opened, monkeypatch):
    buffers = [{"pixel_format": 0x01080023}, {"raw_buffer": b"short"}, {"pixel_format": 7}]
    found = grabbed(standing_in(monkeypatch, opened("?serial=1"), *buffers), 3)
    assert all(frame.pixels is None and frame.problem.startswith("its buffer cannot be read") for frame in found)


@pytest.mark.parametrize("kind", [gentl.IoException, genapi.AccessException])
def test_a_camera_that_is_gone_is_noticed_by_its_buffers_or_its_registers(opened, monkeypatch, kind):
    camera = standing_in(
        monkeypatch, opened("?serial=1"), kind("unplugged"), None,
        gentl.InvalidAddressException("no such register"), None, kind("unplugged"),
    )  # fmt: skip
    with pytest.raises(CameraGoneError, match="unplugged"):
        camera.grab()
    monkeypatch.setattr("kdx.station.camera.genicam._LOOK_SECONDS", -1.0)
    camera._next_look = 0.0
    assert camera.grab() is None
    with pytest.raises(CameraGoneError, match="unplugged"):
        camera.grab()


def test_a_counter_of_sixteen_bits_begins_again_without_a_gap():
    counter = FrameCounter()
    assert [counter.number(each) for each in (65534, 65535, 1, 2, 4)] == [65534, 65535, 65536, 65537, 65539]
    assert FrameCounter().number(0) == 0
    counter = FrameCounter()
    assert [counter.number(each) for each in (65534, 65535, 0, 1, 3)] == [65534, 65535, 65536, 65537, 65539]


def test_a_camera_that_counts_nothing_is_counted_here():
    counter = FrameCounter()
    assert [counter.number(None) for _ in range(3)] == [1, 2, 3]


def test_a_counter_that_begins_again_early_is_not_continued():
    counter = FrameCounter()
    assert [counter.number(each) for each in (900, 1)] == [900, 1]


@pytest.mark.skipif(sys.platform == "win32", reason="the test sends a signal as POSIX has it")
def test_frames_are_judged_until_a_signal_and_every_number_has_one_record(tmp_path):
    """The bundle is changed to take frames of any size, which the simulated cameras need."""
    bundle = old_bundle("stpm", tmp_path)
    index = bundle / "bundle.json"
    text = re.sub('"fixed_size": *true', '"fixed_size": false', index.read_text(encoding="utf-8"))
    index.write_text(text, encoding="utf-8")
    camera = f"genicam:{PRODUCER}?serial=0&PixelFormat=Mono8&Width=100&Height=100&AcquisitionFrameRate=50"
    words = ["watch", "--camera", camera, "--bundle", str(bundle), "--out", str(tmp_path / "out"), "--move", "--json"]
    command = [sys.executable, "-m", "kdx", *words, *ON_CPU]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8") as process:
        try:
            assert process.stdout is not None
            for _ in range(5):
                process.stdout.readline()
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 0
    records = lines(tmp_path / "out")
    numbers = [record["frame"] for record in records]
    assert numbers == list(range(numbers[0], numbers[0] + len(records)))
    assert {record["reason"] for record in records if "reason" in record} <= {"frame", "lost_frame", "no_room"}
    kept = [record for record in records if record["image"] is not None]
    assert all((tmp_path / "out" / record["verdict"] / record["image"]).exists() for record in kept)


def test_a_bundle_for_another_camera_is_refused_by_the_command(tmp_path, cli):
    old_bundle("stpm", tmp_path).rename(tmp_path / "tile.kdx")
    refused = cli(
        "watch", "--camera", f"genicam:{PRODUCER}?serial=2", "--bundle", tmp_path / "tile.kdx", "--out",
        tmp_path / "out", *ON_CPU, code=2,
    )  # fmt: skip
    assert "400 × 400 pixels" in refused.stderr
    assert lines(tmp_path / "out") == []
