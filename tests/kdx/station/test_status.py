"""A station says when it makes progress, and when there can be none."""

from __future__ import annotations

import errno
from types import SimpleNamespace

import pytest

from kdx.station import arrivals, station, troubles
from kdx.station.camera.spool import Spool
from kdx.station.status import Status
from tests.kdx.station.stations import BY, NoNotices, drop, options_for, run


@pytest.fixture(autouse=True)
def only_lists(monkeypatch) -> None:
    monkeypatch.setattr(arrivals, "observer_of", lambda *_: NoNotices())
    monkeypatch.setattr(troubles, "_AGAIN_SECONDS", 0.0)


def test_a_full_disk_is_a_fault_until_there_is_room(tmp_path, monkeypatch):
    fails, add = iter(range(2)), station.Ledger.add_file

    def full(*given: object) -> None:
        if next(fails, None) is not None:
            raise OSError(errno.ENOSPC, "No space left on device")
        add(*given)

    monkeypatch.setattr(station.Ledger, "add_file", full)
    drop(tmp_path, a="good")
    found: list[Status] = []
    assert len(list(run(options_for(tmp_path), pulse=found.append))) == 1
    assert found[:4] == [Status.RUNNING, Status.FAULT, Status.FAULT, Status.RUNNING]
    assert set(found[4:]) <= {Status.RUNNING}


def test_a_folder_that_is_gone_is_a_fault(tmp_path, monkeypatch):
    monkeypatch.setattr(station, "_PATIENCE_SECONDS", 0.0)
    drop(tmp_path, a="good")
    options = options_for(tmp_path, scan_every=0.0)
    found: list[Status] = []

    def pulse(status: Status) -> None:
        found.append(status)
        if status is Status.FAULT and not options.folder.exists():
            (tmp_path / "away").rename(options.folder)

    for _ in run(options, pulse=pulse):
        options.folder.rename(tmp_path / "away")
    assert found[0] is Status.RUNNING
    assert Status.FAULT in found
    assert found[-1] is Status.RUNNING


def test_a_disk_that_takes_no_frames_of_a_camera_is_a_fault(tmp_path, monkeypatch):
    """No frame waits for its verdict, because none can be written."""
    monkeypatch.setattr(station, "_PATIENCE_SECONDS", 0.0)
    spool = Spool(tmp_path / "in", "top", 100, keep=False)
    spool.is_full = True
    found: list[Status] = []

    def pulse(status: Status) -> None:
        found.append(status)
        if spool.is_full:
            spool.is_full = False
        else:
            spool.end()

    assert list(run(options_for(tmp_path), source=spool, pulse=pulse)) == []
    assert found[0] is Status.FAULT
    assert set(found[1:]) == {Status.RUNNING}


def test_a_refused_bundle_is_no_fault_and_is_said(tmp_path):
    drop(tmp_path, a="good")
    loaded = SimpleNamespace(take_up=lambda: None, is_refused=True, by=BY)
    found: list[Status] = []
    list(run(options_for(tmp_path), bundles=[(None, loaded)], pulse=found.append))
    assert set(found) == {Status.OLD_BUNDLE}
