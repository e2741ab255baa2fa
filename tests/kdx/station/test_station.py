"""One record a file, exactly once: after kills, on a full disk, for files that change."""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from kdx.errors import DataError, OutputError
from kdx.station import arrivals, database, heat_maps, lines, places, station, troubles
from kdx.station.database import FILE
from kdx.station.judged_files import Identity
from kdx.station.ledger import Ledger
from kdx.station.names import name_pattern
from kdx.station.retention import parse_keep
from tests.kdx.station.stations import NoNotices, across_devices, drop, options_for, outbox, run, sorted_files
from tests.kdx.station.stations import lines as lines_of

ROOT = Path(__file__).parents[3]
VIEWS = name_pattern(None, r"^(?P<part>.+?)-(?P<view>\w+)\.png$", ["left", "right"])


@pytest.fixture(autouse=True)
def only_lists(monkeypatch) -> None:
    """Let folders be listed only: notices have tests of their own."""
    monkeypatch.setattr(arrivals, "observer_of", lambda *_: NoNotices())
    monkeypatch.setattr(troubles, "_AGAIN_SECONDS", 0.0)


def script(name: str, work: str) -> Any:
    """Run a script beside this file, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.kdx.station.{name}", work],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_a_kill_at_any_step_loses_and_doubles_nothing():
    memory = Path("/dev/shm")  # where waiting for the disk takes no time
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as work:
        report = script("killed", work)
    for steps, faults in report.values():
        assert faults == []
        assert steps > 50


@pytest.mark.parametrize("files", ["move", "link", "stay"])
def test_files_are_sorted_by_their_verdict(tmp_path, files):
    contents = {"a": "good", "b": "review", "c": "defective", "d": "undecided", "e": "unreadable"}
    drop(tmp_path, **contents)
    records = list(run(options_for(tmp_path, files=files)))
    assert [record.verdict for record in records] == list(contents.values())
    places = [f"{verdict}/{name}.png" for name, verdict in contents.items()]
    assert sorted_files(tmp_path / "out") == (sorted(places) if files != "stay" else [])
    assert len(list((tmp_path / "in").iterdir())) == (0 if files == "move" else 5)


def test_the_same_call_judges_only_what_is_new(tmp_path):
    drop(tmp_path, a="good", b="good")
    assert len(list(run(options_for(tmp_path)))) == 2
    drop(tmp_path, c="good")
    assert [record.image for record in run(options_for(tmp_path))] == ["c.png"]
    drop(tmp_path, a="defective")  # written again: another image under the name
    assert [record.image for record in run(options_for(tmp_path))] == ["a.png"]
    assert [line["image"] for line in lines_of(tmp_path / "out")] == ["a.png", "b.png", "c.png", "a.png"]


def test_a_call_for_what_is_there_waits_for_nothing_else(tmp_path, monkeypatch):
    waits: list[float] = []
    look = arrivals.Arrivals.next

    def noted(self: arrivals.Arrivals, patience: float) -> Any:
        waits.append(patience)
        return look(self, patience)

    monkeypatch.setattr(arrivals.Arrivals, "next", noted)
    drop(tmp_path, a="good")
    assert len(list(run(options_for(tmp_path)))) == 1
    assert list(run(options_for(tmp_path))) == []
    assert set(waits) == {0.0}


def test_names_that_a_camera_uses_again_replace_nothing(tmp_path):
    for _ in range(2):
        drop(tmp_path, a="good")
        (record,) = run(options_for(tmp_path, files="move", heat_maps=True))
    second = f"good/a~{record.verdict_id}.png"
    assert sorted_files(tmp_path / "out") == sorted(
        ["good/a.png", second, "heat_maps/good/a.png.png", f"heat_maps/{second}.png"]
    )


@pytest.mark.parametrize("keep", [None, "good=1y"])
def test_a_name_is_free_again_once_somebody_took_the_file_away(tmp_path, keep):
    options = options_for(tmp_path, files="move", keep=keep and parse_keep(keep))
    for _ in range(3):
        drop(tmp_path, a="good")
        list(run(options))
        (options.out / "good/a.png").unlink()


def test_what_is_kept_for_ever_leaves_nothing_in_the_ledger(tmp_path):
    drop(tmp_path, a="good", b="defective")
    list(run(options_for(tmp_path, files="move")))
    with contextlib.closing(Ledger(tmp_path / "out" / FILE)) as ledger:
        assert (list(ledger.files("moved")), ledger.known(), ledger.lines()) == ([], {}, [])


def test_a_file_that_was_written_to_after_its_verdict_is_not_sorted_by_it(tmp_path):
    drop(tmp_path, a="good")
    options = options_for(tmp_path, files="move")
    for _ in run(options):
        (tmp_path / "in/a.png").write_text("defective and longer", encoding="utf-8")
    assert sorted_files(tmp_path / "out") == []
    assert [record.verdict for record in run(options)] == ["defective"]
    assert [line["verdict"] for line in lines_of(tmp_path / "out")] == ["good", "defective"]
    assert sorted_files(tmp_path / "out") == ["defective/a.png"]


def test_files_are_moved_to_another_file_system(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "rename_new", across_devices)
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        (tmp_path / f"in/{name}.png").write_text("good", encoding="utf-8")
    before = (tmp_path / "in/a.png").stat().st_mtime_ns
    assert len(list(run(options_for(tmp_path, files="move")))) == 2
    assert sorted_files(tmp_path / "out") == ["good/a.png", "good/b.png"]
    assert (tmp_path / "out/good/a.png").stat().st_mtime_ns == before
    assert list((tmp_path / "in").iterdir()) == []


def test_a_link_is_symbolic_where_no_hard_link_can_be_made(tmp_path, monkeypatch):
    def refuse(path: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    drop(tmp_path, a="good")
    list(run(options_for(tmp_path, files="link")))
    assert (tmp_path / "out/good/a.png").is_symlink()
    assert (tmp_path / "out/good/a.png").read_text(encoding="utf-8") == "good a"


@pytest.mark.parametrize("step", ["heat map", "ledger", "lines", "moves"])
def test_a_full_disk_is_said_once_and_waited_out(tmp_path, monkeypatch, step):
    """The disk has room again after the third attempt."""
    fails = iter(range(3))
    said: list[str] = []

    def full(function, fail=None):
        def once_there_is_room(*given, **options):
            if next(fails, None) is None:
                return function(*given, **options)
            if fail is not None:
                fail(*given, **options)
            raise OSError(errno.ENOSPC, "No space left on device")

        return once_there_is_room

    def fill(ledger, *_: object) -> None:
        """Let SQLite itself say that there is no room."""
        ledger._base.execute("PRAGMA max_page_count = 1")
        try:
            ledger._base.execute("INSERT INTO facts VALUES ('more', zeroblob(1000000))")
        finally:
            ledger._base.execute("PRAGMA max_page_count = 1000000")

    drop(tmp_path, a="good", b="defective")
    if step == "heat map":
        monkeypatch.setattr(heat_maps, "write_atomic", full(heat_maps.write_atomic))
    elif step == "ledger":
        monkeypatch.setattr(station.Ledger, "add_file", full(station.Ledger.add_file, fill))
    elif step == "moves":
        monkeypatch.setattr(places, "rename_new", full(places.rename_new))
    else:
        monkeypatch.setattr(lines.os, "fsync", full(os.fsync))
    options = options_for(tmp_path, files="move", csv="semicolon", heat_maps=True)
    assert len(list(run(options, said.append))) == 2
    assert next(fails, None) is None
    assert [text.partition(":")[0] for text in said] == [
        f"the disk of '{options.out}' is full", "there is room on the disk again",
    ]  # fmt: skip
    assert [line["image"] for line in lines_of(options.out)] == ["a.png", "b.png"]
    assert len(outbox(options.out)) == 2
    assert len(sorted_files(options.out)) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has namespaces of mounts")
def test_a_disk_that_fills_up_loses_and_doubles_nothing(tmp_path):
    report = script("full_disk", str(tmp_path / "work"))
    if "unable" in report:
        pytest.skip(f"no disk can be mounted here: {report['unable']}")
    assert report["said"] == ["the disk of 'OUT' is full", "there is room on the disk again"]
    assert report["images"] == [f"{index:02d}.png" for index in range(40)]
    assert report["messages"]
    assert report["files"] == 80


@pytest.mark.parametrize("kind", [PermissionError, OSError])
def test_what_time_does_not_heal_ends_the_station(tmp_path, monkeypatch, kind):
    def refuse(*_: object) -> None:
        raise kind(errno.EACCES if kind is PermissionError else errno.EIO, "no")

    monkeypatch.setattr(heat_maps, "write_atomic", refuse)
    drop(tmp_path, a="good")
    with pytest.raises(kind):
        list(run(options_for(tmp_path, heat_maps=True)))
    assert lines_of(tmp_path / "out") == []


def test_what_cannot_be_deleted_stops_no_judging(tmp_path, monkeypatch):
    options = options_for(tmp_path, files="move", keep=parse_keep("good=0h"))
    drop(tmp_path, a="good", b="good")
    list(run(options_for(tmp_path, files="move", keep=parse_keep("good=1h"))))

    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.name == "a.png":
            raise PermissionError(errno.EACCES, "Permission denied", "a.png")
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    said: list[str] = []
    drop(tmp_path, c="defective")
    assert len(list(run(options, said.append))) == 1
    assert said == [
        "what is not kept any longer cannot be deleted: [Errno 13] Permission denied: 'a.png'; it is tried again later"
    ]
    assert sorted_files(options.out) == ["defective/c.png", "good/a.png"]


@pytest.mark.parametrize("how", ["moved", "written"])
@pytest.mark.parametrize("files", ["stay", "link"])
def test_an_image_that_replaces_another_of_the_same_size_and_time_is_judged(tmp_path, files, how):
    drop(tmp_path, a="good a")
    options, path = options_for(tmp_path, files=files), tmp_path / "in/a.png"
    assert len(list(run(options))) == 1
    before, other = path.stat(), tmp_path / "other"
    (path if how == "written" else other).write_bytes(b"review a"[: before.st_size].ljust(before.st_size))
    os.utime(path if how == "written" else other, ns=(0, before.st_mtime_ns))
    if how == "moved":
        other.rename(path)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert [record.verdict for record in run(options)] == ["review"]
    assert list(run(options)) == []


@pytest.mark.parametrize("files", ["stay", "link"])
def test_an_image_whose_status_alone_changes_gets_no_second_record(tmp_path, files):
    """A backup program links it, and a copy of it takes its place."""
    drop(tmp_path, a="good", b="good")
    (tmp_path / "in/empty.png").touch()
    options, path = options_for(tmp_path, files=files), tmp_path / "in/a.png"
    (tmp_path / "in/empty.png").write_bytes(b"unreadable")
    assert len(list(run(options))) == 3
    known = []
    for change in (lambda: (tmp_path / "backup").hardlink_to(path), lambda: copy_over(path), lambda: path.chmod(0o600)):
        before = Identity.of(path.stat())
        change()
        assert Identity.of(path.stat()) != before
        assert list(run(options)) == []
        with contextlib.closing(Ledger(options.out / FILE)) as ledger:
            known.append(ledger.known()["a.png"] == Identity.of(path.stat()))
    assert known == [True] * 3


def copy_over(path: Path) -> None:
    """Put a copy with the same time in the place of a file."""
    other = path.with_suffix(".part")
    shutil.copy2(path, other)
    other.replace(path)


def test_a_file_whose_permissions_change_before_its_move_is_moved(tmp_path):
    drop(tmp_path, a="good")
    options = options_for(tmp_path, files="move")
    for _ in run(options):
        (tmp_path / "in/a.png").chmod(0o600)
    assert sorted_files(options.out) == ["good/a.png"]
    assert list(run(options)) == []


@pytest.mark.parametrize("trouble", ["disk", "folder"])
def test_once_gives_up_and_says_how_many_files_are_left(tmp_path, monkeypatch, trouble):
    drop(tmp_path, a="good", b="good", c="good")
    said: list[str] = []
    if trouble == "disk":

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(station.Ledger, "add_file", full)
    records = run(options_for(tmp_path, scan_every=0.0), said.append)
    if trouble == "folder":
        next(records)
        shutil.rmtree(tmp_path / "in")
    with pytest.raises(OutputError if trouble == "disk" else DataError) as raised:
        next(records)
    expected = f"3 files in '{tmp_path / 'in'}' are not judged" if trouble == "disk" else "what is in it was not judged"
    assert expected in str(raised.value)
    assert len(said) == 1


def test_a_ledger_that_cannot_be_read_is_explained(tmp_path, monkeypatch):
    """The disk is full at the first attempt; later, the file is locked."""
    errors = ["disk I/O error", "database is locked"]

    class Fails:
        """A connection that fails where lines are read."""

        def __init__(self, base: sqlite3.Connection) -> None:
            self._base = base

        def execute(self, question: str, *given: Any) -> Any:
            if "FROM lines" in question and "SELECT" in question:
                raise sqlite3.OperationalError(errors.pop(0))
            return self._base.execute(question, *given)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._base, name)

    connect = sqlite3.connect
    monkeypatch.setattr(database.sqlite3, "connect", lambda *given, **options: Fails(connect(*given, **options)))
    monkeypatch.setattr(database, "_LITTLE", 1 << 62)
    drop(tmp_path, a="good")
    said: list[str] = []
    with pytest.raises(OutputError, match="cannot be read or written: database is locked"):
        list(run(options_for(tmp_path), said.append))
    assert [text.partition(":")[0] for text in said] == [f"the disk of '{tmp_path / 'out'}' is full"]


def test_text_that_others_wrote_stays(tmp_path):
    drop(tmp_path, a="good")
    options = options_for(tmp_path, csv="comma")
    list(run(options))
    (text,), (table,) = ((options.out / "verdicts").glob(kind) for kind in ("*.jsonl", "*.csv"))
    with text.open("ab") as file:
        file.write(b'{"a note": 1}')
    table.unlink()
    drop(tmp_path, b="good")
    list(run(options))
    found = [json.loads(line) for line in text.read_text(encoding="utf-8").splitlines()]
    assert [line.get("image") for line in found if line.get("event") is None] == ["a.png", None, "b.png"]
    rows = list(csv.DictReader(table.read_text(encoding="utf-8-sig").splitlines()))
    assert [row["image"] for row in rows] == ["b.png"]


def test_a_backlog_is_said_and_its_end_too(tmp_path):
    said: list[str] = []
    drop(tmp_path, **{f"n{index}": "good" for index in range(9)})
    list(run(options_for(tmp_path, backlog=3), said.append))
    assert said == ["9 files wait: they arrive faster than they are judged", "no file waits any longer"]


def test_files_that_are_not_taken_are_counted_once_for_each_kind(tmp_path):
    drop(tmp_path, a="good")
    (tmp_path / "in/run").mkdir()
    for name in ("none", "photo.png_1", "notes.txt", ".hidden.png", "run/run.json", "run/1.png"):
        (tmp_path / "in" / name).write_text("x", encoding="utf-8")
    (tmp_path / "in/lost.png").symlink_to("nowhere.png")
    (tmp_path / "in/more").symlink_to(tmp_path, target_is_directory=True)
    said: list[str] = []
    assert len(list(run(options_for(tmp_path), said.append))) == 1
    assert said == [
        "1 hidden or system file or folder was left out: .hidden.png",
        "3 files that are not images of a known format were left out: none, notes.txt, photo.png_1",
        "1 folder is a symbolic link and was not followed: more",
        "1 image leads to no file and was left out: lost.png",
        "1 run folder or bundle is no parts and was left out: run",
    ]


def test_symbolic_links_and_long_names_are_sorted(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "camera.png").write_text("good", encoding="utf-8")
    (tmp_path / "in/link.png").symlink_to("../camera.png")
    long = "x" * 240 + ".png"
    (tmp_path / "in" / long).write_text("good", encoding="utf-8")
    options = options_for(tmp_path, files="move", heat_maps=True)
    records = {record.image: record for record in run(options)}
    assert list(run(options)) == []
    assert (options.out / "good/link.png").read_text(encoding="utf-8") == "good"
    assert (options.out / f"good/{records[long].verdict_id}.png").is_file()
    assert list((tmp_path / "in").iterdir()) == []


@pytest.mark.parametrize(
    ("left", "right", "verdict"),
    [
        ("good", "good", "good"),
        ("good", "review", "review"),
        ("review", "unreadable", "undecided"),
        ("undecided", "good", "undecided"),
        ("undecided", "defective", "defective"),
    ],
)
def test_a_part_has_the_verdict_of_its_worst_view(tmp_path, left, right, verdict):
    drop(tmp_path, **{"1-left": left, "2-left": "good", "1-right": right, "2-right": "good"})
    records = list(run(options_for(tmp_path, pattern=VIEWS)))
    parts = [record for record in records if hasattr(record, "views")]
    assert [(part.part_id, part.verdict, part.missing) for part in parts] == [("1", verdict, ()), ("2", "good", ())]
    # Receivers are sent the verdicts on parts: a good view is no good part.
    assert [(each["part_id"], len(each["views"])) for each in outbox(tmp_path / "out")] == [("1", 2), ("2", 2)]


@pytest.mark.parametrize(("view", "verdict"), [("good", "undecided"), ("defective", "defective")])
def test_a_part_that_lacks_a_view_is_never_good(tmp_path, view, verdict):
    drop(tmp_path, **{"1-left": view, "alone": "good"})
    records = run(options_for(tmp_path, pattern=VIEWS, part_timeout=0.0))
    (part,) = [record for record in records if hasattr(record, "views")]
    assert (part.verdict, part.missing, part.views[0].view) == (verdict, ("right",), "left")
    assert part.reason == ("view_missing" if verdict == "undecided" else None)
    assert {each["part_id"] for each in outbox(tmp_path / "out")} == {None, "1"}


def parts_of(out: Path) -> list[tuple[str, str, list[str]]]:
    """Return part, verdict and views of the messages that wait for the box."""
    return [(each["part_id"], each["verdict"], [view["view"] for view in each["views"]]) for each in outbox(out)]


def test_a_part_waits_for_views_that_arrived_in_time_and_are_not_judged_yet(tmp_path):
    """Each judgement takes longer than the timeout, which says when files arrive."""
    numbers = range(5)
    drop(tmp_path, **{f"{n}-left": "good" for n in numbers}, **{f"{n}-right": "good" for n in numbers})
    list(run(options_for(tmp_path, pattern=VIEWS, part_timeout=1e-6)))
    assert parts_of(tmp_path / "out") == [(str(n), "good", ["left", "right"]) for n in numbers]


def test_views_of_two_parts_of_one_identifier_make_no_good_part(tmp_path):
    options = options_for(tmp_path, pattern=VIEWS, part_timeout=600.0)
    drop(tmp_path, **{"3-left": "good"})
    with contextlib.closing(run(options)) as records:
        next(records)
    with contextlib.closing(Ledger(options.out / FILE)) as ledger, ledger.transaction():
        ledger.set_fact("machine_seconds", ledger.fact("machine_seconds") - 36_000)  # a stop of ten hours
    drop(tmp_path, **{"3-right": "good"})
    with contextlib.closing(run(options)) as records:
        for record in records:
            if getattr(record, "view", None) == "right":
                break
    assert parts_of(options.out) == [("3", "undecided", ["left"])]


def test_a_view_that_comes_again_begins_another_part(tmp_path):
    pattern = name_pattern(None, r"(?P<part>\d)-(?P<view>left|right)", ["left", "right"])
    drop(tmp_path, **{"3-left": "good", "3-left-again": "good", "3-right": "good"})
    list(run(options_for(tmp_path, pattern=pattern)))
    assert parts_of(tmp_path / "out") == [("3", "undecided", ["left"]), ("3", "good", ["left", "right"])]


PRODUCTS = name_pattern(
    None, r"^(?:(?P<product>[a-z]+)-)?(?P<part>\d)-(?P<view>left|right)", ["left", "right"], has_products=True
)


def products_of(out: Path) -> list[tuple[str | None, str, list[str]]]:
    """Return product, verdict and views of the messages that wait for the box."""
    return [(each.get("product"), each["verdict"], [view["view"] for view in each["views"]]) for each in outbox(out)]


def test_views_of_two_products_make_no_good_part(tmp_path):
    """Each product numbers its own parts, and the second view of both was lost."""
    drop(tmp_path, **{"nut-7-left": "good", "bolt-7-right": "good", "7-left": "good"})
    list(run(options_for(tmp_path, pattern=PRODUCTS, part_timeout=0.0)))
    assert products_of(tmp_path / "out") == [
        ("nut", "undecided", ["left"]),
        ("bolt", "undecided", ["right"]),
        (None, "undecided", ["left"]),
    ]


def test_parts_of_two_products_with_one_identifier_are_both_complete(tmp_path):
    drop(tmp_path, **{f"{product}-7-{view}": "good" for view in ("left", "right") for product in ("nut", "bolt")})
    list(run(options_for(tmp_path, pattern=PRODUCTS)))
    assert products_of(tmp_path / "out") == [(product, "good", ["left", "right"]) for product in ("nut", "bolt")]


def test_open_parts_of_an_earlier_version_are_continued_by_product(tmp_path):
    """It stored the product of each view, and joined views of different products."""
    options = options_for(tmp_path, pattern=PRODUCTS, part_timeout=600.0)
    options.out.mkdir()
    with contextlib.closing(Ledger(options.out / FILE, create=True)) as ledger, ledger.transaction():
        for product, view in ((b"nut", b"left"), (b"bolt", b"left")):
            ledger._base.execute(
                "INSERT INTO views VALUES (?, ?, ?, 'good', ?, 0.0)", (b"7", view, product.decode(), product)
            )
    drop(tmp_path, **{"bolt-7-right": "good", "nut-7-right": "defective"})
    list(run(options))
    assert products_of(options.out) == [("bolt", "good", ["left", "right"]), ("nut", "defective", ["left", "right"])]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no names that are not UTF-8")
def test_the_identifier_of_a_part_may_be_of_any_bytes(tmp_path):
    drop(tmp_path, **{os.fsdecode(b"caf\xe9-left"): "good", os.fsdecode(b"caf\xe9-right"): "good"})
    (part,) = [record for record in run(options_for(tmp_path, pattern=VIEWS)) if hasattr(record, "views")]
    assert (os.fsencode(part.part_id), part.verdict) == (b"caf\xe9", "good")
    assert len(outbox(tmp_path / "out")) == 1


def test_receivers_get_no_good_verdict_on_a_file_that_names_no_view(tmp_path):
    pattern = name_pattern(None, r"^(?P<part>\d+)?(-(?P<view>left|right|top))?", ["left", "right"])
    drop(tmp_path, **{"7-LEFT": "good", "x-left": "good", "7-top": "good", "7-left": "good", "7-right": "good"})
    list(run(options_for(tmp_path, pattern=pattern)))
    assert [(each["part_id"], each["verdict"], each.get("reason")) for each in outbox(tmp_path / "out")] == [
        ("7", "undecided", "name"),
        (None, "undecided", "name"),
        ("7", "undecided", "name"),
        ("7", "good", None),
    ]


def test_the_ledger_of_another_program_is_refused(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/station.db").write_bytes(b"something else" * 100)
    with pytest.raises(OutputError, match="not the ledger"):
        list(run(options_for(tmp_path)))
