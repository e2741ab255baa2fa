"""The connection to a PLC: results from the outbox, one after the other, and a heartbeat.

The heartbeat counts only when the station has made progress since it counted last. So it stands
still when judging hangs, although this thread does not.

A result is written first and its sequence number last. Where the PLC acknowledges, the next result
is written when it has taken this one; otherwise the sequence number is 0 while a result is written,
so that a PLC which reads the same number before and after a result has read one result. While the
PLC repeatedly gets no results, its status is a fault, and the heartbeat stands still.

A result that waited for longer than the PLC allows is not shown any more: its part is gone.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path

from kdx.errors import KdxError, OutputError
from kdx.station.ledger import Ledger
from kdx.station.plc.ages import Ages
from kdx.station.plc.plc import Plc, PlcAwayError, PlcError, PlcRefusesError
from kdx.station.plc.result import following
from kdx.station.plc.showing import Showing
from kdx.station.status import Status
from kdx.text import number_of

# How often the heartbeat counts, where the station makes progress.
HEARTBEAT_SECONDS = 1.0
# How long a PLC that cannot be reached is left alone: twice as long each time.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 5.0
# How often the PLC is asked whether it took a result: less often the longer it takes.
_FIRST_POLL, _LONGEST_POLL = 0.01, 0.1
# After how long it is said that the PLC does not take a result.
PATIENCE_SECONDS = 5.0
# So many results that are too old are crossed off at once.
_MOST_AT_ONCE = 1000
# From how many results in a row that the PLC did not get the station is at fault.
_MOST_FAILURES = 2


class PlcLink(threading.Thread):
    """Writes verdicts and a heartbeat to a PLC.

    Args:
        path: The ledger's file.
        plc: The PLC.
        say: Is given what users should know. It is called in this thread.
        clock: Seconds of a clock that does not jump.

    Attributes:
        is_away: Whether the PLC cannot be reached, or refuses what is written.
        losses: How often a connection was lost.
        withheld: How many results were too old for the PLC.
    """

    receiver = "plc"

    def __init__(
        self, path: Path, plc: Plc, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(name=f"kdx link to {plc.name}", daemon=True)
        self._path, self._plc, self._say, self._clock = path, plc, say, clock
        self._showing = Showing(plc, say)
        self._ages = Ages(plc.max_age, clock)
        self._ledger: Ledger | None = None  # of this thread, which opens it when it can
        self._failures = 0
        self._news = threading.Event()
        self._stopping = threading.Event()
        self._ends_when_done = False
        self._is_open = False
        self._progress = self._counted = 0
        self._status = self._written_status = Status.STOPPED
        self._heartbeat, self._next_beat = 0, 0.0
        self._shown: tuple[int, int] | None = None  # the message that the PLC shows, and its sequence number
        self._since = 0.0
        self._poll = _FIRST_POLL
        self._pause = _FIRST_PAUSE
        self._said: set[str] = set()
        self._is_late = self._is_withholding = False
        self.is_away = False
        self.losses = self.withheld = 0

    def check(self) -> None:
        """Connect before anything is judged; a PLC that is away is said, and tried again later.

        Raises:
            PlcRefusesError: It refuses what is read or written.
        """
        try:
            self._open()
            self._plc.write_back()
            self._plc.write_life(0, Status.STOPPED)
        except PlcAwayError as error:
            self._miss(error)
        except PlcRefusesError:
            self._plc.close()
            raise

    def pulse(self, status: Status) -> None:
        """Take notice of the station's status; it makes progress unless it is at fault."""
        if status is not Status.FAULT:
            self._progress += 1
        if status is not self._status:
            self._status = status
            self._news.set()

    def expect(self, message: int, since: float) -> None:
        """Take notice of a verdict before it is committed.

        Args:
            message: Its number in the outbox.
            since: When its part was seen, by the clock of this link.
        """
        self._ages.note(message, since)

    def notice(self) -> None:
        """Take notice that there are new verdicts."""
        self._news.set()

    def end(self, *, when_done: bool = False, is_stopping: Callable[[], bool] = lambda: False) -> None:
        """Tell the PLC that kdx stops.

        Args:
            when_done: Whether the PLC gets what is in the outbox first, unless it is away.
            is_stopping: Whether to end at once all the same.
        """
        self._ends_when_done = when_done
        while self.is_alive():
            if not when_done or is_stopping():
                self._stopping.set()
            self._news.set()
            self.join(_LONGEST_POLL)

    def run(self) -> None:
        """Write results and the heartbeat until :meth:`end`."""
        try:
            while not self._stopping.is_set():
                self._news.clear()
                pause = self.step()
                if pause is None:
                    break
                self._wait(pause)
            if self._is_open:
                if self._status is not Status.FAULT:
                    self._status = Status.STOPPED
                with contextlib.suppress(Exception):
                    self._plc.write_life(self._heartbeat, self._status)
        finally:
            self._plc.close()
            if self._ledger is not None:
                self._ledger.close()

    def step(self) -> float | None:
        """Do what is due; return after how many seconds something is due, or None at the end."""
        try:
            if not self._is_open:
                self._open()
            self._beat()
            self._failures += 1
            if self._ledger is None:
                self._ledger = Ledger(self._path)
            pause = self._deliver(self._ledger)
            self._failures = 0
        except PlcError as error:
            problem: KdxError = error
        except (OSError, OutputError) as error:  # a full disk; the heartbeat and the status are written
            return self._stall(error)
        except Exception as error:  # without this thread, the PLC would get no verdict at all
            problem = KdxError(f"unexpected {type(error).__name__}: {error}")
        else:
            if self._said:
                self._said.clear()
                self._say(f"the PLC at {self._plc.name} receives verdicts again")
            self.is_away = False
            self._pause = _FIRST_PAUSE
            return None if pause is None else min(pause, max(self._next_beat - self._clock(), 0.0))
        self._miss(problem)
        pause, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE)
        return None if self._ends_when_done else pause

    def _wait(self, seconds: float) -> None:
        """Wait for news; a PLC that cannot be reached is left alone."""
        (self._stopping if self.is_away else self._news).wait(seconds)

    def _open(self) -> None:
        self._plc.open()
        if self._plc.max_age is not None and self._plc.acknowledges and self._plc.read().is_pending:
            self._plc.write_sequence(0)  # it may be too old by now, and the heartbeat says: take it
        self._is_open = True
        self._shown = None
        self._next_beat = self._clock()

    def _beat(self) -> None:
        """Write the heartbeat and the status where they are due.

        Both are of no worth to a PLC that gets no results: this is a fault too.
        """
        now, status = self._clock(), self._status
        if self._failures >= _MOST_FAILURES:
            status = Status.FAULT
        if now < self._next_beat and status is self._written_status:
            return
        progress = self._counted if status is Status.FAULT else self._progress
        beat = following(self._heartbeat) if progress != self._counted else self._heartbeat
        self._plc.write_life(beat, status)
        self._heartbeat, self._counted, self._written_status = beat, progress, status
        self._next_beat = now + HEARTBEAT_SECONDS

    def _deliver(self, ledger: Ledger) -> float | None:
        """Show the next result, or see whether the PLC took it."""
        messages = ledger.outbox(self.receiver, 1)
        if not messages:
            return None if self._ends_when_done else HEARTBEAT_SECONDS
        message, line = messages[0]
        if self._ages.is_over(message):
            return self._withhold(ledger, message)
        if self._shown is None or self._shown[0] != message:
            self._shown = message, self._showing.show(ledger, message, line)
            self._poll, self._since = _FIRST_POLL, self._clock()
        if self._plc.acknowledges:
            numbers, sequence = self._plc.read(), self._shown[1]
            if numbers.acknowledge != sequence:
                if numbers.sequence != sequence:  # the PLC's memory was cleared
                    self._shown = None
                return self._wait_for(ledger, sequence)
        if self._is_late:
            self._is_late = False
            self._say(f"the PLC at {self._plc.name} acknowledges results again")
        self._is_withholding = False
        self._ages.forget(message)
        ledger.remove_messages([message])
        return 0.0

    def _withhold(self, ledger: Ledger, first: int) -> float:
        """Cross off results that are too old; the first of them may be one that the PLC saw."""
        old = [first]
        if not self._showing.withdraw(ledger, first):
            found = (number for number, _ in ledger.outbox(self.receiver, _MOST_AT_ONCE))
            old = list(takewhile(self._ages.is_over, found))
            if not self._is_withholding:
                self._is_withholding = True
                self._say(
                    f"the PLC at {self._plc.name} is not given verdicts older than {self._plc.max_age:g} s: "
                    f"{number_of(len(old), '[verdict|verdicts]')} so far"
                )
            self.withheld += len(old)
        self._shown = None
        ledger.remove_messages(old)
        return 0.0

    def _wait_for(self, ledger: Ledger, sequence: int) -> float | None:
        """Return when the PLC is asked again whether it took a result."""
        if self._clock() - self._since >= PATIENCE_SECONDS:
            if not self._is_late:
                self._is_late = True
                waiting = number_of(ledger.waiting(self.receiver), "[verdict waits|verdicts wait]")
                self._say(f"the PLC at {self._plc.name} does not acknowledge result {sequence}: {waiting}")
            if self._ends_when_done:
                return None
        pause, self._poll = self._poll, min(2 * self._poll, _LONGEST_POLL)
        return pause

    def _miss(self, problem: KdxError) -> None:
        """Say once why the PLC gets nothing, and count a connection that was lost."""
        is_away = isinstance(problem, PlcAwayError)
        self.losses += self._is_open and is_away
        self._is_open = False
        self.is_away = True
        self._plc.close()
        waiting = ""
        if self._ledger is not None:
            with contextlib.suppress(Exception):  # the ledger may be unreadable at this moment
                waiting = f"; {number_of(self._ledger.waiting(self.receiver), '[verdict waits|verdicts wait]')}"
        fix = f"; {problem.fix}" if problem.fix else ""
        kind = problem.fix or type(problem).__name__
        heartbeat = "and no heartbeat" if is_away else "and the heartbeat stands still"
        self._say_once(kind, f"the PLC gets no verdicts, {heartbeat}: {problem.message}{fix}{waiting}")

    def _stall(self, error: Exception) -> float | None:
        """Say once that results wait because the ledger cannot be read or written."""
        self._say_once("ledger", f"the PLC gets no verdicts: the ledger cannot be read or written: {error}")
        return None if self._ends_when_done else HEARTBEAT_SECONDS

    def _say_once(self, key: str, text: str) -> None:
        if key not in self._said:
            self._said.add(key)
            self._say(text)
