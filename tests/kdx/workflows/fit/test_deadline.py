"""Which trainings the hours of a search stop, by a clock that tests set."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from kd_train.methods import find_method
from kd_train.recipes import Recipe, load_recipe
from kdx.progress import SILENT
from kdx.workflows.fit import deadline as module
from kdx.workflows.fit.compact_choice import compact_choice
from kdx.workflows.fit.deadline import (
    COMPACT_TEACHER,
    INT8_STUDENTS,
    STUDENTS,
    Deadline,
    TooLongError,
    teacher_epochs_left,
)
from kdx.workflows.fit.search import _train_in_order
from kdx.workflows.fit.trial import Workshop
from kdx.workflows.fit.trial_records import Dropped, MethodSize, Screened, Timing, Trial

PLAIN = load_recipe(find_method("stpm"), {"backbones": ("tf_efficientnet_lite0",)})
COMPACT = load_recipe(find_method("stpm"), {"backbones": ("compact-m",)})
SMALL = MethodSize("stpm", 128)


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
    deadline: Deadline, clock: Clock, *tasks: tuple[str, float], steps: int = 100, recipe: Recipe = PLAIN,
    candidate: MethodSize = SMALL, teacher_left: int | None = None,
) -> None:  # fmt: skip
    """Train, or continue with so many epochs of a compact teacher left: tasks of so many seconds a
    step."""
    begun = deadline.training(candidate, recipe, SILENT)
    watch = begun if teacher_left is None else nullcontext(deadline.watched(SILENT, recipe, teacher_left))
    with watch as progress:
        for name, seconds in tasks:
            with progress.task(name, steps) as shown:
                for _ in range(steps):
                    clock.now += seconds
                    shown.advance()


def test_a_training_that_ends_in_time_is_not_stopped(clock: Clock) -> None:
    deadline = Deadline(1)
    train(deadline, clock, (STUDENTS, 35))
    assert deadline.left_s == 100


@pytest.mark.parametrize("name", [STUDENTS, INT8_STUDENTS])
def test_a_training_that_would_end_too_late_is_stopped_when_its_speed_is_known(clock: Clock, name: str) -> None:
    deadline = Deadline(1)
    before = clock.now
    with pytest.raises(TooLongError, match="it would take about 67 min, and 60 min are left"):
        train(deadline, clock, (name, 4), steps=1000)
    assert clock.now - before == 72  # a fiftieth of the hour
    deadline, before = Deadline(1 / 12), clock.now
    with pytest.raises(TooLongError, match="it would take about 34 min, and 5 min are left"):
        train(deadline, clock, (name, 2), steps=1000)
    assert clock.now - before == 10


def test_a_slow_moment_stops_nothing(clock: Clock) -> None:
    with Deadline(1).training(SMALL, PLAIN, SILENT) as progress, progress.task(STUDENTS, 100) as task:
        for step in range(100):
            clock.now += 40 if step == 0 else 30
            task.advance()


def test_the_time_before_a_task_counts_and_decoding_alone_stops_nothing(clock: Clock) -> None:
    train(Deadline(1), clock, (STUDENTS, 30.5))
    with pytest.raises(TooLongError, match="about 61 min, and 60 min"):
        train(Deadline(1), clock, ("decoding images", 6), (STUDENTS, 30.5))
    train(Deadline(1), clock, ("decoding images", 60), steps=2)


def test_what_slows_down_after_a_quarter_is_finished(clock: Clock) -> None:
    with Deadline(1).training(SMALL, PLAIN, SILENT) as progress, progress.task(STUDENTS, 4) as task:
        for seconds in (800, 4000, 4000, 4000):
            clock.now += seconds
            task.advance()


def test_a_compact_teacher_leaves_time_for_its_students_which_are_judged_by_their_own_steps(clock: Clock) -> None:
    train(Deadline(1), clock, (COMPACT_TEACHER, 18), (STUDENTS, 17), recipe=COMPACT)
    with pytest.raises(TooLongError):  # the students take 0.9 of its time, with 60 epochs
        train(Deadline(1), clock, (COMPACT_TEACHER, 20), recipe=COMPACT)
    few = msgspec.structs.replace(COMPACT, epochs=5)
    train(Deadline(1), clock, (COMPACT_TEACHER, 33), (STUDENTS, 1), recipe=few)
    before = clock.now
    with pytest.raises(TooLongError, match="it would take about 80 min, and 60 min are left"):
        train(Deadline(1), clock, (COMPACT_TEACHER, 18), (STUDENTS, 30), recipe=COMPACT)
    assert clock.now - before == 1800 + 90


def test_a_compact_teacher_that_continues_leaves_time_for_all_epochs_of_its_students(clock: Clock) -> None:
    # Two of its twelve epochs are left; the sixty of the students take as long as 10.8 of them.
    train(Deadline(1), clock, (COMPACT_TEACHER, 3), (STUDENTS, 30), recipe=COMPACT, teacher_left=2)
    with pytest.raises(TooLongError, match="about 64 min, and 60 min"):
        train(Deadline(1), clock, (COMPACT_TEACHER, 6), recipe=COMPACT, teacher_left=2)
    with pytest.raises(TooLongError, match="about 65 min, and 60 min"):
        train(Deadline(1), clock, (COMPACT_TEACHER, 1), (STUDENTS, 38), recipe=COMPACT, teacher_left=2)


def test_the_epochs_in_which_a_compact_teacher_still_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert teacher_epochs_left(tmp_path, COMPACT) == COMPACT.teacher_epochs == 12
    assert teacher_epochs_left(tmp_path, PLAIN) == 0
    checkpoint = SimpleNamespace(resumes_at=SimpleNamespace(epoch=10))
    monkeypatch.setattr(module, "Run", lambda path: SimpleNamespace(checkpoint={"last": checkpoint}.__getitem__))
    assert teacher_epochs_left(tmp_path, COMPACT) == 2


def test_other_sizes_of_a_pair_tell_how_long_one_takes(clock: Clock) -> None:
    deadline = Deadline(3)
    train(deadline, clock, (STUDENTS, 10))
    with pytest.raises(TooLongError):
        train(deadline, clock, (STUDENTS, 300), candidate=MethodSize("stpm", 512))
    train(deadline, clock, (STUDENTS, 1), candidate=MethodSize("stpm", 160))
    train(deadline, clock, (STUDENTS, 1), candidate=MethodSize("stpm", 512, "compact-m"))  # another pair
    clock.now += 8300
    assert deadline.left_s == 1300
    with pytest.raises(TooLongError, match="about 27 min, and 21 min"):  # 100 s at 160 pixels, the quickest
        train(deadline, clock, candidate=MethodSize("stpm", 640))


def test_a_training_that_continues_is_judged_by_its_own_steps(clock: Clock) -> None:
    deadline = Deadline(1)
    train(deadline, clock, (STUDENTS, 30))
    train(deadline, clock, (STUDENTS, 40), candidate=MethodSize("stpm", 256), steps=10, teacher_left=0)
    with pytest.raises(TooLongError, match="about 67 min, and 3 min"):
        train(deadline, clock, (STUDENTS, 40), teacher_left=0)


def test_without_hours_there_is_no_end(clock: Clock) -> None:
    deadline = Deadline(None)
    train(deadline, clock, (STUDENTS, 1e9))
    with deadline.training(MethodSize("stpm", 4096), PLAIN, SILENT) as progress:
        assert progress is SILENT


# The search


@dataclass
class StubWorkshop:
    """Trains nothing; says of what takes too long that it does."""

    deadline: Deadline
    too_long: set[MethodSize]
    request: Any
    trained: set[MethodSize]
    tried: list[MethodSize] = field(default_factory=list)

    def say(self, line: str) -> None:
        pass

    def is_trained(self, screened: Screened) -> bool:
        return screened.candidate in self.trained

    def trial(self, screened: Screened) -> Trial:
        self.tried.append(screened.candidate)
        if screened.candidate in self.too_long:
            raise TooLongError(7200, 3600)
        return Trial(
            candidate=screened.candidate, key="", bundle_sha256="", epochs=1, train_images=1, held_out_images=1,
            seconds=1.0, measured=[], refused={}, teacher_comparisons=[],
        )  # fmt: skip


QUICK, SLOW = ([MethodSize("stpm", size, pair) for size in (128, 160, 256)] for pair in ("compact-m", ""))


def order_of(
    hours: float | None, too_long: set[MethodSize], trained: Sequence[MethodSize] = ()
) -> tuple[list[MethodSize], dict[MethodSize, Trial], list[Dropped]]:
    """Return what was tried in which order, the trials, and what was dropped."""
    passed = []
    for ms, candidate in [*zip((1, 2, 4), QUICK, strict=True), *zip((10, 20, 40), SLOW, strict=True)]:
        timing = Timing(
            backend="openvino", precision="fp32", percentile=99, measured_ms=ms + 1, p50_ms=ms, max_ms=ms + 1, runs=9
        )
        passed.append(Screened(candidate=candidate, outcome="may keep", timings=[timing]))
    workshop = StubWorkshop(Deadline(hours), too_long, SimpleNamespace(hours=hours), set(trained))
    trials, dropped = _train_in_order(cast(Workshop, workshop), passed)
    return workshop.tried, trials, dropped


def test_a_smaller_size_takes_the_place_of_one_that_takes_too_long() -> None:
    too_long = {QUICK[2], SLOW[2], SLOW[1]}
    tried, trials, dropped = order_of(1, too_long, [QUICK[0], SLOW[0]])
    assert tried == [QUICK[2], QUICK[1], SLOW[2], SLOW[1], SLOW[0], QUICK[0]]
    assert list(trials) == [QUICK[1], SLOW[0], QUICK[0]]
    assert {each.candidate: each.measured_ms for each in dropped} == {QUICK[2]: 5, SLOW[2]: 41, SLOW[1]: 21}
    assert {(each.cause, each.reason) for each in dropped} == {
        ("hours", "not trained: it would take about 120 min, and 60 min are left")
    }


def test_within_hours_the_smallest_size_comes_first_so_that_there_is_a_result() -> None:
    too_long = {QUICK[2], SLOW[2], SLOW[1], SLOW[0]}
    tried, trials, _ = order_of(1, too_long)
    assert tried == [QUICK[0], SLOW[0], SLOW[1], SLOW[2], QUICK[2], QUICK[1]]
    assert list(trials) == [QUICK[0], QUICK[1]]
    assert order_of(1, {QUICK[0]})[0][:2] == [QUICK[0], QUICK[1]]  # no result yet
    assert order_of(1, set())[0] == [QUICK[0], SLOW[0], SLOW[2], SLOW[1], QUICK[2], QUICK[1]]
    assert order_of(None, set())[0][:2] == [QUICK[2], SLOW[2]]


def test_the_choice_between_both_pairs_says_whose_sizes_took_too_long() -> None:
    pairs = (("stpm", "compact-m"), ("stpm", ""))
    request = SimpleNamespace(
        compact_and_source=pairs, training=SimpleNamespace(backbone="tf_efficientnet_lite0"), budget_ms=9.0
    )
    scores = SimpleNamespace(image_auroc=0.9, image_auroc_error=0.01)
    timing = SimpleNamespace(measured_ms=1.0, precision="fp32")
    rows = [
        SimpleNamespace(candidate=MethodSize("stpm", 128, pair), scores=scores, timing=timing, keeps_budget=True)
        for _, pair in pairs
    ]
    late = Dropped(candidate=MethodSize("stpm", 256), reason="not trained", cause="hours")
    int8 = Dropped(candidate=MethodSize("stpm", 128, "compact-m"), reason="", cause="hours", precision="int8")
    said = compact_choice(cast(Any, rows), [late, int8], cast(Any, request))
    assert said.endswith("; other sizes of tf_efficientnet_lite0 would have taken too long")
    assert "too long" not in compact_choice(cast(Any, rows), [int8], cast(Any, request))
