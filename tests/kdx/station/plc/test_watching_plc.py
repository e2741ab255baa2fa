"""``kdx watch --plc`` as a process: it is killed, and continues without a loss or a repeat."""

from __future__ import annotations

import signal

import pytest

from kdx.station.plc.address import parse_plc
from kdx.station.status import Status
from kdx.station.watching import judge_arrivals
from tests.kdx.station.plc.modbus_server import Plc, Server
from tests.kdx.station.test_watching import acknowledged, arguments, drop, options_once, place, pytestmark, watching

pytest.importorskip("pymodbus", reason="the extra plc is not installed")
__all__ = ["place", "pytestmark"]  # a fixture and a mark


def test_a_kill_between_a_result_and_its_acknowledgement(place, cli):  # the fixture
    plc = Plc()
    plc.takes = False
    with Server(plc) as server:
        more = ("--plc", server.url, "--part-id", r"(?P<part>\d+)")
        with watching(place, *more) as process:
            drop(place, 8)
            plc.wait_for(lambda: plc.read().sequence == 1)
            drop(place, 9)
            assert [acknowledged(process), acknowledged(process)] == ["008.png", "009.png"]
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert plc.registers[1] == Status.RUNNING  # the PLC sees by the heartbeat that this is not so
        plc.takes = True
        plc.scan()  # the result that was shown is acknowledged while nobody runs
        said = cli(*arguments(place, *more, "--once", "--settle", "0")).stderr
    assert [(one.sequence, one.decision, one.part_id) for one in plc.taken] == [(1, 1, "008"), (2, 3, "009")]
    assert plc.registers[1] == Status.STOPPED
    assert "wait" not in said


def test_a_plc_that_refuses_ends_the_call_before_anything_is_judged(place, cli):
    plc = Plc()
    plc.refuses = 2
    drop(place, 0)
    with Server(plc) as server:
        refused = cli(*arguments(place, "--once", "--settle", "0", "--plc", server.url), code=2)
    assert "it has no such registers (exception code 2)" in refused.stderr
    assert "in --plc" in refused.stderr
    assert (place / "in/000.png").exists()


def test_a_second_signal_is_no_end_in_order(place):
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    drop(place, 0)
    plc = Plc()
    with Server(plc) as server:
        options = options_once(place, plc=parse_plc(server.url))
        with pytest.raises(KeyboardInterrupt):
            judge_arrivals(options, each=interrupted)
    assert plc.beats[-1][1] == Status.FAULT
