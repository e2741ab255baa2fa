"""Heat maps of names that a camera uses again, and of processes that were killed."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

import pytest

from kdx.station import arrivals, heat_maps
from kdx.station.database import FILE
from kdx.station.heat_maps import HeatMaps
from kdx.station.ledger import Ledger
from kdx.storage.renames import rename_new
from tests.kdx.station.stations import NoNotices, drop, lines, options_for, run, sorted_files


@pytest.fixture(autouse=True)
def only_lists(monkeypatch) -> None:
    monkeypatch.setattr(arrivals, "observer_of", lambda *_: NoNotices())


@pytest.mark.parametrize("files", ["stay", "move"])
def test_each_verdict_on_a_name_has_a_picture_of_its_own(tmp_path, files):
    options = options_for(tmp_path, files=files, heat_maps=True)
    for second in range(3):
        drop(tmp_path, a="good")
        os.utime(tmp_path / "in/a.png", (second, second))
        assert len(list(run(options))) == 1
        if files == "move":  # somebody takes the file, and leaves the picture
            (options.out / "good/a.png").unlink()
    assert len(lines(options.out)) == 3
    assert len(sorted_files(options.out)) == 3


def test_a_kill_between_verdict_and_picture_loses_and_leaves_nothing(tmp_path, monkeypatch):
    options = options_for(tmp_path, heat_maps=True)
    drop(tmp_path, a="good")
    with monkeypatch.context() as killed:
        killed.setattr(HeatMaps, "show", lambda *_: None)
        list(run(options))
    assert sorted_files(options.out) == []
    for name in (".no_verdict.png", "..no_verdict.png.abcdefgh.part"):  # of a process killed before its verdict
        (options.out / "heat_maps" / name).write_bytes(b"a picture")
    assert list(run(options)) == []
    assert sorted_files(options.out) == ["heat_maps/good/a.png.png"]
    assert [path.name for path in (options.out / "heat_maps").iterdir()] == ["good"]


def test_a_folder_that_the_file_system_refuses_ends_no_station(tmp_path):
    (tmp_path / "out/heat_maps/good").mkdir(parents=True)
    (tmp_path / "out/heat_maps/good/tray").write_text("a file where a folder would be", encoding="utf-8")
    (tmp_path / "in/tray").mkdir(parents=True)
    (tmp_path / "in/tray/1.png").write_text("good", encoding="utf-8")
    Ledger(tmp_path / "out" / FILE, create=True).close()
    (record,) = run(options_for(tmp_path, heat_maps=True))
    assert sorted_files(tmp_path / "out") == [f"heat_maps/good/{record.verdict_id}.png"]


def test_a_name_that_the_file_system_refuses_is_replaced_by_the_identifier(tmp_path, monkeypatch):
    def refuse(source: Path, target: Path) -> None:
        if target.name == "a.png.png":
            raise OSError(errno.EINVAL, "Invalid argument")
        rename_new(source, target)

    monkeypatch.setattr(heat_maps, "rename_new", refuse)
    drop(tmp_path, a="good")
    said: list[str] = []
    (record,) = run(options_for(tmp_path, heat_maps=True), said.append)
    place = f"heat_maps/good/{record.verdict_id}.png"
    assert (sorted_files(tmp_path / "out"), said) == ([place], [])
    with contextlib.closing(Ledger(tmp_path / "out" / FILE)) as ledger:
        assert ledger.heat_map(record.verdict_id) == place


def test_pictures_that_cannot_be_shown_are_said_once_and_shown_by_the_next_call(tmp_path, monkeypatch):
    def refuse(*_: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    options = options_for(tmp_path, heat_maps=True)
    drop(tmp_path, a="good", b="good")
    said: list[str] = []
    with monkeypatch.context() as patched:
        patched.setattr(heat_maps, "rename_new", refuse)
        assert len(list(run(options, said.append))) == 2
    assert sorted_files(options.out) == []
    assert len(said) == 1
    assert "a.png.png' cannot be shown: [Errno 13] Permission denied; the next call tries again" in said[0]
    assert list(run(options)) == []
    assert len(sorted_files(options.out)) == 2
