"""Which trainings the hours of a search stop, by a clock that tests set."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from kd_train.training.distillation import TASK
from kdx.progress import SILENT
from kdx.workflows.fit import deadline as module
from kdx.workflows.fit.deadline import Deadline, TooLongError
from kdx.workflows.fit.trial_records import MethodSize


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def train(
    deadline: Deadline, clock: Clock, *, step_s: float, steps: int = 100, task: str = "training", before_s: float = 0
) -> int:
    """Return how many steps of a training were done."""
    done, progress = 0, deadline.watched(SILENT)
    clock.now += before_s  # decoding, the teacher's features
    with progress.task(task, steps) as shown:
        for _ in range(steps):
            clock.now += step_s
            shown.advance()
            done += 1
    return done


def test_a_training_that_ends_in_time_is_not_stopped(clock: Clock) -> None:
    assert train(Deadline(1), clock, step_s=35) == 100


def test_a_training_that_would_end_too_late_is_stopped_when_its_speed_is_known(clock: Clock) -> None:
    deadline = Deadline(1)
    before = clock.now
    with pytest.raises(TooLongError, match="it would take about 67 min, and 60 min are left") as stopped:
        train(deadline, clock, step_s=4, steps=1000)
    assert (stopped.value.seconds, stopped.value.left_s) == pytest.approx((4000, 3600))
    assert clock.now - before == 72  # a fiftieth of the hour
    before = clock.now
    with pytest.raises(TooLongError, match="it would take about 33 min, and 5 min are left"):
        train(Deadline(1 / 12), clock, step_s=2, steps=1000)
    assert clock.now - before == 10


def test_a_slow_moment_stops_nothing(clock: Clock) -> None:
    with Deadline(1).watched(SILENT).task("training", 100) as task:
        for step in range(100):
            clock.now += 40 if step == 0 else 30
            task.advance()


def test_the_time_before_a_task_counts(clock: Clock) -> None:
    assert train(Deadline(1), clock, step_s=30.5) == 100
    with pytest.raises(TooLongError, match="about 61 min, and 60 min"):
        train(Deadline(1), clock, step_s=30.5, before_s=600)


def test_what_slows_down_after_a_quarter_is_finished(clock: Clock) -> None:
    with Deadline(1).watched(SILENT).task("training", 4) as task:
        for seconds in (800, 4000, 4000, 4000):
            clock.now += seconds
            task.advance()


def test_a_compact_teacher_leaves_time_for_its_students(clock: Clock) -> None:
    assert train(Deadline(1), clock, step_s=18, task=TASK) == 100
    with pytest.raises(TooLongError):
        train(Deadline(1), clock, step_s=20, task=TASK)


def test_other_sizes_of_a_pair_tell_how_long_one_takes(clock: Clock) -> None:
    deadline = Deadline(1)
    deadline.took(MethodSize("stpm", 128), 1000)
    deadline.took(MethodSize("stpm", 224), 4000)
    deadline.require_time(MethodSize("stpm", 160))
    deadline.require_time(MethodSize("stpm", 512, "compact-m"))  # another pair
    with pytest.raises(TooLongError, match="about 67 min, and 60 min"):
        deadline.require_time(MethodSize("stpm", 256))


def test_without_hours_there_is_no_end(clock: Clock) -> None:
    deadline = Deadline(None)
    assert deadline.watched(SILENT) is SILENT
    deadline.took(MethodSize("stpm", 64), 1e9)
    deadline.require_time(MethodSize("stpm", 4096))
