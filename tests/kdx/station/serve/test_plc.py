"""Verdicts of a server reach a PLC, and the heartbeat stands still when a judge does."""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdx.errors import KdxError
from kdx.station.camera.frames import FrameInfo
from kdx.station.ledger import Ledger
from kdx.station.plc.address import parse_plc
from kdx.station.plc.link import plc_at
from kdx.station.record import NotJudged, time_now
from kdx.station.status import Status
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
def serving(bundle: Path, folder: Path, at: str) -> Iterator[Any]:
    with served(bundle, data=folder / "station", plc=plc_at(parse_plc(at))) as server:
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
        plc.wait_for(lambda: plc.beats[-1][1] == Status.FAULT)
        is_full.clear()
        plc.wait_for(lambda: plc.beats[-1][1] == Status.RUNNING)
        assert client.post("/v1/verdicts?part_id=later", image).status == 200
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
        judge._observers = [Failing(), *judge._observers]
        client = Client(server.url)
        assert client.post("/v1/verdicts?part_id=A", image).json["verdict"] == "good"
        assert client.post("/v1/verdicts", b"no image").status == 422
        assert client.post("/v1/verdicts?part_id=B", image).json["verdict"] == "good"
        plc.wait_for(lambda: len(plc.taken) == 2)
        (shown,) = server._page._live.shift().bundles
        assert shown.counts["good"] == 2  # the other observers saw them
    assert [(one.decision, one.part_id) for one in plc.taken] == [(1, "A"), (1, "B")]


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

        def keep_noted(record: Any) -> None:
            kept.append(threading.current_thread().name)
            keep(record)

        judge._keeper.keep = keep_noted
        asked = SimpleNamespace(image=None, part_id="A", product=None)
        info = FrameInfo(camera="c", frame=None, time=time_now(), reason=NotJudged.MISSED_TRIGGER)
        answer = judge.miss(Job(b"", asked, info), KdxError("no frame")).result()  # type: ignore[arg-type]
    assert answer.record.verdict == "undecided"
    assert kept[0].startswith("kdx serve ")


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
