"""Verdicts of a server reach a PLC, and the heartbeat stands still when a judge does."""

from __future__ import annotations

import contextlib
import errno
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdx.errors import KdxError
from kdx.station.camera import held as holding
from kdx.station.camera.frames import CameraGoneError, FrameInfo
from kdx.station.ledger import Ledger
from kdx.station.plc.address import parse_plc
from kdx.station.plc.connecting import plc_at
from kdx.station.record import NotJudged, time_now
from kdx.station.status import Status
from tests.kdx.station.camera.clips import ScriptedCamera
from tests.kdx.station.plc.modbus_server import Plc, Server
from tests.schema1 import FIXTURES, old_bundle
from tests.serving import PNG, Client, Held, served, wait_until

for _package in ("pymodbus", "starlette", "uvicorn"):
    pytest.importorskip(_package, reason="the extras plc and serve are not installed")


@pytest.fixture
def plc() -> Plc:
    return Plc()


@pytest.fixture
def at(plc: Plc) -> Iterator[str]:
    with Server(plc) as server:
        yield server.url


@contextlib.contextmanager
def serving(bundle: Path, folder: Path, at: str, **given: Any) -> Iterator[Any]:
    with served(bundle, data=folder / "station", plc=plc_at(parse_plc(at)), **given) as server:
        yield server


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return old_bundle("stpm", tmp_path)


@pytest.fixture
def image() -> bytes:
    """A good part."""
    return (FIXTURES / "images/cell-1.png").read_bytes()


def test_each_verdict_is_taken_once_across_a_restart(bundle, tmp_path, at, plc, image):
    plc.takes = False
    with serving(bundle, tmp_path, at) as server:
        client = Client(server.url)
        for part in ("A", "B"):
            assert client.post(f"/v1/verdicts?part_id={part}", image).json["verdict"] == "good"
        assert client.post("/v1/verdicts?part_id=C", b"no image").status == 422  # it has no verdict
        plc.wait_for(lambda: plc.read().sequence == 1)
        plc.wait_for(lambda: plc.beats[-1][1] == Status.RUNNING)
    assert plc.beats[-1][1] == Status.STOPPED
    plc.takes = True
    with serving(bundle, tmp_path, at):
        plc.wait_for(lambda: len(plc.taken) == 2)
    assert [(one.sequence, one.decision, one.part_id) for one in plc.taken] == [(1, 1, "A"), (2, 1, "B")]


def test_a_part_whose_product_has_no_bundle_reaches_the_plc_as_undecided(bundle, tmp_path, at, plc, image):
    with serving(bundle, tmp_path, at) as server:
        answer = Client(server.url).post("/v1/verdicts?part_id=A&product=bolt", image)
        assert (answer.status, answer.json["record"]["reason"]) == (404, NotJudged.NO_BUNDLE.value)
        plc.wait_for(lambda: len(plc.taken) == 1)
    assert [(one.sequence, one.decision, one.part_id) for one in plc.taken] == [(1, 4, "A")]


def test_a_part_without_a_bundle_whose_record_cannot_be_kept_is_a_failure(bundle, tmp_path, at, monkeypatch, image):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    with serving(bundle, tmp_path, at) as server:
        monkeypatch.setattr(Ledger, "post", full)
        answer = Client(server.url).post("/v1/verdicts?part_id=A&product=bolt", image)
        assert (answer.status, answer.json["record"]["verdict"]) == (500, "undecided")
        assert "could not be kept for the PLC" in answer.json["detail"]


def test_a_verdict_of_an_earlier_process_is_not_given_to_a_plc_that_takes_young_ones_alone(
    bundle, tmp_path, at, plc, image
):
    plc.takes = False
    with serving(bundle, tmp_path, at) as server:
        assert Client(server.url).post("/v1/verdicts?part_id=old", image).status == 200
    plc.takes = True
    with serving(bundle, tmp_path, f"{at}?max_age=600") as server:
        assert Client(server.url).post("/v1/verdicts?part_id=new", image).status == 200
        plc.wait_for(lambda: len(plc.taken) > 0)
    assert [one.part_id for one in plc.taken] == ["new"]


def counted(client: Client) -> float:
    """Return how many verdicts the metrics have counted."""
    text = client.get("/metrics").body.decode()
    return sum(float(row.split()[-1]) for row in text.splitlines() if row.startswith("kdx_verdicts_total{"))


