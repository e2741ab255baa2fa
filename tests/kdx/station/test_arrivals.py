"""Files are complete before they are judged, and come in order."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from kdx.errors import DataError
from kdx.station import arrivals
from kdx.station.arrivals import Arrivals
from kdx.station.judged_files import Identity


class Clock:
    """A clock that only a test moves."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def watcher(folder: Path, clock: Clock, known: dict[str, Identity] | None = None, **given: float) -> Arrivals:
    seen = known or {}
    return Arrivals(folder, given.get("settle", 2.0), 10.0, lambda n, i: seen.get(n) == i, clock=clock)


def all_of(arriving: Arrivals) -> list[str]:
    found = []
    while (one := arriving.next(0.0)) is not None:
        found.append(one[0])
        arriving.done(one[0])
    return found


def test_a_file_is_complete_once_it_is_at_rest(folder, clock):
    arriving = watcher(folder, clock)
    (folder / "a.png").write_text("half", encoding="utf-8")
    assert all_of(arriving) == []
    clock.seconds += 1.9
    (folder / "a.png").write_text("half and the rest", encoding="utf-8")
    clock.seconds += 1.9  # at rest since the last look at it, and not since the first
    assert all_of(arriving) == []
    clock.seconds += 2
    assert all_of(arriving) == ["a.png"]
    assert arriving.is_idle


def test_what_was_there_comes_in_the_order_of_its_last_change(folder, clock):
    for index, name in enumerate(("c", "a", "b", "sub/z")):
        path = folder / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_text(name, encoding="utf-8")
        os.utime(path, ns=(0, 10**9 * (1 + index // 2)))  # two at a time have the same
    arriving = watcher(folder, clock, settle=0.0)
    assert all_of(arriving) == ["a.png", "c.png", "b.png", "sub/z.png"]


def test_a_file_that_changed_while_it_was_read_comes_to_rest_again(folder, clock):
    (folder / "a.png").write_text("a", encoding="utf-8")
    arriving = watcher(folder, clock)
    arriving.next(0.0)
    clock.seconds += 2
    name, _ = arriving.next(0.0)
    (folder / "a.png").write_text("longer", encoding="utf-8")
    arriving.put_back(name)
    assert (arriving.next(0.0), arriving.waiting) == (None, 0)
    clock.seconds += 2
    assert all_of(arriving) == ["a.png"]


def test_what_was_judged_comes_again_only_when_it_was_written_to(folder, clock):
    (folder / "a.png").write_text("a", encoding="utf-8")
    known = {"a.png": Identity.of((folder / "a.png").stat())}
    arriving = watcher(folder, clock, known, settle=0.0)
    assert all_of(arriving) == []
    (folder / "a.png").write_text("another one", encoding="utf-8")
    clock.seconds += 10
    assert all_of(arriving) == ["a.png"]


def test_what_is_no_image_is_left_out_and_named_when_it_stays(folder, clock):
    for name in ("1.png.part", "notes.txt", ".hidden.png"):
        (folder / name).write_text("x", encoding="utf-8")
    arriving = watcher(folder, clock, settle=0.0)
    assert (all_of(arriving), arriving.left_out) == ([], None)
    (folder / "1.png.part").rename(folder / "1.png")
    clock.seconds += 10
    assert (all_of(arriving), arriving.left_out) == (["1.png"], "notes.txt")


def test_a_folder_that_is_gone_for_a_while_is_waited_for(folder, clock, monkeypatch):
    monkeypatch.setattr(arrivals, "observer_of", lambda *_: type("", (), {"stop": lambda _: 0, "join": lambda _: 0})())
    (folder / "a.png").write_text("a", encoding="utf-8")
    with watcher(folder, clock, settle=0.0) as arriving:
        away = folder.rename(folder.with_name("away"))
        assert (arriving.next(0.0), arriving.is_idle) == (None, False)
        assert "no folder" in arriving.lost
        away.rename(folder)
        clock.seconds += 10
        assert all_of(arriving) == ["a.png"]
        assert arriving.lost is None


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "fork"), reason="only Linux tells renamed files from others")
def test_the_system_tells_what_was_renamed_and_what_was_created(folder, tmp_path):
    """No clock decides: only files that are renamed come, as the others never rest."""
    with Arrivals(folder, float("inf"), 1e9, lambda *_: False) as arriving:
        assert arriving.next(0.0) is None
        (folder / "written.png").write_text("w", encoding="utf-8")
        (folder / "b.part").write_text("b", encoding="utf-8")
        (folder / "b.part").rename(folder / "b.png")
        (tmp_path / "outside.png").write_text("c", encoding="utf-8")
        (tmp_path / "outside.png").rename(folder / "c.png")
        assert [arriving.next(60.0)[0], arriving.done("b.png"), arriving.next(60.0)[0]] == ["b.png", None, "c.png"]
        arriving.done("c.png")
        threading.Timer(0.0, arriving.wake).start()
        assert arriving.next(60.0) is None


def test_listings_that_take_longer_than_their_interval_leave_time_to_judge(folder, clock, monkeypatch):
    listings = []

    def slow(*given: object) -> list[str]:
        clock.seconds += 25
        listings.append(clock.seconds)
        return list(walk(*given))

    walk = arrivals.walk
    monkeypatch.setattr(arrivals, "walk", slow)
    for index in range(9):
        (folder / f"{index}.png").write_text("x", encoding="utf-8")
    arriving = watcher(folder, clock, settle=0.0)
    for _ in range(9):
        name, _ = arriving.next(0.0)
        (folder / name).unlink()
        arriving.done(name)
        clock.seconds += 1
    assert (len(listings), arriving.is_idle) == (1, True)


def test_a_folder_without_notices_is_an_error(folder, clock, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kdx.station.notices.Observer.start", refuse)
    with pytest.raises(DataError, match="no notices"), watcher(folder, clock):
        pass
