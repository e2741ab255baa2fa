"""Results reach a PLC whole, in order, and each once; the heartbeat counts only with progress."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from kdx.station import arrivals, station, troubles
from kdx.station.database import FILE
from kdx.station.judged_files import Identity
from kdx.station.ledger import Ledger
from kdx.station.plc import link
from kdx.station.plc.address import parse_plc
from kdx.station.plc.connecting import plc_at
from kdx.station.plc.link import HEARTBEAT_SECONDS, PATIENCE_SECONDS, PlcLink
from kdx.station.plc.plc import PlcRefusesError
from kdx.station.plc.result import LAST_NUMBER
from kdx.station.station import Station
from kdx.station.status import Status
from tests.kdx.station.plc.modbus_server import Plc, Server, Taken, free_port
from tests.kdx.station.stations import NoNotices, drop, options_for, run, stand_in

pytest.importorskip("pymodbus", reason="the extra plc is not installed")
EXPECTED = [(1, 0.25, "P-0"), (2, 0.5, "P-1"), (3, 0.75, "P-2")]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with contextlib.closing(Ledger(tmp_path / FILE, create=True)) as opened:
        yield opened


def post(ledger: Ledger, *verdicts: str, **more: Any) -> None:
    """Add records to the outbox; each has another score and another part."""
    with ledger.transaction():
        for index, verdict in enumerate(verdicts):
            record = {"verdict": verdict, "score": (1 + index) / 4, "part_id": f"P-{index}", **more}
            ledger.post(PlcLink.receiver, json.dumps(record).encode())


class Line:
    """A link to a PLC, with a clock that stands still unless it is moved."""

    def __init__(self, ledger: Ledger, url: str) -> None:
        self.now = 0.0
        self.said: list[str] = []
        self.ledger = ledger
        self.plc: Any = plc_at(parse_plc(url))
        self.link = PlcLink(ledger.path, self.plc, self.said.append, lambda: self.now)

    def step(self, times: int = 1) -> None:
        self.link._ledger = self.ledger
        for _ in range(times):
            self.link.step()

    def deliver(self) -> None:
        for _ in range(100):
            if not self.ledger.waiting(PlcLink.receiver):
                return
            self.step()
        raise AssertionError(self.said)

    def beat(self) -> None:
        """Let the time for a heartbeat come."""
        self.now += HEARTBEAT_SECONDS
        self.step()


@contextlib.contextmanager
def line(ledger: Ledger, plc: Plc, query: str = "", port: int = 0) -> Iterator[Line]:
    """Connect a ledger to the server of a PLC."""
    with Server(plc, port) as server:
        made = Line(ledger, server.url + query)
        try:
            yield made
        finally:
            made.plc.close()


def without_numbers(taken: list[Taken]) -> list[tuple[int, float, str]]:
    return [(one.decision, one.score, one.part_id) for one in taken]


def test_each_verdict_has_a_number_of_which_0_is_none(ledger):
    post(ledger, "good", "review", "defective", "undecided", "unreadable", score=None, part_id=None)
    plc = Plc()
    with line(ledger, plc) as made:
        made.deliver()
    assert [one.decision for one in plc.taken] == [1, 2, 3, 4, 5]
    assert [one.sequence for one in plc.taken] == [1, 2, 3, 4, 5]
    assert all(math.isnan(one.score) and one.part_id == "" for one in plc.taken)


def test_the_next_result_waits_until_the_plc_acknowledges(ledger):
    post(ledger, "good", "review", "defective")
    plc = Plc()
    plc.takes = False
    with line(ledger, plc) as made:
        made.step(9)
        assert plc.read() == Taken(1, 1, 0.25, "P-0")
        assert made.said == []
        made.now += PATIENCE_SECONDS
        made.step(9)
        where = f"the PLC at {made.plc.name}"
        assert made.said == [f"{where} does not acknowledge result 1: 3 verdicts wait"]
        plc.takes = True
        plc.scan()
        made.deliver()
        assert made.said[1:] == [f"{where} acknowledges results again"]
    assert without_numbers(plc.taken) == EXPECTED


@pytest.mark.parametrize("acknowledges", [True, False])
def test_no_state_of_the_memory_is_a_torn_result(ledger, acknowledges):
    """The states after every single write: those that a PLC takes are whole."""
    post(ledger, "good", "review", "defective")
    plc = Plc(acknowledges=acknowledges)
    plc.takes = acknowledges
    with line(ledger, plc, "" if acknowledges else "?acknowledge=no") as made:
        made.deliver()
    if acknowledges:
        assert without_numbers(plc.taken) == EXPECTED
    else:
        shown = [one for one in plc.states if one.sequence]
        assert {(one.sequence, *one[1:]) for one in shown} == {(1 + n, *one) for n, one in enumerate(EXPECTED)}
        assert 0 in {one.sequence for one in plc.states[3:]}  # while the second result was written


def test_without_acknowledgement_the_last_result_stands_and_gaps_are_visible(ledger):
    plc = Plc(acknowledges=False)
    with line(ledger, plc, "?acknowledge=no") as made:
        post(ledger, "good")
        made.deliver()
        plc.takes = False  # its program is slow
        post(ledger, "review", "defective")
        made.deliver()
        plc.takes = True
        plc.scan()
    assert [(one.sequence, one.decision) for one in plc.taken] == [(1, 1), (3, 3)]


class Killed(BaseException):
    """Ends a link as a kill would: nothing is done afterwards."""


@pytest.mark.parametrize("acknowledges", [True, False])
def test_a_kill_at_any_step_loses_and_doubles_nothing(monkeypatch, acknowledges):
    """Before and after each request, and before and after each change of the ledger."""
    query = "" if acknowledges else "?acknowledge=no"
    memory = Path("/dev/shm")  # where waiting for the disk takes no time
    with (
        Server(Plc()) as server,
        tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as work,
    ):
        for last in count(1):
            plc = server.plc = Plc(acknowledges=acknowledges)
            path = Path(work) / str(last) / FILE
            path.parent.mkdir()
            with contextlib.closing(Ledger(path, create=True)) as ledger:
                post(ledger, "good", "review")
                was_killed = killed_at(last, ledger, server.url + query, monkeypatch)
            with contextlib.closing(Ledger(path)) as ledger:
                made = Line(ledger, server.url + query)
                made.deliver()
                made.plc.close()
            assert without_numbers(plc.taken) == EXPECTED[:2], f"killed at step {last}"
            assert [one.sequence for one in plc.taken] == [1, 2], f"killed at step {last}"
            if not was_killed:
                break
    assert last > 20


def killed_at(last: int, ledger: Ledger, url: str, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Deliver what waits, until the step with a number; return whether there was one."""
    steps = count(1)

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*given: Any) -> Any:
            if next(steps) == last:
                raise Killed
            found = function(*given)
            if next(steps) == last:
                raise Killed
            return found

        return step

    made = Line(ledger, url)
    with monkeypatch.context() as patch:
        patch.setattr(made.plc, "_ask", counted(made.plc._ask))
        patch.setattr(ledger, "set_fact", counted(ledger.set_fact))
        patch.setattr(ledger, "remove_messages", counted(ledger.remove_messages))
        try:
            made.deliver()
        except Killed:
            return True
        finally:
            made.plc.close()
    return False


