"""Where the time of a training goes: wall time and CPU time by stage.

A stage is measured where it happens, in the process that trains. Its CPU time includes the threads
of PyTorch, and leaves out the worker processes that decode images: their CPU time is counted by
itself, when they end. What the training process does for a worker is to wait for it, which is wall
time of the stage "images".

On a GPU, work is queued. Its time is counted in the stage that waits for a result.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from kdx.storage.files import write_atomic
from kdx.storage.json_records import encode_record, now
from kdx.text import number_of, percent

PROFILE = "profile.json"
# The stages of an epoch, in their order.
STAGES = (
    *("images", "preprocessing", "damage", "teacher", "student forward", "student backward", "optimiser"),
    *("validation", "checkpoint"),
)
_OTHER = "other"


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """The time of one stage.

    Attributes:
        name: The stage.
        seconds: The wall time in seconds.
        cpu_seconds: The CPU time in seconds of all threads of the training process.
        share: The share of the wall time of the epochs; None for what is done once.
        worker_cpu_seconds: The CPU time in seconds of the worker processes that ended within the
            stage; None within epochs, where they are counted together.
    """

    name: str
    seconds: float
    cpu_seconds: float
    share: float | None = None
    worker_cpu_seconds: float | None = None


class EpochsProfile(msgspec.Struct, frozen=True, kw_only=True):
    """The time of the epochs of one training: of a compact teacher, of students, of INT8 students.

    Attributes:
        training: What the progress display calls the training.
        epochs: The number of epochs that were measured; a resumed run has more.
        images: The number of images of an epoch.
        seconds: The wall time in seconds.
        cpu_seconds: The CPU time in seconds of all threads of the training process.
        worker_cpu_seconds: The CPU time in seconds of worker processes.
        stages: The stages, then "other": what is in none of them.
    """

    training: str
    epochs: int
    images: int
    seconds: float
    cpu_seconds: float
    worker_cpu_seconds: float
    stages: list[Stage]


class TrainingProfile(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``profile.json``: the time of one call of ``kdx train``.

    Attributes:
        schema: The version of this layout.
        device: The device on which it trained.
        threads: The number of threads of PyTorch.
        workers: The number of worker processes that decode images.
        once: What is done once, beside the epochs.
        epochs: The epochs of each training.
        created: The UTC time, ISO 8601.
    """

    schema: int = 1
    device: str
    threads: int
    workers: int
    once: list[Stage]
    epochs: list[EpochsProfile]
    created: str

    def write(self, run: Path) -> None:
        """Write ``profile.json`` to a run folder."""
        write_atomic(run / PROFILE, encode_record(self))

    def tables(self) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
        """Yield the title and the rows of each table: stage, wall time, share, CPU time."""
        rows = [_row(each) for each in self.once]
        yield f"once, with {number_of(self.workers, 'worker [process|processes]')} for images", rows
        for each in self.epochs:
            rows = [_row(stage) for stage in each.stages]
            rows.append(("worker processes", "", "", f"{each.worker_cpu_seconds:.2f}"))
            rows.append(
                ("all", f"{each.seconds:.2f}", percent(1.0), f"{each.cpu_seconds + each.worker_cpu_seconds:.2f}")
            )
            count = number_of(each.epochs, "[epoch|epochs]")
            yield f"{each.training}: {count} of {number_of(each.images, '[image|images]')}", rows


def _row(stage: Stage) -> tuple[str, ...]:
    cpu = stage.cpu_seconds + (stage.worker_cpu_seconds or 0.0)
    return stage.name, f"{stage.seconds:.2f}", "" if stage.share is None else percent(stage.share), f"{cpu:.2f}"


class _Clock:
    """The time since it was made: wall time, CPU time of this process, and of ended children."""

    def __init__(self) -> None:
        self._began = self._read()

    def passed(self) -> tuple[float, float, float]:
        return tuple(now - before for now, before in zip(self._read(), self._began, strict=True))  # type: ignore[return-value]

    @staticmethod
    def _read() -> tuple[float, float, float]:
        times = os.times()
        return time.perf_counter(), time.process_time(), times.children_user + times.children_system


class Profiler:
    """Adds up the time of stages. Within a stage, other stages are not counted."""

    def __init__(self) -> None:
        self._once: dict[str, tuple[float, float, float]] = {}
        self._epochs: list[EpochsProfile] = []
        self._stages = self._once
        self._is_within = False

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a stage, unless it is a part of another one."""
        if self._is_within:
            yield
            return
        self._is_within, clock = True, _Clock()
        try:
            yield
        finally:
            self._is_within = False
            before = self._stages.get(name, (0.0, 0.0, 0.0))
            self._stages[name] = tuple(map(sum, zip(before, clock.passed(), strict=True)))  # type: ignore[assignment]

    @contextmanager
    def epochs(self, training: str, epochs: int, images: int) -> Iterator[None]:
        """Measure the epochs of a training, and the stages in them."""
        stages: dict[str, tuple[float, float, float]] = {}
        self._stages, clock = stages, _Clock()
        try:
            yield
        finally:
            self._stages = self._once
        if epochs:
            self._epochs.append(_of_epochs(training, epochs, images, stages, clock.passed()))

    def profile(self, device: str, threads: int, workers: int) -> TrainingProfile:
        """Return what was measured."""
        once = [
            Stage(name=name, seconds=_rounded(wall), cpu_seconds=_rounded(cpu), worker_cpu_seconds=_rounded(children))
            for name, (wall, cpu, children) in self._once.items()
        ]
        return TrainingProfile(
            device=device, threads=threads, workers=workers, once=once, epochs=self._epochs, created=now()
        )


def _of_epochs(
    training: str,
    epochs: int,
    images: int,
    stages: dict[str, tuple[float, float, float]],
    total: tuple[float, float, float],
) -> EpochsProfile:
    wall, cpu, children = total
    named = {name: stages[name][:2] for name in STAGES if name in stages}
    named[_OTHER] = (
        max(0.0, wall - sum(each[0] for each in named.values())),
        max(0.0, cpu - sum(each[1] for each in named.values())),
    )
    return EpochsProfile(
        training=training,
        epochs=epochs,
        images=images,
        seconds=_rounded(wall),
        cpu_seconds=_rounded(cpu),
        worker_cpu_seconds=_rounded(children),
        stages=[
            Stage(name=name, seconds=_rounded(own), cpu_seconds=_rounded(of_cpu), share=round(own / wall, 4))
            for name, (own, of_cpu) in named.items()
        ],
    )


def _rounded(seconds: float) -> float:
    return round(seconds, 3)
