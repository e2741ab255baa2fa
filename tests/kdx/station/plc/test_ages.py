"""A verdict that waited for too long is not taken for a part that came later."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdx.station.database import FILE
from kdx.station.ledger import Ledger
from kdx.station.names import name_pattern
from kdx.station.parts import Parts
from kdx.station.plc.ages import Ages
from kdx.station.plc.link import PlcLink
from tests.kdx.station.plc.modbus_server import Plc, Taken
from tests.kdx.station.plc.test_link import Line, line, post
from tests.kdx.station.stations import Box, drop, options_for, run

pytest.importorskip("pymodbus", reason="the extra plc is not installed")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with contextlib.closing(Ledger(tmp_path / FILE, create=True)) as opened:
        yield opened


def come(made: Line, part: str) -> None:
    """Add a verdict on a part that is seen now."""
    text = json.dumps({"verdict": "good", "score": 0.25, "part_id": part}).encode()
    with made.ledger.transaction():
        made.link.expect(made.ledger.post(PlcLink.receiver, text), made.now)


def parts(plc: Plc) -> list[str]:
    return [one.part_id for one in plc.taken]


@pytest.mark.parametrize("acknowledges", [True, False])
def test_verdicts_that_waited_while_the_plc_was_away_are_counted_and_not_given_to_it(ledger, acknowledges):
    plc = Plc(acknowledges=acknowledges)
    with line(ledger, plc, f"?max_age=10{'' if acknowledges else '&acknowledge=no'}") as made:
        plc.refuses = 4  # the PLC is there, and its program is not
        for part in ("nest 1", "nest 2"):
            come(made, part)
            made.step()
        made.now = 9.0
        come(made, "nest 3")
        made.step()
        plc.refuses, made.now = 0, 11.0
        come(made, "nest 1")
        made.deliver()
    assert parts(plc) == ["nest 3", "nest 1"]
    assert made.link.withheld == 2
    assert made.said[1] == f"the PLC at {made.plc.name} is not given verdicts older than 10 s: 2 verdicts so far"


def test_a_result_that_the_plc_does_not_take_is_withdrawn_when_it_is_too_old(ledger):
    """A PLC whose program was stopped would take it when it runs again."""
    plc = Plc()
    plc.takes = False
    with line(ledger, plc, "?max_age=10") as made:
        come(made, "A")
        made.step(3)
        assert plc.read() == Taken(1, 1, 0.25, "A")
        made.now = 10.5
        made.step()
        assert plc.read().sequence == 0
        assert (made.link.withheld, ledger.waiting(PlcLink.receiver)) == (1, 0)
        plc.takes = True
        plc.scan()
        come(made, "B")
        made.deliver()
    assert [(one.sequence, one.part_id) for one in plc.taken] == [(2, "B")]


def test_a_result_that_the_plc_took_in_time_is_not_counted_as_too_old(ledger):
    """It acknowledged while kdx did not look, for example because the connection was lost."""
    plc = Plc()
    plc.takes = False
    with line(ledger, plc, "?max_age=10") as made:
        come(made, "A")
        made.step()
        plc.takes = True
        plc.scan()
        made.now = 60.0
        made.deliver()
    assert (parts(plc), made.link.withheld, made.said) == (["A"], 0, [])


def test_a_plc_that_is_back_sees_no_result_before_its_age_is_known(ledger):
    """The heartbeat lets it take results: the one that is shown is withdrawn before it."""
    plc = Plc()
    plc.takes = False
    with line(ledger, plc, "?max_age=10") as made:
        come(made, "old")
        made.step()
        assert plc.read().sequence == 1
        made.now, plc.takes = 60.0, True
        again = Line(ledger, f"modbus://127.0.0.1:{made.plc._address.port}/100?max_age=10")  # after a kill
        again.now = 60.0
        again.step()
        come(again, "new")
        again.deliver()
        again.plc.close()
    assert parts(plc) == ["new"]
    assert again.link.withheld == 1


def test_what_an_earlier_process_left_is_too_old(ledger):
    post(ledger, "good", "review")
    plc = Plc()
    with line(ledger, plc, "?max_age=86400") as made:
        come(made, "new")
        made.deliver()
    assert (parts(plc), made.link.withheld) == (["new"], 2)


def test_ages_take_a_bounded_memory():
    now = 0.0
    ages = Ages(10.0, lambda: now)
    for message in range(1000):
        now = float(message)
        ages.note(message, now)
    assert len(ages._since) <= 12
    assert [message for message in range(1000) if not ages.is_over(message)] == list(range(989, 1000))


class Noting(Box):
    """Keeps since when each part is known."""

    def __init__(self) -> None:
        self.since: list[float] = []

    def expect(self, message: int, since: float) -> None:
        self.since.append(since)


def test_a_part_is_as_old_as_its_file_and_one_that_was_there_before_is_of_unknown_age(tmp_path):
    drop(tmp_path, a="good")
    noting, began = Noting(), time.monotonic()
    for record in run(options_for(tmp_path, scan_every=0.0), post=[noting]):
        if record.image == "a.png":
            drop(tmp_path, b="good")
    assert noting.since[0] == float("-inf")
    assert began < noting.since[1] <= time.monotonic()


@pytest.mark.parametrize("then", ["3-right", "3-left-again", "its time is over"])
def test_a_part_is_as_old_as_its_first_view(tmp_path, monkeypatch, then):
    """It is complete, or ends by a view of the next part, or lacks a view for too long."""
    drop(tmp_path, a="good")
    pattern = name_pattern(None, r"(?P<part>\d)-(?P<view>left|right)", ["left", "right"])
    noting, began, first = Noting(), float("inf"), float("-inf")
    options = options_for(tmp_path, scan_every=0.0, pattern=pattern, part_timeout=600.0)
    with contextlib.closing(run(options, post=[noting])) as records:
        for record in records:
            if len(noting.since) == 2:
                break
            if record.image == "a.png":
                began = time.monotonic()
                drop(tmp_path, **{"3-left": "good"})
                continue
            first = time.monotonic()
            if then.startswith("3"):
                drop(tmp_path, **{then: "good"})
            else:
                monkeypatch.setattr(Parts, "due", lambda parts: [(part, 1000.0) for part in parts._since])
    assert noting.since[0] == float("-inf")
    assert began < noting.since[1] < first


def test_an_age_is_refused_with_once(tmp_path, cli):
    (tmp_path / "in").mkdir()
    words = "watch", tmp_path / "in", "-b", "a.kdx", "-o", tmp_path / "out", "--plc", "modbus://h/0?max_age=9", "--once"
    assert "how old files are that were there before is not known" in cli(*words, code=2).stderr