def test_a_verdict_that_cannot_be_kept_for_the_plc_is_no_verdict(bundle, tmp_path, at, plc, image, monkeypatch):
    is_full = threading.Event()
    post, set_fact = Ledger.post, Ledger.set_fact

    def full(change: Any) -> Any:
        def once_there_is_room(*given: Any) -> None:
            if is_full.is_set():
                raise OSError(errno.ENOSPC, "No space left on device")
            change(*given)

        return once_there_is_room

    monkeypatch.setattr(Ledger, "post", full(post))
    monkeypatch.setattr(Ledger, "set_fact", full(set_fact))
    with serving(bundle, tmp_path, at) as server:
        client = Client(server.url)
        is_full.set()
        answer = client.post("/v1/verdicts", image)
        assert answer.status == 500
        assert "could not be kept for the PLC" in answer.json["detail"]
        assert answer.json["record"]["verdict"] == "undecided"
        assert counted(client) == 0
        (shown,) = server._page._live.shift().bundles
        assert (shown.counts["undecided"], shown.p50_ms) == (1, None)
        plc.wait_for(lambda: plc.beats[-1][1] == Status.FAULT)
        is_full.clear()
        plc.wait_for(lambda: plc.beats[-1][1] == Status.RUNNING)
        assert client.post("/v1/verdicts?part_id=later", image).status == 200
        assert counted(client) == 1
        plc.wait_for(lambda: len(plc.taken) > 0)
    assert [one.part_id for one in plc.taken] == ["later"]


class Failing:
    """An observer with a defect."""

    def add(self, seen: Any) -> None:
        raise RuntimeError("a defect")

    refuse = add


def test_a_verdict_that_was_kept_stands_although_an_observer_fails(bundle, tmp_path, at, plc, image):
    with serving(bundle, tmp_path, at) as server:
        (judge,) = server.judges.values()
        judge._observers.insert(0, Failing())  # of the parts without a bundle too
        client = Client(server.url)
        assert client.post("/v1/verdicts?part_id=A", image).json["verdict"] == "good"
        assert client.post("/v1/verdicts", b"no image").status == 422
        assert client.post("/v1/verdicts?part_id=B", image).json["verdict"] == "good"
        assert client.post("/v1/verdicts?part_id=C&product=bolt", image).status == 404
        plc.wait_for(lambda: len(plc.taken) == 3)
        shown, nobody = server._page._live.shift().bundles
        assert (shown.counts["good"], nobody.counts["undecided"]) == (2, 1)  # the other observers saw them
    assert [(one.decision, one.part_id) for one in plc.taken] == [(1, "A"), (1, "B"), (4, "C")]


def test_an_end_by_an_error_is_a_fault(bundle, tmp_path, at, plc):
    def run() -> None:
        with serving(bundle, tmp_path, at):
            plc.wait_for(lambda: bool(plc.beats) and plc.beats[-1][1] == Status.RUNNING)
            raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        run()
    assert plc.beats[-1][1] == Status.FAULT


def test_a_missed_trigger_is_kept_by_the_thread_of_the_judge(bundle, tmp_path, at):
    from kdx.station.serve.judge import Job

    with serving(bundle, tmp_path, at) as server:
        (judge,) = server.judges.values()
        kept: list[str] = []
        keep = judge._keeper.keep

        def keep_noted(*given: Any) -> None:
            kept.append(threading.current_thread().name)
            keep(*given)

        judge._keeper.keep = keep_noted
        asked = SimpleNamespace(image=None, part_id="A", product=None)
        info = FrameInfo(camera="c", frame=None, time=time_now(), reason=NotJudged.MISSED_TRIGGER)
        answer = judge.miss(Job(b"", asked, 0.0, info), KdxError("no frame")).result()  # type: ignore[arg-type]
    assert answer.record.verdict == "undecided"
    assert kept[0].startswith("kdx serve ")