def test_a_server_that_restarts_gets_the_rest(ledger):
    plc, port = Plc(), free_port()
    post(ledger, "good", "review", "defective")
    with line(ledger, plc, port=port) as made:
        made.step()
    made.step(3)
    with Server(plc, port):
        made.link.pulse(Status.RUNNING)
        made.deliver()
        made.plc.close()
    assert made.said == [
        f"the PLC gets no verdicts, and no heartbeat: {made.plc.name} does not answer; 2 verdicts wait",
        f"the PLC at {made.plc.name} receives verdicts again",
    ]
    assert made.link.losses == 1
    assert [one.sequence for one in plc.taken] == [1, 2, 3]
    assert plc.beats[-1] == (1, Status.RUNNING)


def test_a_result_is_shown_again_when_the_memory_was_cleared(ledger):
    plc = Plc()
    plc.takes = False
    post(ledger, "good")
    with line(ledger, plc) as made:
        made.step()
        plc.registers = [0] * len(plc.registers)
        plc.takes = True
        made.deliver()
    assert without_numbers(plc.taken) == EXPECTED[:1]


@pytest.mark.parametrize(("before", "number"), [(41, 42), (LAST_NUMBER, 1), (0xFFFF, 1)])
def test_numbers_continue_after_the_one_that_the_plc_took_last(ledger, before, number):
    plc = Plc()
    plc.registers[2] = plc.registers[3] = before
    post(ledger, "good")
    with line(ledger, plc) as made:
        made.deliver()
    assert [one.sequence for one in plc.taken] == [number]


