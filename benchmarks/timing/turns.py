"""Timing candidates fairly: each in a process of its own, one at a time, in turns.

Runtimes' threads go on spinning for a while after a call, and in one process they take the cores
from whoever is next. Here every candidate has a worker process; one of them works, all others are
blocked on a socket, and a pause before each turn lets the last one's threads fall asleep. Rounds go
through the candidates forwards and backwards alternately: a machine whose speed drifts drifts for
all of them.

Needs POSIX (the workers inherit sockets) and Linux's ``/proc`` (their peak memory).
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.commands import environment
from benchmarks.timing.process import GoneError, WorkerProcess

Argument = str | int | float | bool | None

# Threads spin for some milliseconds after a call (ONNX Runtime, OpenMP); then they sleep.
PAUSE_S = 0.05
# Uncounted calls when a turn begins: caches are cold and the cores' clocks low.
SETTLE = 3
LIMIT_S = 600.0


@dataclass(frozen=True)
class Candidate:
    """Something to be timed.

    ``loader`` is ``module:function``: it takes a dictionary, ``arguments`` and ``threads``, and
    returns a callable that takes uint8 ``(N, H, W, C)`` and returns a score or scores. ``images``
    is a ``.npy`` file, None for the images of all; ``python`` another interpreter's command.
    """

    name: str
    loader: str
    arguments: dict[str, Argument] = field(default_factory=dict)
    images: Path | None = None
    python: tuple[str, ...] = ()


@dataclass(frozen=True)
class Timed:
    """A candidate's figures from the uint8 array to the score; None where there is an error.

    ``load_ms`` is the time from the import of the loader to the first result, ``peak_memory_mb``
    the most that the worker ever held in megabytes, ``score`` that of the first image.
    """

    name: str
    calls: int = 0
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    max_ms: float | None = None
    load_ms: float | None = None
    peak_memory_mb: float | None = None
    score: float | None = None
    error: str = ""


def time_in_turns(
    candidates: Sequence[Candidate],
    images: NDArray[np.uint8] | None,
    *,
    threads: int,
    runs: int = 200,
    rounds: int = 10,
    warm_up: int = 10,
    batch: int = 1,
    limit_s: float = LIMIT_S,
    say: Callable[[str], None] = lambda line: None,
) -> list[Timed]:
    """Time candidates on images ``(K, H, W, C)``, with as many threads, one at a time.

    All of them stay loaded until the end, each in its own process: mind the memory. Each has
    ``runs`` counted calls, spread over ``rounds`` turns, after ``warm_up`` uncounted ones; one that
    does not answer for ``limit_s`` counts as hung. ``say`` gets what happens, a line at a time.

    Returns:
        One row for each candidate, in their order; one that died, hung or raised has ``error``.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as held:
        file = Path(folder) / "images.npy"
        if images is not None:
            np.save(file, images)
        workers = [
            _TimingWorker(candidate, Path(folder) / f"{i}.log", threads, limit_s)
            for i, candidate in enumerate(candidates)
        ]
        for worker in workers:
            held.callback(worker.close)  # of all, whatever is raised, Ctrl-C included
        for worker in workers:
            say(f"loading {worker.candidate.name}")
            worker.load(file, batch, threads)
            worker.turn(0, settle=warm_up)
        share = -(-runs // rounds)
        for number in range(-(-runs // share)):
            say(f"round {number + 1}")
            for worker in workers if number % 2 == 0 else reversed(workers):
                worker.turn(min(share, runs - number * share), settle=SETTLE)
        return [worker.result() for worker in workers]


class _TimingWorker:
    """A candidate's process, and what was measured of it."""

    def __init__(self, candidate: Candidate, log: Path, threads: int, limit_s: float) -> None:
        self.candidate = candidate
        self.error = ""
        self._process = WorkerProcess("benchmarks.timing.worker", log, environment(threads), candidate.python)
        self._limit_s = limit_s
        self._loaded: dict[str, float] = {}
        self._peak_memory_mb: float | None = None
        self._times: list[float] = []
        self.close = self._process.close

    def load(self, images: Path, batch: int, threads: int) -> None:
        """Wait for the candidate's first result."""
        candidate = self.candidate
        order = {"loader": candidate.loader, "images": str(candidate.images or images), "batch": batch}
        self._loaded = self._ask({**order, "arguments": {"threads": threads, **candidate.arguments}})

    def turn(self, calls: int, *, settle: int) -> None:
        """Let the worker make its calls, when the others' threads have gone to sleep."""
        if not self.error:
            time.sleep(PAUSE_S)
            self._times += self._ask({"calls": calls, "settle": settle}).get("times_ms", [])

    def result(self) -> Timed:
        """Return the row."""
        if self.error or not self._times:
            return Timed(self.candidate.name, error=self.error or "no calls were asked for")
        p50, p95, p99 = (round(float(value), 4) for value in np.percentile(self._times, [50, 95, 99]))
        return Timed(
            name=self.candidate.name, calls=len(self._times), p50_ms=p50, p95_ms=p95, p99_ms=p99,
            max_ms=round(max(self._times), 4), load_ms=round(self._loaded["load_ms"], 1),
            peak_memory_mb=self._peak_memory_mb, score=self._loaded["score"],
        )  # fmt: skip

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return the answer; an empty one where there is none, with the reason kept."""
        try:
            self._process.tell(message)
            answer = self._process.hear(self._limit_s)
        except GoneError as gone:
            self.error = str(gone)
            return {}
        self._peak_memory_mb = answer["peak_memory_mb"]
        return answer
