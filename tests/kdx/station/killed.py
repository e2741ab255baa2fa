"""Runs a station again and again, each time killed one step later, and reports what was left.

A step is whatever changes a file, and every statement to the ledger. Run as a script with a folder
to work in; prints a JSON list of faults, and how many steps there are.
"""

from __future__ import annotations

import csv
import gc
import json
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdx.station import arrivals, database, places
from kdx.station.retention import parse_keep
from kdx.storage.renames import rename_new
from tests.kdx.station.stations import NoNotices, across_devices, drop, lines, options_for, outbox, run, sorted_files

FILES = {"a": "good", "b": "unreadable"}
# Every so manieth step of a station: all of them where files are moved. "across" moves them to
# another file system, and "keep" deletes good files at once.
EVERY = {"move": 1, "link": 4, "stay": 4, "remove": 4, "across": 4, "keep": 4}
_MOVES = frozenset({"move", "across", "keep"})
_EVENTS = {"os.link", "os.mkdir", "os.remove", "os.rename", "os.symlink", "os.truncate"}


class Steps:
    """Counts steps, and kills this process before the one with a number."""

    def __init__(self, last: int) -> None:
        self.count, self._last = 0, last

    def step(self) -> None:
        self.count += 1
        if self.count == self._last:
            os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        def audit(event: str, arguments: tuple[Any, ...]) -> None:
            is_written = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if event in _EVENTS or is_written:
                self.step()

        sync, connect = os.fsync, sqlite3.connect

        def counted_sync(handle: int) -> None:
            self.step()
            sync(handle)
            self.step()

        def traced(*given: Any, **options: Any) -> sqlite3.Connection:
            base = connect(*given, **options)
            base.set_trace_callback(lambda statement: None if statement.startswith("SELECT") else self.step())
            return base

        sys.addaudithook(audit)
        os.fsync = counted_sync
        database.sqlite3.connect = traced  # type: ignore[attr-defined]


def in_child(work: Callable[[], None], last: int) -> int | None:
    """Do some work in a process of its own; return its number of steps, None if it was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        status = 1
        try:
            steps = Steps(last)
            steps.install()
            work()
            os.write(writing, str(steps.count).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as file:
        text = file.read()
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return None
    if os.WEXITSTATUS(status):
        raise RuntimeError("the station failed")
    return int(text)


def faults_of(root: Path, files: str) -> list[str]:
    """Return everything that is not as it must be when all is judged."""
    out, found = root / "out", []
    records = lines(out)
    expected = {f"{name}.png": verdict for name, verdict in FILES.items()}

    def check(what: str, is_so: bool) -> None:
        if not is_so:
            found.append(what)

    check("one record each", [record["image"] for record in records] == list(expected))
    check("the right verdicts", all(record["verdict"] == expected[record["image"]] for record in records))
    check("one message each", [each["verdict_id"] for each in outbox(out)] == [each["verdict_id"] for each in records])
    (table,) = (out / "verdicts").glob("*.csv")
    rows = list(csv.DictReader(table.read_text(encoding="utf-8-sig").splitlines()))
    check("one row each", [row["verdict_id"] for row in rows] == [record["verdict_id"] for record in records])
    kept = {f"{verdict}/{name}" for name, verdict in expected.items() if (files, verdict) != ("keep", "good")}
    sorted_to = kept if files in {*_MOVES, "link"} else set()
    pictures = {f"heat_maps/{place}.png" for place in kept if "unreadable" not in place}
    check("every file in its place", set(sorted_files(out)) == pictures | sorted_to)
    left = set() if files in {*_MOVES, "remove"} else set(expected)
    check("nothing else where they came from", {path.name for path in (root / "in").iterdir()} == left)
    return found


def kill_everywhere(root: Path, files: str) -> tuple[int, list[str]]:
    """Kill a station at every step, and let another one finish."""
    given: dict[str, Any] = {"files": "move" if files in _MOVES else files, "heat_maps": True, "csv": "comma"}
    if files == "keep":
        given["keep"] = parse_keep("good=0h")
    places.rename_new = across_devices if files == "across" else rename_new
    found: list[str] = []
    last, steps = 1 - EVERY[files], None
    while steps is None:
        last += EVERY[files]
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        drop(root, **FILES)

        def judge(root: Path = root) -> None:
            for _ in run(options_for(root, **given)):
                pass

        steps = in_child(judge, last)
        for _ in range(2 if files == "keep" else 1):  # what is due is deleted when a call begins
            judge()
        found += [f"killed at step {last}: not {what}" for what in faults_of(root, files)]
    return steps, found


def main(work: str) -> None:
    observer: Callable[..., Any] = lambda *_: NoNotices()  # noqa: E731
    arrivals.observer_of = observer
    gc.freeze()
    report = {files: kill_everywhere(Path(work) / files, files) for files in EVERY}
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1])