def test_a_number_that_the_plc_holds_by_chance_is_left_out(ledger):
    plc = Plc()
    with line(ledger, plc) as made:
        post(ledger, "good")
        made.deliver()
        plc.registers[2] = plc.registers[3] = 2  # the memory of another PLC
        post(ledger, "review")
        made.deliver()
    assert [(one.sequence, one.decision) for one in plc.taken] == [(1, 1), (3, 2)]


@contextlib.contextmanager
def left_by_another_folder(tmp_path: Path, ledger: Ledger) -> Iterator[tuple[Plc, Line, Line]]:
    """Let a PLC show result 5 of one folder, not yet taken, and connect it to another one."""
    plc = Plc()
    plc.registers[2] = plc.registers[3] = 4
    (tmp_path / "earlier").mkdir()
    with contextlib.closing(Ledger(tmp_path / "earlier" / FILE, create=True)) as other:
        post(other, "defective", part_id="OLD")
        post(ledger, "good", part_id="NEW")
        plc.takes = False
        with line(other, plc) as earlier:
            earlier.step()
            earlier.plc.close()
            now = Line(ledger, f"modbus://{earlier.plc.name}/100")
            try:
                yield plc, earlier, now
            finally:
                now.plc.close()


def test_a_result_of_another_folder_is_withdrawn_and_not_mixed(tmp_path, ledger):
    with left_by_another_folder(tmp_path, ledger) as (plc, earlier, now):
        plc.states.clear()
        now.step()
        seen = [(one.sequence, one.part_id) for one in plc.states]
        assert seen == [(5, "OLD"), (0, "OLD"), (0, "NEW"), (6, "NEW")]
        assert len(now.said) == 1
        assert "shows result 5, which it did not take" in now.said[0]
        plc.takes = True
        plc.scan()
        now.deliver()
        earlier.deliver()  # what was withdrawn still waits there
    assert [(one.sequence, one.decision, one.part_id) for one in plc.taken] == [(6, 1, "NEW"), (5, 3, "OLD")]
    assert earlier.said == []


@pytest.mark.parametrize("request_", ["write_sequence", "write_result"])
def test_a_result_of_another_folder_that_is_taken_meanwhile_hides_none(tmp_path, ledger, request_):
    with left_by_another_folder(tmp_path, ledger) as (plc, _, now):
        write = getattr(now.plc, request_)

        def written(value: Any) -> None:
            plc.takes = True
            plc.scan()
            write(value)

        setattr(now.plc, request_, written)
        now.deliver()
    taken = [(one.sequence, one.part_id) for one in plc.taken]
    assert taken == [(5, "OLD"), (6, "NEW")][request_ == "write_result" :]


def test_a_retained_acknowledgement_alone_is_no_result(ledger):
    """The PLC restarts, and keeps ``acknowledge`` as it should."""
    plc = Plc()
    post(ledger, "good")
    with line(ledger, plc) as made:
        made.deliver()
        plc.registers = [0, 0, 0, plc.registers[3], *[0] * (len(plc.registers) - 4)]
        plc.scan()
        post(ledger, "review")
        made.deliver()
    assert [(one.sequence, one.decision) for one in plc.taken] == [(1, 1), (2, 2)]


@pytest.mark.parametrize("part_id", ["x" * 33, "ü" * 17])
def test_a_part_that_does_not_fit_is_not_cut(ledger, part_id):
    plc = Plc()
    post(ledger, "good", part_id="before")
    post(ledger, "good", part_id=part_id)
    with line(ledger, plc) as made:
        made.deliver()
    assert [one.part_id for one in plc.taken] == ["before", ""]
    assert plc.registers[7] > 32
    assert len(made.said) == 1
    assert "the PLC gets no part with result 2" in made.said[0]


@pytest.mark.parametrize(
    ("order", "score", "text"),
    [
        ("ABCD", [0x3E80, 0x1234], "AB"),
        ("CDAB", [0x1234, 0x3E80], "AB"),
        ("BADC", [0x803E, 0x3412], "BA"),
        ("DCBA", [0x3412, 0x803E], "BA"),
    ],
)
def test_orders_of_bytes(ledger, order, score, text):
    """0x3E801234 is the float32 of 0.25013887882232666."""
    plc = Plc()
    post(ledger, "good", score=0.25013887882232666, part_id="AB")
    with line(ledger, plc, f"?order={order}") as made:
        made.deliver()
    assert plc.registers[4:6] == score
    assert plc.registers[8].to_bytes(2, "big").decode() == text


