"""Files are complete before they are judged, and come in order."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from kdx.errors import DataError
from kdx.folders import image_search
from kdx.station import arrivals
from kdx.station.arrivals import Arrivals
from kdx.station.judged_files import Identity
from kdx.station.notices import FOLDER, RENAMED
from tests.kdx.station.stations import NoNotices


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


def watcher(folder: Path, clock: Clock, known: dict[str, Identity] | None = None, **given: Any) -> Arrivals:
    seen = known or {}
    settle, say = given.get("settle", 2.0), given.get("say", lambda _: None)
    return Arrivals(folder, settle, 10.0, lambda n, i: seen.get(n) == i, clock=clock, say=say)


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
    for name in ("1.png.part", "notes.txt", ".hidden.png", "run/run.json", "run/images/1.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x", encoding="utf-8")
    arriving = watcher(folder, clock, settle=0.0)
    assert (all_of(arriving), arriving.left_out()) == ([], [])
    (folder / "1.png.part").rename(folder / "1.png")
    clock.seconds += 10
    assert all_of(arriving) == ["1.png"]
    assert {remark.kind: remark.first for remark in arriving.left_out()} == {
        "hidden": (".hidden.png",), "not_an_image": ("notes.txt",), "own_output": ("run",),
    }  # fmt: skip


@pytest.mark.parametrize("place", ["run/run.json", "tile.kdx/bundle.json"])
def test_images_of_runs_and_bundles_are_left_out_whether_they_are_noticed_or_listed(folder, clock, place):
    arriving = watcher(folder, clock, settle=0.0)
    assert all_of(arriving) == []
    image = (folder / place).parent / "golden/1.png"
    image.parent.mkdir(parents=True)
    for path in (image, folder / place):
        path.write_text("x", encoding="utf-8")
    arriving._notices.put((RENAMED, str(image), clock()))
    assert all_of(arriving) == []
    clock.seconds += 10
    assert all_of(arriving) == []
    assert [remark.first for remark in arriving.left_out(at_end=True)] == [(place.partition("/")[0],)]


def test_a_subfolder_that_is_removed_while_the_folder_is_listed_hides_no_other(folder, clock, monkeypatch):
    scan = image_search.scan

    def removing(path: Path) -> list[tuple[str, bool, bool]]:
        if path.name == "a":
            shutil.rmtree(path)
        return scan(path)

    for name in ("a", "b"):
        (folder / name).mkdir()
        (folder / name / "1.png").write_text("x", encoding="utf-8")
    monkeypatch.setattr(image_search, "scan", removing)
    arriving = watcher(folder, clock, settle=0.0)
    assert (all_of(arriving), arriving.lost) == (["b/1.png"], None)


def test_a_subfolder_that_cannot_be_listed_is_named_and_hides_no_other(folder, clock, monkeypatch):
    scandir = os.scandir

    def refusing(path: Path) -> Any:
        if Path(path).name == "a":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    for name in ("a", "b"):
        (folder / name).mkdir()
        (folder / name / "1.png").write_text("x", encoding="utf-8")
    monkeypatch.setattr(image_search.os, "scandir", refusing)
    arriving = watcher(folder, clock, settle=0.0)
    assert (all_of(arriving), arriving.lost) == (["b/1.png"], None)
    assert [(one.kind, one.first) for one in arriving.left_out(at_end=True)] == [("unlisted_folder", ("a",))]
    with pytest.raises(DataError, match="cannot be listed"):  # other commands judge all, or nothing
        list(image_search.walk(folder))


def test_a_folder_that_is_gone_for_a_while_is_waited_for(folder, clock, monkeypatch):
    monkeypatch.setattr(arrivals, "observer_of", lambda *_: NoNotices())
    (folder / "a.png").write_text("a", encoding="utf-8")
    with watcher(folder, clock, settle=0.0) as arriving:
        away = folder.rename(folder.with_name("away"))
        assert (arriving.next(0.0), arriving.is_idle) == (None, False)
        assert "no folder" in arriving.lost
        away.rename(folder)
        clock.seconds += 10
        assert all_of(arriving) == ["a.png"]
        assert arriving.lost is None


def test_files_that_wait_keep_their_age_while_the_folder_is_gone(folder, clock, monkeypatch):
    monkeypatch.setattr(arrivals, "observer_of", lambda *_: NoNotices())
    (folder / "old.png").write_text("x", encoding="utf-8")
    with watcher(folder, clock, settle=0.0) as arriving:
        assert arriving.next(0.0)[0] == "old.png"
        (folder / "new.png").write_text("x", encoding="utf-8")
        clock.seconds += 10
        arriving.next(0.0)
        away = folder.rename(folder.with_name("away"))
        clock.seconds += 10
        arriving.next(0.0)
        assert arriving.lost is not None
        away.rename(folder)
        (folder / "unknown.png").write_text("x", encoding="utf-8")
        clock.seconds += 10
        arriving.next(0.0)
        assert arriving.lost is None
        seen = [arriving.seen(name) for name in ("old.png", "new.png", "unknown.png")]
    assert seen == [float("-inf"), 110.0, float("-inf")]


def test_a_folder_that_another_one_replaced_is_watched_and_that_is_said(folder, clock, monkeypatch):
    observed: list[tuple[int, int]] = []

    def observer_of(watched: Path, *_: object) -> NoNotices:
        observed.append((watched.stat().st_dev, watched.stat().st_ino))
        return NoNotices()

    monkeypatch.setattr(arrivals, "observer_of", observer_of)
    said: list[str] = []
    with watcher(folder, clock, settle=0.0, say=said.append) as arriving:
        assert arriving.next(0.0) is None
        folder.rename(folder.with_name("before"))
        folder.mkdir()
        (folder / "a.png").write_text("x", encoding="utf-8")
        for _ in range(2):
            clock.seconds += 10
            assert arriving.next(0.0)[0] == "a.png"
        assert arriving.seen("a.png") == float("-inf")
    assert len(set(observed)) == len(observed) == 2
    assert said == [f"'{folder}' was replaced by another folder, which is watched from now on"]


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


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "fork"), reason="only Linux tells renamed files from others")
def test_the_system_tells_of_files_in_a_folder_that_took_the_place_of_a_removed_one(folder, tmp_path):
    """Most file systems give it the number of the removed one."""
    with Arrivals(folder, float("inf"), 1e9, lambda *_: False) as arriving:
        assert arriving.next(0.0) is None
        folder.rmdir()
        folder.mkdir()
        for emitter in arriving._observer.emitters:
            emitter.join(60)
        assert arriving.left() == 0
        (tmp_path / "outside.png").write_text("c", encoding="utf-8")
        (tmp_path / "outside.png").rename(folder / "c.png")
        assert arriving.next(60.0)[0] == "c.png"


def test_listings_that_take_longer_than_their_interval_leave_time_to_judge(folder, clock, monkeypatch):
    listings = []

    def slow(*given: object, **options: object) -> list[str]:
        clock.seconds += 25
        listings.append(clock.seconds)
        return list(walk(*given, **options))

    walk = arrivals.walk
    monkeypatch.setattr(arrivals, "walk", slow)
    monkeypatch.setattr(arrivals, "_PAUSE_AFTER_LISTING", 5)
    for index in range(9):
        (folder / f"{index}.png").write_text("x", encoding="utf-8")
    said: list[str] = []
    arriving = watcher(folder, clock, settle=0.0, say=said.append)
    for _ in range(9):
        name, _ = arriving.next(0.0)
        (folder / name).unlink()
        arriving.done(name)
        clock.seconds += 1
    assert (len(listings), arriving.is_idle) == (1, True)
    for _ in range(2):  # it is said once
        clock.seconds += 1000
        arriving.next(0.0)
    assert len(listings) == 3
    assert len(said) == 1
    assert "takes 25.0 s, in which nothing is judged" in said[0]


def test_a_subfolder_that_came_in_the_pause_after_a_listing_is_listed_before_all_is_judged(folder, clock, monkeypatch):
    def slow(*given: object, **options: object) -> list[str]:
        clock.seconds += 1
        return list(walk(*given, **options))

    walk = arrivals.walk
    monkeypatch.setattr(arrivals, "walk", slow)
    monkeypatch.setattr(arrivals, "_PAUSE_AFTER_LISTING", 5)
    arriving = watcher(folder, clock, settle=0.0)
    assert (all_of(arriving), arriving.is_idle) == ([], True)
    (folder / "late").mkdir()
    (folder / "late/a.png").write_text("x", encoding="utf-8")
    arriving._notices.put((FOLDER, str(folder / "late"), clock.seconds))
    assert (all_of(arriving), arriving.is_idle) == ([], False)
    clock.seconds += 5
    assert (all_of(arriving), arriving.is_idle) == (["late/a.png"], True)


def test_a_folder_without_notices_is_an_error(folder, clock, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kdx.station.notices.Observer.start", refuse)
    with pytest.raises(DataError, match="no notices"), watcher(folder, clock):
        pass
