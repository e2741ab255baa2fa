"""What is kept: nothing that was not judged is deleted, nor anything because a clock jumped."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kdx.errors import OptionError
from kdx.station import arrivals, retention
from kdx.station.database import FILE
from kdx.station.ledger import Ledger
from kdx.station.retention import Keep, Retention, StationClock, parse_keep
from tests.kdx.station.stations import NoNotices, drop, options_for, run, sorted_files

DAY = 86_400.0


@pytest.fixture(autouse=True)
def only_lists(monkeypatch) -> None:
    monkeypatch.setattr(arrivals, "observer_of", lambda *_: NoNotices())


@pytest.fixture
def sorted_out(tmp_path: Path) -> Path:
    """An output folder with files of every verdict and their heat maps."""
    verdicts = ("good", "review", "defective", "undecided", "unreadable")
    drop(tmp_path, **{f"{verdict}{index}": verdict for index in range(2) for verdict in verdicts})
    list(run(options_for(tmp_path, files="move", heat_maps=True, csv="comma", keep=parse_keep("good=1y"))))
    return tmp_path / "out"


def keep(out: Path, text: str, days: float, said: list[str] | None = None) -> list[str]:
    """Apply what is kept, some days later; return what is left of the sorted files."""
    ledger = Ledger(out / FILE)
    try:
        kept = Retention(out, ledger, parse_keep(text), (said if said is not None else []).append)
        while kept.apply(StationClock(ledger).now() + days * DAY):
            pass
    finally:
        ledger.close()
    return [name for name in sorted_files(out) if not name.startswith("heat_maps")]


def test_files_are_deleted_by_the_age_of_their_verdict(sorted_out):
    before = keep(sorted_out, "good=7d,defective=1y", 6.9)
    assert len(before) == 10
    after = keep(sorted_out, "good=7d,defective=1y", 7.1)
    assert set(before) - set(after) == {"good/good0.png", "good/good1.png"}
    assert not (sorted_out / "heat_maps/good/good0.png.png").exists()
    assert (sorted_out / "heat_maps/defective/defective0.png.png").exists()
    assert {name.partition("/")[0] for name in keep(sorted_out, "good=7d,review=1d,defective=1y", 9999)} == {
        "undecided", "unreadable",
    }  # fmt: skip


def test_a_total_size_gives_up_the_oldest_good_files_first(sorted_out):
    said: list[str] = []
    sizes = [(sorted_out / name).stat().st_size for name in sorted_files(sorted_out)]
    total = (sum(sizes) - 1) / 1e6
    kept = keep(sorted_out, f"total={total:.9f}MB", 0, said)
    assert ("good/good0.png" in kept, "good/good1.png" in kept) == (False, True)
    for _ in range(3):
        kept = keep(sorted_out, "total=0MB", 0, said)
    assert {name.partition("/")[0] for name in kept} == {"undecided", "unreadable"}
    assert "what was not judged" in said[0]


def test_files_are_forgotten_together(sorted_out, monkeypatch):
    """Each transaction waits for the disk. After a kill before it, the next call goes on."""

    def kill(_: object) -> None:
        raise KeyboardInterrupt

    with contextlib.closing(Ledger(sorted_out / FILE)) as ledger:
        later = StationClock(ledger).now() + DAY
        before = ledger.kept_bytes()
        with monkeypatch.context() as killed:
            killed.setattr(ledger, "forget", kill)
            with pytest.raises(KeyboardInterrupt):
                Retention(sorted_out, ledger, parse_keep("good=1h"), print).apply(later)
        assert ledger.kept_bytes() == before
        assert not list((sorted_out / "good").iterdir())
        statements: list[str] = []
        ledger._base.set_trace_callback(statements.append)
        assert Retention(sorted_out, ledger, parse_keep("good=1h"), print).apply(later) == 2
        assert statements.count("COMMIT") == 1
        assert ledger.kept_bytes() < before


def test_a_total_size_gives_up_good_files_after_one_that_cannot_be_deleted(sorted_out, monkeypatch):
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.name == "good0.png":
            raise PermissionError(errno.EACCES, "Permission denied")
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    with contextlib.closing(Ledger(sorted_out / FILE)) as ledger:
        kept = Retention(sorted_out, ledger, Keep({}, total=ledger.kept_bytes() - 1), print)
        kept._next_look = float("inf")  # nobody took anything away
        assert kept.apply(0.0) == 2
    left = [name for name in sorted_files(sorted_out) if not name.startswith("heat_maps")]
    assert [name for name in left if "good" in name] == ["good/good0.png"]
    assert len(left) == 9


def test_files_that_somebody_took_away_count_no_longer(sorted_out):
    for name in [name for name in sorted_files(sorted_out) if "defective" in name]:
        (sorted_out / name).unlink()
    total = sum((sorted_out / name).stat().st_size for name in sorted_files(sorted_out)) / 1e6
    assert len(keep(sorted_out, f"total={total:.9f}MB", 0)) == 8


def test_a_few_files_at_once_are_looked_for(sorted_out, monkeypatch):
    """Files are judged in between; nothing is deleted once the rest fits."""
    monkeypatch.setattr(retention, "_LOOK_AT_ONCE", 4)
    for name in [name for name in sorted_files(sorted_out) if "defective" in name]:
        (sorted_out / name).unlink()
    total = sum((sorted_out / name).stat().st_size for name in sorted_files(sorted_out))
    with contextlib.closing(Ledger(sorted_out / FILE)) as ledger:
        kept = Retention(sorted_out, ledger, Keep({}, total=total), print)
        assert [kept.apply(0.0) for _ in range(3)] == [4, 4, 0]
        assert ledger.kept_bytes() == total
    assert len(sorted_files(sorted_out)) == 14


def test_text_files_of_records_have_an_age_too(sorted_out):
    keep(sorted_out, "records=2d", 1.9)
    assert len(list((sorted_out / "verdicts").iterdir())) == 2
    keep(sorted_out, "records=2d", 2.1)
    assert list((sorted_out / "verdicts").iterdir()) == []


def test_nothing_is_deleted_outside_nor_what_was_changed_since(sorted_out, tmp_path):
    said: list[str] = []
    (sorted_out / "good").rename(tmp_path / "elsewhere")
    (sorted_out / "good").symlink_to(tmp_path / "elsewhere")
    (sorted_out / "review/review0.png").write_text("somebody's own", encoding="utf-8")
    keep(sorted_out, "good=1h,review=1h", 1, said)
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["good0.png", "good1.png"]
    assert [path.name for path in (sorted_out / "review").iterdir()] == ["review0.png"]
    assert len(said) == 2


def test_a_file_that_is_still_where_it_came_from_is_not_judged_again(tmp_path):
    drop(tmp_path, a="good")
    options = options_for(tmp_path, files="link", heat_maps=True, keep=parse_keep("good=1y"))
    list(run(options))
    assert keep(options.out, "good=1h", 1) == []
    assert list(run(options)) == []
    assert (tmp_path / "in/a.png").exists()


def test_a_full_disk_is_not_taken_for_a_file_that_cannot_be_deleted(sorted_out, monkeypatch):
    """The ledger cannot be written: the station waits, and retention does not pause for long."""
    with contextlib.closing(Ledger(sorted_out / FILE)) as ledger:
        later = StationClock(ledger).now() + DAY
        for text, step in (("good=1h", "forget"), ("records=1h", "forget_text")):
            kept = Retention(sorted_out, ledger, parse_keep(text), print)
            with monkeypatch.context() as full:
                full.setattr(ledger, step, fails_with(errno.ENOSPC))
                with pytest.raises(OSError, match="No space"):
                    kept.apply(later)
            assert kept.stuck is None
            kept.apply(later)  # there is room again
        assert not [name for name in sorted_files(sorted_out) if name.startswith("good/")]
        assert list((sorted_out / "verdicts").iterdir()) == []


def fails_with(number: int) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(("stop", "counts"), [(3600.0, 3600.0), (-1e9, 0.0), (1e9, DAY)])
def test_a_clock_that_jumps_ages_nothing(tmp_path, stop, counts):
    """The machine's clock jumps during a stop, and while the station runs."""
    running, machine = [50.0], [1e9]
    ledger = Ledger(tmp_path / FILE, create=True)

    def clock() -> StationClock:
        return StationClock(ledger, lambda: running[0], lambda: machine[0])

    first = clock()
    assert first.now() == 0
    running[0] += 10
    machine[0] -= 5e8
    assert first.now() == 10
    with ledger.transaction():
        first.save()
    running[0] = 3.0  # the machine was started again
    machine[0] += stop
    assert clock().now() == 10 + counts
    ledger.close()


@pytest.mark.parametrize(
    "text", ["", "good", "good=7", "good=7GB", "total=7d", "undecided=7d", "unreadable=1d", "bad=7d", "good=1d,good=2d"]
)
def test_what_is_not_understood_is_refused(text):
    with pytest.raises(OptionError, match="`keep`"):
        parse_keep(text)


def test_amounts():
    found = parse_keep("good=12h, defective=1y,records=4w,total=1.5TB")
    assert found.seconds == {"good": 12 * 3600, "defective": 365 * DAY}
    assert (found.records, found.total) == (28 * DAY, 1.5e12)
