"""Ledgers of earlier versions are continued; those of later ones are refused."""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from kdx.errors import OutputError
from kdx.station import arrivals, database
from kdx.station.database import FILE
from kdx.station.ledger import Ledger
from kdx.station.places import free_place
from kdx.station.retention import parse_keep
from tests.kdx.station.stations import NoNotices, drop, options_for, outbox, run, sorted_files

# The first version wrote it when it had judged five files: a and b stayed, c was linked, d moved;
# the process ended before it had moved e.
OLD = Path(__file__).parents[2] / "fixtures/station/ledger_schema_1.sql"
MTIME_NS = 1_700_000_000_000_000_000


@pytest.fixture
def old_station(tmp_path: Path, monkeypatch) -> Path:
    """The folders of a station that an earlier version left."""
    monkeypatch.setattr(arrivals, "observer_of", lambda *_: NoNotices())
    drop(tmp_path, a="good", b="defective", c="review", d="good", e="defective")
    for path in (tmp_path / "in").iterdir():
        os.utime(path, ns=(MTIME_NS, MTIME_NS))
    out = tmp_path / "out"
    for verdict in ("good", "review"):
        (out / verdict).mkdir(parents=True)
    (out / "review/c.png").hardlink_to(tmp_path / "in/c.png")
    (tmp_path / "in/d.png").rename(out / "good/d.png")
    with closing(sqlite3.connect(out / FILE)) as base:
        base.executescript(OLD.read_text(encoding="utf-8"))
    return tmp_path


def test_a_ledger_of_schema_1_is_continued(old_station):
    """What has its verdict is not judged again, although the ledger did not know it so exactly."""
    (old_station / "in/b.png").write_text("good b now", encoding="utf-8")
    os.utime(old_station / "in/b.png", ns=(MTIME_NS, MTIME_NS))
    drop(old_station, f="review")
    options = options_for(old_station, keep=parse_keep("defective=1y"))
    images = [getattr(record, "image", None) for record in run(options)]
    assert sorted(filter(None, images)) == ["b.png", "f.png"]
    assert sorted_files(old_station / "out") == ["defective/e.png", "good/d.png", "review/c.png"]
    waiting = [message["image"] for message in outbox(old_station / "out") if "image" in message]
    assert waiting[:5] == ["a.png", "b.png", "c.png", "d.png", "e.png"]
    assert sorted(waiting[5:]) == ["b.png", "f.png"]
    assert list(run(options)) == []


def test_what_an_earlier_version_moved_is_deleted_when_it_is_due(old_station):
    from tests.kdx.station.test_retention import keep

    Ledger(old_station / "out" / FILE, create=True).close()
    assert keep(old_station / "out", "good=7d", 8) == ["review/c.png"]


def test_an_update_leaves_the_tables_of_a_new_ledger(old_station, tmp_path):
    paths = old_station / "out" / FILE, tmp_path / "new.db"
    for _ in range(2):  # the second call finds nothing to update
        for path in paths:
            Ledger(path, create=True).close()
    assert _tables(paths[0]) == _tables(paths[1])


def _tables(path: Path) -> dict[str, object]:
    with closing(sqlite3.connect(path)) as base:
        names = [name for (name,) in base.execute("SELECT name FROM sqlite_master ORDER BY name")]
        columns = {name: sorted(row[1:4] for row in base.execute(f"PRAGMA table_info({name})")) for name in names}
        return {**columns, "schema": base.execute("PRAGMA user_version").fetchone()}


def test_an_update_is_whole_or_not_done(old_station, monkeypatch):
    path = old_station / "out" / FILE
    monkeypatch.setattr(database, "_ADDED", (*database._ADDED, "broken INTEGER NOT NULL"))
    before = _tables(path)
    with pytest.raises(OutputError, match="cannot be read or written"):
        Ledger(path, create=True)
    assert _tables(path) == before


def test_a_ledger_of_a_newer_version_is_refused_and_stays(tmp_path):
    path = tmp_path / FILE
    Ledger(path, create=True).close()
    with closing(sqlite3.connect(path)) as base:
        base.execute(f"PRAGMA user_version = {database.SCHEMA + 1}")
    with pytest.raises(OutputError, match="newer kdx") as refused:
        Ledger(path, create=True)
    assert "update kdx" in refused.value.fix
    assert _tables(path)["schema"] == (database.SCHEMA + 1,)


def test_a_ledger_of_a_version_that_never_existed_is_refused(tmp_path):
    path = tmp_path / FILE
    Ledger(path, create=True).close()
    with closing(sqlite3.connect(path)) as base:
        base.execute("PRAGMA user_version = -1")
    with pytest.raises(OutputError, match="there is no schema -1"):
        Ledger(path, create=True)


def test_a_ledger_that_cannot_be_opened_is_named(tmp_path):
    (tmp_path / FILE).mkdir()
    with pytest.raises(OutputError, match=f"{FILE}' cannot be read or written: unable to open"):
        Ledger(tmp_path / FILE, create=True)


def test_a_statement_outside_of_a_transaction_that_fails_is_explained(tmp_path):
    drop(tmp_path, a="good")
    (tmp_path / "out").mkdir()
    with closing(Ledger(tmp_path / "out" / FILE, create=True)) as ledger:
        assert free_place(tmp_path / "out", ledger, "good", "a.png", "7") == "good/a.png"
        ledger._base.execute("PRAGMA query_only = 1")
        with pytest.raises(OutputError, match="cannot be read or written"):
            free_place(tmp_path / "out", ledger, "good", "a.png", "7")
        ledger._base.execute("PRAGMA query_only = 0")
        ledger._base.execute("DROP TABLE files")
        with pytest.raises(OutputError, match="cannot be read or written"):
            ledger.heat_map("7")


def test_a_share_of_the_disk_that_is_used_up_is_a_full_disk(tmp_path, monkeypatch):
    """The system says that there is room, and SQLite no more than that it cannot write."""

    def refuse(**_: object) -> None:
        raise OSError(getattr(errno, "EDQUOT", errno.ENOSPC), "Disk quota exceeded")

    error = sqlite3.OperationalError("disk I/O error")
    with closing(Ledger(tmp_path / FILE, create=True)) as ledger:
        assert isinstance(ledger._explained(error), OutputError)
        monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
        explained = ledger._explained(error)
    assert isinstance(explained, OSError)
    assert explained.errno == errno.ENOSPC
