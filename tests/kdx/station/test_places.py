"""Files that are moved or linked: no image is lost, and one that cannot be moved stops no other."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from kdx.station import arrivals, places, removing
from kdx.station.retention import parse_keep
from kdx.storage.renames import rename_new
from tests.kdx.station.stations import NoNotices, across_devices, drop, lines, options_for, outbox, run, sorted_files
from tests.kdx.station.test_retention import keep


@pytest.fixture(autouse=True)
def only_lists(monkeypatch) -> None:
    monkeypatch.setattr(arrivals, "observer_of", lambda *_: NoNotices())


@pytest.mark.parametrize("rename", [rename_new, across_devices])
@pytest.mark.parametrize("when", ["before the move", "during the move"])
@pytest.mark.parametrize("other", ["else a", "longer"])  # of the same size, and of another one
def test_a_file_of_somebody_else_at_the_place_costs_no_image(tmp_path, monkeypatch, rename, when, other):
    place = tmp_path / "out/good/a.png"

    def write() -> None:
        place.parent.mkdir(exist_ok=True)
        place.write_text(other, encoding="utf-8")

    def rename_late(source: Path, target: Path) -> None:
        if target == place and not place.exists():
            write()
        rename(source, target)

    monkeypatch.setattr(places, "rename_new", rename if when == "before the move" else rename_late)
    drop(tmp_path, a="good")
    options = options_for(tmp_path, files="move")
    for _ in run(options):
        if when == "before the move":
            write()
    assert list(run(options)) == []
    (line,) = lines(options.out)
    own = f"good/a~{line['verdict_id']}.png"
    assert sorted_files(options.out) == ["good/a.png", own]
    assert place.read_text(encoding="utf-8") == other
    assert (options.out / own).read_text(encoding="utf-8") == "good a"
    assert list((tmp_path / "in").iterdir()) == []
    assert len(outbox(options.out)) == 1


@pytest.mark.parametrize("files", ["move", "link"])
def test_a_place_that_the_file_system_refuses_is_replaced_by_one_of_the_verdict(tmp_path, files):
    (tmp_path / "out/good").mkdir(parents=True)
    (tmp_path / "out/good/tray").write_text("a file where a folder would be", encoding="utf-8")
    (tmp_path / "in/tray").mkdir(parents=True)
    (tmp_path / "in/tray/1.png").write_text("good", encoding="utf-8")
    (record,) = run(options_for(tmp_path, files=files))
    assert sorted_files(tmp_path / "out") == [f"good/{record.verdict_id}.png"]


def test_a_file_that_cannot_be_moved_stops_no_other(tmp_path, monkeypatch):
    said: list[str] = []

    def refuse(source: Path, target: Path) -> None:
        if source.name == "a.png":
            raise PermissionError(errno.EACCES, "it is open elsewhere")
        rename_new(source, target)

    options = options_for(tmp_path, files="move")
    drop(tmp_path, a="good", b="good")
    monkeypatch.setattr(places, "rename_new", refuse)
    assert len(list(run(options, said.append))) == 2
    drop(tmp_path, c="good")
    assert [record.image for record in run(options)] == ["c.png"]
    assert sorted_files(options.out) == ["good/b.png", "good/c.png"]
    assert len(said) == 1
    assert "cannot be sorted" in said[0]
    monkeypatch.setattr(places, "rename_new", rename_new)
    assert list(run(options)) == []
    assert "good/a.png" in sorted_files(options.out)


def test_a_file_that_vanishes_before_its_move_stops_no_other(tmp_path, monkeypatch):
    def lose(source: Path, target: Path) -> None:
        if source.name == "a.png":
            source.unlink()
        rename_new(source, target)

    monkeypatch.setattr(places, "rename_new", lose)
    drop(tmp_path, a="good", b="good")
    assert len(list(run(options_for(tmp_path, files="move")))) == 2
    assert sorted_files(tmp_path / "out") == ["good/b.png"]


@pytest.mark.parametrize("is_late", [False, True])
def test_moved_files_are_deleted_although_times_there_are_coarse(tmp_path, monkeypatch, is_late):
    """A file system keeps times to two seconds, at once or, on network drives, only later."""
    copystat = shutil.copystat

    def coarse(path: Path) -> None:
        os.utime(path, ns=(0, path.stat().st_mtime_ns // 2_000_000_000 * 2_000_000_000))

    def copy(source: Path, target: Path) -> None:
        copystat(source, target)
        if not is_late:
            coarse(target)
            raise PermissionError(errno.EPERM, "permissions are not kept here")

    monkeypatch.setattr(places, "rename_new", across_devices)
    monkeypatch.setattr(places.shutil, "copystat", copy)
    drop(tmp_path, a="good", b="good")
    options = options_for(tmp_path, files="move", keep=parse_keep("good=1h"))
    assert len(list(run(options))) == 2
    coarse(options.out / "good/a.png")
    (options.out / "good/b.png").write_text("mine b", encoding="utf-8")
    said: list[str] = []
    assert keep(options.out, "good=1h", 1, said) == ["good/b.png"]
    assert len(said) == 1


def write_into(path: Path) -> None:
    path.write_text("defective and longer", encoding="utf-8")


def put_over(path: Path) -> None:
    other = path.with_suffix(".part")
    other.write_text("defective", encoding="utf-8")
    other.rename(path)


@pytest.mark.parametrize("write", [write_into, put_over])
@pytest.mark.parametrize("is_used_again", [False, True])
def test_an_image_that_comes_while_another_is_moved_to_another_file_system_is_judged(
    tmp_path, monkeypatch, write, is_used_again
):
    """Between the last look at the file and its removal, the camera uses its name again."""
    source, copystat = tmp_path / "in/a.png", shutil.copystat

    def copy(judged: Path, target: Path) -> None:
        copystat(judged, target)
        if target.parent.name == "good":
            write(source)

    def rename(hidden: Path, target: Path) -> None:
        if is_used_again and target == source:
            drop(tmp_path, a="review")
        rename_new(hidden, target)

    drop(tmp_path, a="good")
    options = options_for(tmp_path, files="move")
    monkeypatch.setattr(places, "rename_new", across_devices)
    monkeypatch.setattr(places.shutil, "copystat", copy)
    monkeypatch.setattr(removing, "rename_new", rename)
    found = [record.verdict for _ in range(2) for record in run(options)]
    assert found[0] == "good"
    assert sorted(found[1:]) == ["defective", *["review"] * is_used_again]
    assert len(sorted_files(options.out)) == len(found)
    assert (options.out / "good/a.png").read_text(encoding="utf-8") == "good a"
    assert list((tmp_path / "in").iterdir()) == []


@pytest.mark.parametrize("is_used_again", [False, True])
def test_a_file_that_was_hidden_when_the_process_ended_is_removed_by_the_next(tmp_path, monkeypatch, is_used_again):
    unlink = Path.unlink

    def end(path: Path, missing_ok: bool = False) -> None:
        if path.parent.name == "in":
            raise KeyboardInterrupt
        unlink(path, missing_ok=missing_ok)

    drop(tmp_path, a="good")
    options = options_for(tmp_path, files="move")
    with monkeypatch.context() as patched:
        patched.setattr(places, "rename_new", across_devices)
        patched.setattr(Path, "unlink", end)
        with pytest.raises(KeyboardInterrupt):
            list(run(options))
    (hidden,) = (tmp_path / "in").iterdir()
    assert hidden.name.startswith(".")
    if is_used_again:
        drop(tmp_path, a="review")
    assert [record.verdict for record in run(options)] == ["review"] * is_used_again
    assert sorted_files(options.out) == ["good/a.png", *["review/a.png"] * is_used_again]
    assert list((tmp_path / "in").iterdir()) == []


@pytest.mark.parametrize("kind", ["hard", "symbolic"])
@pytest.mark.parametrize("kept", [None, "good=1y"])
def test_a_link_shows_no_image_that_got_another_verdict(tmp_path, monkeypatch, kind, kept):
    def refuse(path: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    if kind == "symbolic":
        monkeypatch.setattr(Path, "hardlink_to", refuse)
    drop(tmp_path, a="good", b="good")
    options = options_for(tmp_path, files="link", keep=kept and parse_keep(kept))
    assert len(list(run(options))) == 2
    (tmp_path / "in/a.png").write_text("defective and longer", encoding="utf-8")
    said: list[str] = []
    assert [record.verdict for record in run(options, said.append)] == ["defective"]
    assert sorted_files(options.out) == ["defective/a.png", "good/b.png"]
    assert len(said) == 1
    drop(tmp_path, b="defective")  # another file under the name: a hard link still shows the first
    assert [record.verdict for record in run(options)] == ["defective"]
    assert ("good/b.png" in sorted_files(options.out)) == (kind == "hard")
