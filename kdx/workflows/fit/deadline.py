"""The hours that a search may take: a training that would end after them is stopped early."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from kd_train.recipes import Recipe
from kd_train.training.distillation import TASK as COMPACT_TEACHER
from kd_train.training.distilled_teacher import TEACHER_FOLDER
from kd_train.training.quantization import TASK as INT8_STUDENTS
from kd_train.training.run_folder import Run
from kd_train.training.train import TASK as STUDENTS
from kdx.errors import CheckpointError
from kdx.progress import Progress, Task
from kdx.workflows.fit.trial_records import MethodSize

# What an epoch of the students takes beside one of their compact teacher: 0.02 to 0.18 in all
# trainings but one of benchmarks/results/accuracy.json and compact.json.
_STUDENTS_EPOCH = 0.18
# A compact teacher, and students, are stopped within their first quarter or not at all, and never
# by the speed of their first steps, which are slower, or of a moment in which the machine does
# something else: by that of ten seconds, or of a fiftieth of the time that is left.
_UNDECIDED_SHARE, _FIRST_S, _FIRST_SHARE = 0.25, 10.0, 0.02


class TooLongError(Exception):
    """A training would end after the hours.

    Attributes:
        seconds: What it would take, from its beginning or from where it resumed.
    """

    def __init__(self, seconds: float, left_s: float) -> None:
        needed, left = math.ceil(seconds / 60), math.floor(left_s / 60)
        super().__init__(f"it would take about {needed} min, and {left} min are left")
        self.seconds = seconds


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

    @contextmanager
    def training(self, candidate: MethodSize, recipe: Recipe, progress: Progress) -> Iterator[Progress]:
        """Give the display of a candidate's training from its beginning.

        Raises:
            TooLongError: By the times of other sizes of its pair, or by its own first steps, it
                would end after the hours.
        """
        # Convolutions take a time that is proportional to the number of pixels.
        rates = [took / other.pixels for other, took in self._seconds.items() if other.pair == candidate.pair]
        expected, left, began = min(rates, default=0.0) * candidate.pixels, self.left_s, time.monotonic()
        if expected > left:
            raise TooLongError(expected, left)
        try:
            yield self.watched(progress, recipe, recipe.teacher_epochs)
        except TooLongError as error:
            self._seconds[candidate] = error.seconds
            raise
        self._seconds[candidate] = time.monotonic() - began

    def watched(self, progress: Progress, recipe: Recipe, teacher_epochs: int = 0) -> Progress:
        """Return a display that raises ``TooLongError`` if a training of a recipe would not end.

        Args:
            progress: Shows the work.
            recipe: The recipe.
            teacher_epochs: The epochs in which its compact teacher still learns.
        """
        if self._end == math.inf:
            return progress
        epochs = recipe.epochs / teacher_epochs if teacher_epochs else 0.0
        return _Watched(progress, self.left_s, 1 + _STUDENTS_EPOCH * epochs)


def teacher_epochs_left(run: Path, recipe: Recipe) -> int:
    """Return the epochs in which the compact teacher of a run folder still learns; or 0."""
    with suppress(CheckpointError):  # no epoch is complete
        return recipe.teacher_epochs - Run(run / TEACHER_FOLDER).checkpoint("last").resumes_at.epoch
    return recipe.teacher_epochs


class _Watched:
    """A display that follows how fast a training proceeds."""

    def __init__(self, progress: Progress, left_s: float, with_students: float) -> None:
        self._progress, self._left_s = progress, left_s
        self._longer = {COMPACT_TEACHER: with_students, STUDENTS: 1.0, INT8_STUDENTS: 1.0}
        self._began = time.monotonic()

    def task(self, description: str, total: int) -> AbstractContextManager[Task]:
        shown = self._progress.task(description, total)
        return self._watched(shown, total, self._longer[description]) if description in self._longer else shown

    @contextmanager
    def _watched(self, shown: AbstractContextManager[Task], total: int, longer: float) -> Iterator[Task]:
        with shown as task:
            yield _WatchedTask(task, self, total, longer)

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
