"""Heat maps of names that a camera uses again, and of processes that were killed."""

from __future__ import annotations

import os

import pytest

from kdx.station import arrivals
from kdx.station.heat_maps import HeatMaps
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
