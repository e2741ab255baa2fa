"""Reporting the progress of long work, independent of how it is shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol, TypeVar

T = TypeVar("T")


class Task(Protocol):
    """A running task."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Report that ``steps`` more steps are done, and show ``note`` beside the bar."""
        ...


class Progress(Protocol):
    """A display of running tasks."""

    def task(self, description: str, total: int) -> AbstractContextManager[Task]:
        """Start a task of ``total`` steps."""
        ...


class _SilentTask:
    def advance(self, steps: int = 1, note: str = "") -> None:
        pass


class SilentProgress:
    """A display that shows nothing: the default of every function, and used for JSON output."""

    def task(self, description: str, total: int) -> AbstractContextManager[Task]:
        """Start a task that is not shown."""
        return nullcontext(_SilentTask())


SILENT = SilentProgress()
# A log should show that work proceeds, and nothing else.
_SECONDS_BETWEEN_LINES = 60.0


class LineProgress:
    """A display for logs: a line a minute that says how far the task is.

    Args:
        say: Prints a line.
        clock: Seconds of a clock that does not jump.
    """

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock = say, clock
        self._said = clock()

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Task]:
        """Start a task of ``total`` steps."""
        yield _LineTask(self, description, total)

    def show(self, line: str) -> None:
        """Print a line, unless the one before is too recent."""
        now = self._clock()
        if now - self._said >= _SECONDS_BETWEEN_LINES:
            self._said = now
            self._say(line)


class _LineTask:
    def __init__(self, progress: LineProgress, description: str, total: int) -> None:
        self._progress, self._description, self._total, self._done = progress, description, total, 0

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._done += steps
        end = f": {note}" if note else ""
        self._progress.show(f"{self._description}, {self._done} of {self._total}{end}")


def track(progress: Progress, items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Yield items, each of which is one step of a task."""
    with progress.task(description, total) as task:
        for item in items:
            yield item
            task.advance()
