"""The hours that a search may take: a training that would end after them is stopped early."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from kd_train.training.distillation import TASK as COMPACT_TEACHER
from kdx.progress import Progress, Task
from kdx.workflows.fit.trial_records import MethodSize

# What students take beside their compact teacher: 0.1 to 0.9 of its time in all trainings but one
# of benchmarks/results/accuracy.json and compact.json.
_STUDENTS_SHARE = 0.9
# A training is stopped within its first quarter or not at all, and never by the speed of its first
# steps, which are slower, or of a moment in which the machine does something else: by that of ten
# seconds, or of a fiftieth of the time that is left.
_UNDECIDED_SHARE, _FIRST_S, _FIRST_SHARE = 0.25, 10.0, 0.02


class TooLongError(Exception):
    """A training would end after the hours.

    Attributes:
        seconds: What it would take in all.
        left_s: What is left, counted from its beginning.
    """

    def __init__(self, seconds: float, left_s: float) -> None:
        super().__init__(f"it would take about {say_minutes(seconds)}, and {say_minutes(left_s)} are left")
        self.seconds = seconds
        self.left_s = left_s


class Deadline:
    """When a search ends, and how long trainings take.

    Args:
        hours: The hours from now; None for no end.
    """

    def __init__(self, hours: float | None) -> None:
        self._end = math.inf if hours is None else time.monotonic() + 3600 * hours
        self._seconds: dict[MethodSize, float] = {}

    @property
    def left_s(self) -> float:
        """The seconds that are left, 0 where none are; infinity without an end."""
        return max(0.0, self._end - time.monotonic())

    def took(self, candidate: MethodSize, seconds: float) -> None:
        """Note what the training of a candidate took, or would have taken."""
        self._seconds[candidate] = seconds

    def require_time(self, candidate: MethodSize) -> None:
        """Raise ``TooLongError`` where a candidate would take too long by other sizes of its pair.

        Convolutions take a time that is proportional to the number of pixels.
        """
        rates = [took / other.pixels for other, took in self._seconds.items() if other.pair == candidate.pair]
        expected, left = min(rates, default=0.0) * candidate.pixels, self.left_s
        if expected > left:
            raise TooLongError(expected, left)

    def watched(self, progress: Progress) -> Progress:
        """Return the display of one training, which raises ``TooLongError`` if it would not end."""
        return progress if self._end == math.inf else _Watched(progress, self.left_s)


class _Watched:
    """A display that follows how fast the tasks of a training proceed."""

    def __init__(self, progress: Progress, left_s: float) -> None:
        self._progress, self._left_s = progress, left_s
        self._began = time.monotonic()

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Task]:
        with self._progress.task(description, total) as shown:
            yield _WatchedTask(shown, self, total, 1 + _STUDENTS_SHARE * (description == COMPACT_TEACHER))

    def require_time(self, began: float, share: float, longer: float) -> None:
        """Stop a training of which a task that began at ``began`` has done ``share``."""
        now = time.monotonic()
        if share >= _UNDECIDED_SHARE or now - began < max(_FIRST_S, _FIRST_SHARE * self._left_s):
            return
        seconds = began - self._began + longer * (now - began) / share
        if seconds > self._left_s:
            raise TooLongError(seconds, self._left_s)


class _WatchedTask:
    def __init__(self, shown: Task, watched: _Watched, total: int, longer: float) -> None:
        self._shown, self._watched, self._total, self._longer = shown, watched, total, longer
        self._began, self._done = time.monotonic(), 0

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._shown.advance(steps, note)
        self._done += steps
        if self._done:
            self._watched.require_time(self._began, self._done / max(1, self._total), self._longer)


def say_minutes(seconds: float) -> str:
    """Return a time in whole minutes, in words."""
    return f"{max(1, round(seconds / 60))} min"