def noted_since(server: Any, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list that gets, in place of the PLC, since when each part is there."""
    (judge,) = server.judges.values()
    since: list[float] = []
    monkeypatch.setattr(judge._keeper, "keep", lambda _, came: since.append(came))
    return since


def wait_for_a_request(server: Any) -> float:
    """Wait until a request has a place; return when it certainly had come."""
    wait_until(
        lambda: re.search(rb"^kdx_serve_places\{.*\} 1", Client(server.url).get("/metrics").body, re.M) is not None
    )
    return time.monotonic()


@pytest.mark.parametrize("product", ["", "?product=bolt"])
def test_the_age_of_a_part_counts_from_its_request_and_not_from_the_end_of_the_body(
    bundle, tmp_path, at, image, monkeypatch, product
):
    with serving(bundle, tmp_path, at) as server:
        since = noted_since(server, monkeypatch)
        client = Client(server.url)
        client.connection.putrequest("POST", f"/v1/verdicts{product}")
        client.connection.putheader("Content-Length", str(len(image)))
        client.connection.endheaders()
        before_the_body = wait_for_a_request(server)
        client.connection.send(image)
        assert client.answer().status == (404 if product else 200)
    (came,) = since
    assert came <= before_the_body


def test_the_age_of_a_part_counts_from_its_trigger_and_not_from_its_frame(bundle, tmp_path, at, monkeypatch):
    turn = threading.Semaphore(0)
    monkeypatch.setattr("kdx.station.serve.server.open_camera", lambda *_, **__: ScriptedCamera([0], turn))
    (tmp_path / "clip.mkv").touch()
    with serving(bundle, tmp_path, at, camera=str(tmp_path / "clip.mkv"), trigger_timeout=60.0) as server:
        since = noted_since(server, monkeypatch)
        client = Client(server.url)
        client.send("POST", "/v1/trigger", None, {})
        before_the_frame = wait_for_a_request(server)
        turn.release()
        assert client.answer().status == 200
    (came,) = since
    assert came <= before_the_frame


def test_the_heartbeat_needs_progress_of_every_judge(bundle, tmp_path, at, plc, image):
    from kdx.station.serve.plc import Progress

    with serving(bundle, tmp_path, at) as server:
        (judge,) = server.judges.values()
        progress = Progress([judge])
        wait_until(lambda: progress.look() is Status.RUNNING)  # nothing is asked, and it goes on
        held = judge.detector = Held(judge.detector)
        client = Client(server.url)
        client.send("POST", "/v1/verdicts", image, PNG)
        wait_until(lambda: held.calls == 1)
        progress.look()  # what was done before
        assert [progress.look() for _ in range(5)] == [None] * 5
        held.may.release()
        assert client.answer().status == 200
        wait_until(lambda: progress.look() is Status.RUNNING)
        judge.is_working = False
        assert progress.look() is Status.FAULT
        wait_until(lambda: progress.look() is Status.RUNNING)  # it was tried again


class Cameras:
    """Opens cameras that can be unplugged.

    Args:
        monkeypatch: Lets the server open them.
        folder: Where a file stands for the video that the user names.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, frames: int) -> None:
        monkeypatch.setattr(holding, "FIRST_PAUSE", 0.0)
        monkeypatch.setattr("kdx.station.serve.server.open_camera", self._open)
        self.name = str(folder / "clip.mkv")
        (folder / "clip.mkv").touch()
        self._frames, self._is_out = frames, False
        self._opened: list[ScriptedCamera] = []

    def _open(self, *_: Any, **__: Any) -> ScriptedCamera:
        if self._is_out:
            raise CameraGoneError("it cannot be found")
        self._opened.append(ScriptedCamera(range(self._frames)))
        return self._opened[-1]

    def unplug(self) -> None:
        self._is_out, self._opened[-1].unplugged = True, CameraGoneError("the cable is out")

    def plug_in(self) -> None:
        self._is_out = False


def test_a_camera_that_is_gone_is_a_fault_until_it_is_back_although_nothing_triggers_it(
    bundle, tmp_path, at, plc, monkeypatch
):
    """The fault has stopped the line: no trigger would come to open the camera."""
    cameras = Cameras(monkeypatch, tmp_path, 9)
    with serving(bundle, tmp_path, at, camera=cameras.name) as server:
        plc.wait_for(lambda: bool(plc.beats) and plc.beats[-1][1] == Status.RUNNING)
        assert Client(server.url).get("/ready").status == 200
        cameras.unplug()
        plc.wait_for(lambda: plc.beats[-1][1] == Status.FAULT)
        wait_until(lambda: Client(server.url).get("/ready").json.get("detail") == "it cannot be found")
        assert Client(server.url).get("/ready").status == 503
        missed = Client(server.url).post("/v1/trigger?part_id=A", None, {})
        assert (missed.status, missed.json["record"]["reason"]) == (502, "missed_trigger")
        cameras.plug_in()
        plc.wait_for(lambda: plc.beats[-1][1] == Status.RUNNING)
        assert Client(server.url).post("/v1/trigger?part_id=B", None, {}).json["verdict"] == "good"
        plc.wait_for(lambda: len(plc.taken) == 2)
    assert [(one.decision, one.part_id) for one in plc.taken] == [(4, "A"), (1, "B")]


def test_the_end_of_a_video_that_stands_for_a_camera_is_a_fault(bundle, tmp_path, at, plc, monkeypatch):
    cameras = Cameras(monkeypatch, tmp_path, 1)
    with serving(bundle, tmp_path, at, camera=cameras.name) as server:
        assert Client(server.url).post("/v1/trigger", None, {}).status == 200
        plc.wait_for(lambda: bool(plc.beats) and plc.beats[-1][1] == Status.RUNNING)
        assert Client(server.url).post("/v1/trigger", None, {}).status == 502
        plc.wait_for(lambda: plc.beats[-1][1] == Status.FAULT)
        answer = Client(server.url).get("/ready")
        assert (answer.status, answer.json["detail"]) == (503, "the video has no more frames")


def test_the_heartbeat_stands_still_while_the_camera_hangs(tmp_path):
    from kdx.station.camera.address import CameraAddress
    from kdx.station.serve.camera import TriggeredCamera
    from kdx.station.serve.plc import Progress

    turn = threading.Semaphore(0)
    address = CameraAddress("clip.mkv", "video", "clip.mkv", "top")
    camera = TriggeredCamera(address, lambda: ScriptedCamera([0], turn), 60.0)
    progress = Progress([camera])
    wait_until(lambda: progress.look() is Status.RUNNING)
    shot = camera.take()
    wait_until(lambda: progress.look() is None)
    assert [progress.look() for _ in range(5)] == [None] * 5
    turn.release()
    assert shot.result().info.frame == 0
    wait_until(lambda: progress.look() is Status.RUNNING)
    camera.close()