def test_a_plc_that_refuses_is_named_at_the_start(ledger):
    plc = Plc()
    with line(ledger, plc) as made:
        plc.refuses = 2
        with pytest.raises(PlcRefusesError, match=r"cannot read registers 100 to 123 of unit 1 .*exception code 2"):
            made.link.check()


@pytest.mark.parametrize("query", ["", "?acknowledge=no"])
def test_a_plc_that_refuses_results_is_named_at_the_start(ledger, query):
    plc = Plc()
    plc.registers[2:8] = [7, 7, 1, 2, 3, 4]
    before = list(plc.registers)
    with line(ledger, plc, query) as made:
        made.link.check()
        assert plc.registers[2:] == before[2:]  # they were written as they stood
        plc.refuses_results = 2
        with pytest.raises(PlcRefusesError, match=r"cannot write registers 104 to 123 .*exception code 2"):
            made.link.check()


def test_a_result_that_waits_in_the_plc_is_left_alone_at_the_start(ledger):
    plc = Plc()
    plc.takes, plc.registers[2] = False, 7
    with line(ledger, plc) as made:
        made.link.check()
    assert len(plc.states) == len(plc.beats) == 1


def test_a_plc_that_gets_no_results_sees_a_fault(ledger):
    plc = Plc()
    plc.refuses_results = 2
    post(ledger, "good")
    with line(ledger, plc) as made:
        for _ in range(4):
            made.link.pulse(Status.RUNNING)
            made.beat()
        assert plc.beats == [(1, 1), (2, 1), (2, 3), (2, 3)]
        (text,) = made.said
        assert text.startswith("the PLC gets no verdicts, and the heartbeat stands still: kdx cannot write")
        assert made.link.losses == 0  # the connection held
        plc.refuses_results = 0
        made.deliver()
        made.step()
        made.beat()
    assert plc.beats[-2:] == [(3, 1), (3, 1)]
    assert [one.sequence for one in plc.taken] == [1]


def test_a_plc_that_begins_to_refuse_is_said_once_and_tried_again(ledger):
    plc = Plc()
    with line(ledger, plc) as made:
        made.link.check()
        plc.refuses = 3
        post(ledger, "good")
        made.step(5)
        (text,) = made.said
        assert "it refuses a value (exception code 3)" in text
        assert "correct the PLC's program; 1 verdict waits" in text
        plc.refuses = 0
        made.deliver()
        assert made.said[1:] == [f"the PLC at {made.plc.name} receives verdicts again"]
    assert [one.sequence for one in plc.taken] == [1]


def test_a_plc_that_is_absent_at_the_start_is_tried_again(ledger):
    made = Line(ledger, f"modbus://127.0.0.1:{free_port()}/100")
    made.link.check()
    made.step(3)
    assert len(made.said) == 1
    assert "no connection to 127.0.0.1" in made.said[0]
    assert made.link.losses == 0


def test_the_heartbeat_counts_only_with_progress(ledger):
    plc = Plc()
    with line(ledger, plc) as made:
        made.link.pulse(Status.RUNNING)
        made.step()
        made.beat()  # no progress since
        made.link.pulse(Status.RUNNING)
        made.step()  # not yet due
        made.beat()
        made.link.pulse(Status.FAULT)
        made.beat()
        made.link.pulse(Status.OLD_BUNDLE)
        made.beat()
    assert plc.beats == [(1, 1), (1, 1), (2, 1), (2, 3), (3, 4)]


def test_a_ledger_that_cannot_be_opened_is_opened_later(ledger, monkeypatch):
    """The heartbeat is written meanwhile, and says that the PLC gets no results."""
    fails, said, now = iter(range(4)), list[str](), 0.0

    def hindered(path: Path) -> Ledger:
        if next(fails, None) is not None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return Ledger(path)

    monkeypatch.setattr(link, "Ledger", hindered)
    monkeypatch.setattr(link, "HEARTBEAT_SECONDS", 0.0)
    post(ledger, "good")
    plc = Plc()
    with Server(plc) as server:
        made = PlcLink(ledger.path, plc_at(parse_plc(server.url)), said.append, lambda: now)
        made.pulse(Status.RUNNING)
        made.start()
        plc.wait_for(lambda: len(plc.taken) > 0)
        made.end()
    assert (1, Status.FAULT) in plc.beats
    assert [one.sequence for one in plc.taken] == [1]
    assert said[0].startswith("the PLC gets no verdicts: the ledger cannot be read or written")
    assert said[1:] == [f"the PLC at {made._plc.name} receives verdicts again"]


