"""Messages to receivers, each delivered at least once.

A message leaves the outbox of the ledger only after its receiver acknowledged it. A receiver that
is away delays no verdict, and nothing is forgotten until it is back. Repeats have the same
``verdict_id``, by which receivers drop them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from kdx.errors import OutputError
from kdx.station.ledger import Ledger
from kdx.text import number_of

# How long a receiver that failed is left alone: twice as long each time.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 60.0
# After how many seconds a command is ended that does not end by itself, and after how many once the
# station is to stop.
COMMAND_SECONDS, LAST_SECONDS = 60.0, 5.0
_STEP_SECONDS = 0.1


class Receiver(Protocol):
    """Somebody to whom verdicts are sent."""

    name: str
    at_once: int  # how many messages are sent before the first is acknowledged

    def send(self, messages: Sequence[tuple[int, bytes]], stop: threading.Event) -> tuple[list[int], str]:
        """Send messages, which have numbers, until one is not acknowledged, or ``stop`` is set.

        Returns:
            The numbers of those that were acknowledged, and why another was not; else an empty
            text.
        """
        ...

    def close(self) -> None:
        """End the connection."""
        ...


class Command:
    """Runs a command for each verdict, with the record on its standard input.

    Args:
        words: The program and its arguments. No shell interprets them.
        seconds: After how many seconds it is ended, with the programs that it started.
        last_seconds: After how many seconds it is ended once the station is to stop.
    """

    name = "exec"
    at_once = 1

    def __init__(
        self, words: Sequence[str], seconds: float = COMMAND_SECONDS, last_seconds: float = LAST_SECONDS
    ) -> None:
        self._words, self._seconds, self._last_seconds = list(words), seconds, last_seconds

    def send(self, messages: Sequence[tuple[int, bytes]], stop: threading.Event) -> tuple[list[int], str]:
        """Run the command for each message; exit status 0 acknowledges it."""
        done: list[int] = []
        for number, line in messages:
            if stop.is_set():
                break
            try:
                status = self._run(line, stop)
            except OSError as error:
                return done, f"the command cannot be run: {error.strerror or error}"
            if status is None:
                seconds = self._last_seconds if stop.is_set() else self._seconds
                return done, f"the command did not end within {seconds:g} s"
            if status < 0:
                return done, f"the command was ended by signal {-status}"
            if status:
                return done, f"exit status {status}"
            done.append(number)
        return done, ""

    def _run(self, line: bytes, stop: threading.Event) -> int | None:
        """Return the exit status of the command; None if it was ended because it did not end."""
        # Standard output is that of the records. In a group of its own, the command can be ended
        # with the programs that it started, and Ctrl-C does not reach it.
        with subprocess.Popen(self._words, stdin=subprocess.PIPE, stdout=2, start_new_session=True) as process:
            left, last, more = self._seconds, self._last_seconds, line or None
            while True:
                try:
                    process.communicate(more, timeout=_STEP_SECONDS)
                    return process.returncode
                except subprocess.TimeoutExpired:
                    more = None  # it is being sent
                    left, last = left - _STEP_SECONDS, last - (_STEP_SECONDS if stop.is_set() else 0.0)
                    if min(left, last) <= 0:
                        _kill(process)
                        return None

    def close(self) -> None:
        """Do nothing: a command ends by itself."""


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and, except on Windows, the programs that it started."""
    if os.name == "nt":
        process.kill()
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


class Courier(threading.Thread):
    """Takes messages from the outbox to one receiver, in order.

    Args:
        path: The ledger's file.
        receiver: The receiver.
        say: Is given what users should know. It is called in this thread.
    """

    def __init__(self, path: Path, receiver: Receiver, say: Callable[[str], None]) -> None:
        super().__init__(name=f"kdx courier to {receiver.name}", daemon=True)
        self._path, self._receiver, self._say = path, receiver, say
        self._ledger: Ledger | None = None  # of this thread, which opens it when it can
        self._there_is_work = threading.Event()
        self._stopping = threading.Event()
        self._ends_when_done = False
        self.is_away = False

    @property
    def receiver(self) -> str:
        """The receiver's name."""
        return self._receiver.name

    def expect(self, message: int, since: float) -> None:
        """Do nothing: these receivers take messages of any age."""

    def notice(self) -> None:
        """Take notice that there are new messages."""
        self._there_is_work.set()

    def end(self, *, when_done: bool = False, is_stopping: Callable[[], bool] = lambda: False) -> None:
        """End after the message in hand, or when the outbox is empty or the receiver is away.

        Args:
            when_done: Whether to deliver what is in the outbox first.
            is_stopping: Whether to end after the message in hand all the same.
        """
        self._ends_when_done = when_done
        while self.is_alive():
            if not when_done or is_stopping():
                self._stopping.set()
            self._there_is_work.set()
            self.join(_STEP_SECONDS)

    def run(self) -> None:
        """Deliver messages until :meth:`end`."""
        pause = _FIRST_PAUSE
        try:
            while not self._stopping.is_set():
                self._there_is_work.clear()
                sent, problem = self._deliver()
                if problem:
                    self._miss(problem)
                    if self._ends_when_done:
                        return
                    self._stopping.wait(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
                    continue
                if sent:
                    pause = _FIRST_PAUSE
                    if self.is_away:
                        self.is_away = False
                        self._say(f"{self._receiver.name} receives verdicts again")
                elif self._ends_when_done:
                    return
                else:
                    self._there_is_work.wait()
        finally:
            self._receiver.close()
            if self._ledger is not None:
                self._ledger.close()

    def _deliver(self) -> tuple[int, str]:
        """Deliver some messages; return how many were acknowledged, and what is wrong."""
        try:
            if self._ledger is None:
                self._ledger = Ledger(self._path)
            messages = self._ledger.outbox(self._receiver.name, self._receiver.at_once)
            if not messages:
                return 0, ""
            done, problem = self._receiver.send(messages, self._stopping)
            if done:
                self._ledger.remove_messages(done)
        except (OSError, OutputError) as error:  # a full disk: what was acknowledged is sent once more
            return 0, f"the ledger cannot be read or written: {error}"
        except Exception as error:  # without this thread, nobody would be told any verdict
            return 0, f"unexpected {type(error).__name__}: {error}"
        return len(done), problem

    def _miss(self, problem: str) -> None:
        if not self.is_away:
            self.is_away = True
            waiting = "verdicts wait"
            with contextlib.suppress(Exception):  # it may be the ledger that cannot be read
                if self._ledger is not None:
                    count = self._ledger.waiting(self._receiver.name)
                    waiting = number_of(count, "[verdict waits|verdicts wait]")
            self._say(f"{self._receiver.name} does not receive verdicts ({problem}): {waiting}, and none is lost")