def test_a_full_disk_neither_doubles_a_result_nor_ends_the_connection(ledger, monkeypatch):
    plc, remove = Plc(), ledger.remove_messages
    post(ledger, "good")

    def full(numbers: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with line(ledger, plc) as made:
        monkeypatch.setattr(ledger, "remove_messages", full)
        made.link.pulse(Status.RUNNING)
        made.step(2)
        made.link.pulse(Status.FAULT)
        made.step(2)
        monkeypatch.setattr(ledger, "remove_messages", remove)
        made.deliver()
    assert plc.beats == [(1, 1), (1, 3)]
    assert [one.sequence for one in plc.taken] == [1]
    assert [text.partition(":")[0] for text in made.said] == [
        "the PLC gets no verdicts", f"the PLC at {made.plc.name.partition(':')[0]}",
    ]  # fmt: skip


def test_a_full_disk_lets_the_heartbeat_stand_still_until_a_verdict_is_recorded(tmp_path, ledger, monkeypatch):
    monkeypatch.setattr(arrivals, "observer_of", lambda *_: NoNotices())
    monkeypatch.setattr(troubles, "_AGAIN_SECONDS", 0.0)
    fails, add = iter(range(3)), Ledger.add_file

    def full(*given: Any) -> None:
        if next(fails, None) is not None:
            raise OSError(errno.ENOSPC, "No space left on device")
        add(*given)

    monkeypatch.setattr(Ledger, "add_file", full)
    drop(tmp_path, a="good")
    plc = Plc()
    with line(ledger, plc) as made:

        def pulse(status: Status) -> None:
            made.link.pulse(status)
            made.beat()

        (record,) = run(options_for(tmp_path), pulse=pulse)
    assert record.verdict == "good"
    assert plc.beats[:5] == [(1, 1), (1, 3), (1, 3), (1, 3), (2, 1)]
    assert {status for _, status in plc.beats[5:]} <= {1}


@pytest.mark.parametrize(("status", "last"), [(Status.RUNNING, Status.STOPPED), (Status.FAULT, Status.FAULT)])
def test_the_end_is_told(ledger, status, last):
    plc = Plc()
    post(ledger, "good")
    with line(ledger, plc) as made:
        made.link.pulse(status)
        made.link.start()
        made.link.end(when_done=True)
    assert plc.beats[-1][1] == last
    assert ledger.waiting(PlcLink.receiver) == 0


def test_judging_that_hangs_stops_the_heartbeat(tmp_path, ledger, monkeypatch):
    """The station runs in a thread of its own, and its detector waits in the middle of a call."""
    monkeypatch.setattr(arrivals, "observer_of", lambda *_: NoNotices())
    monkeypatch.setattr(station, "_PATIENCE_SECONDS", 0.01)
    drop(tmp_path, a="good")
    options = options_for(tmp_path, once=False)
    options.out.mkdir()
    hangs, release, again = threading.Event(), threading.Event(), threading.Event()
    judge = stand_in(options.folder, options.pattern, heat_maps=False)

    def judge_slowly(name: str, identity: Identity) -> Any:
        hangs.set()
        assert release.wait(60)
        return judge(name, identity)

    plc = Plc()
    with line(ledger, plc) as made:

        def pulse(status: Status) -> None:
            made.link.pulse(status)
            if release.is_set():
                again.set()

        def work() -> None:
            with contextlib.closing(Ledger(options.out / FILE, create=True)) as own:
                running = Station(options, own, (), judge_slowly, [], said.append, pulse=pulse)  # type: ignore[arg-type]
                stations.append(running)
                list(running.records())

        said: list[str] = []
        stations: list[Station] = []
        thread = threading.Thread(target=work)
        thread.start()
        assert hangs.wait(60)
        made.beat()
        counted = plc.beats[-1][0]
        for _ in range(3):
            made.beat()
        assert [beat for beat, _ in plc.beats[-3:]] == [counted] * 3
        release.set()
        assert again.wait(60)
        made.beat()
        assert plc.beats[-1][0] == counted + 1
        stations[0].stop()
        thread.join()
    assert said == []
