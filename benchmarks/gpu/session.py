"""One candidate of a job: its process, and what was measured of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.gpu.candidates import EAGER, GpuCandidate
from benchmarks.gpu.result_store import COMPARED, FAILED, NOT_RUN, OK, Key, Record, row_of
from benchmarks.timing.process import GoneError, WorkerProcess

ROUNDS = 10
_SETTLE = 3  # uncounted calls of a turn: the other candidates' threads and caches


@dataclass
class Session:
    """A candidate at one batch size of one method.

    ``calls`` are counted of compute alone and end to end each, after as many uncounted. ``failure``
    says why there are no figures; ``loaded`` is what the process said when it had loaded.
    """

    candidate: GpuCandidate
    key: Key
    process: WorkerProcess
    calls: int
    failure: str = ""
    loaded: dict[str, Any] = field(default_factory=dict)
    compute: list[float] = field(default_factory=list)
    end_to_end: list[float] = field(default_factory=list)

    @property
    def todo(self) -> int:
        """Calls that a next turn would count."""
        left = self.calls - len(self.compute)
        return 0 if self.failure or self.loaded.get("failure") else min(-(-self.calls // ROUNDS), left)

    def hear(self, limit_s: float) -> dict[str, Any]:
        """Return the answer of the process, or an empty one; then ``failure`` is the reason."""
        try:
            return {} if self.failure else self.process.hear(limit_s)
        except GoneError as gone:
            self.failure = str(gone)
            return {}

    def turn(self, limit_s: float, *, warm_up: bool = False) -> None:
        """Let the process make its calls, and wait for them."""
        if self.todo:
            counts = {"settle": self.calls, "calls": 0} if warm_up else {"settle": _SETTLE, "calls": self.todo}
            self.process.tell({"do": "turn", **counts})
            answer = self.hear(limit_s)
            self.compute += answer.get("compute", [])
            self.end_to_end += answer.get("end_to_end", [])

    def row(self, eager_ms: float | None, **about: Any) -> Record:
        """Return the row."""
        found = {key: value for key, value in self.loaded.items() if key != "failure"}
        about = {"backend": self.candidate.backend, "precision": self.candidate.precision, **found, **about}
        if self.failure:
            return row_of(self.key, NOT_RUN, self.failure, **about)
        if self.loaded["failure"]:
            return row_of(self.key, FAILED, f"parity: {self.loaded['failure']}", **about)
        if not self.compute:  # compared alone; or the kernels, whose times are in what was found
            return row_of(self.key, OK if "found" in found else COMPARED, **about)
        compute, end_to_end = summary(self.compute), summary(self.end_to_end)
        return row_of(
            self.key, OK, **about, warm_up=self.calls, compute=compute, end_to_end=end_to_end, eager_ms=eager_ms,
            ratio=None if eager_ms is None else round(eager_ms / compute["p50_ms"], 2),
            images_per_second=round(self.key[1] / compute["p50_ms"] * 1e3, 1),
            images_per_second_end_to_end=round(self.key[1] / end_to_end["p50_ms"] * 1e3, 1),
        )  # fmt: skip


def calls_of(candidate: str, batch: int, runs: int) -> int:
    """Return how many calls are counted where batch 1 gets ``runs``.

    A larger batch takes longer, and its use is throughput, not the tail of the distribution. The
    baseline is slow, and only its median matters.
    """
    share = 1.0 if batch == 1 else 0.3 if batch <= 8 else 0.2
    return max(2, round(runs * share * (0.2 if candidate == EAGER else 1.0)))


def summary(times: Sequence[float]) -> Record:
    """Return percentiles in milliseconds, and of how many calls."""
    values = np.asarray(times)
    quantiles = zip(("p50_ms", "p99_ms", "p999_ms"), np.percentile(values, [50, 99, 99.9]), strict=True)
    return {
        **{name: round(float(value), 5) for name, value in quantiles},
        "max_ms": round(float(values.max()), 5),
        "runs": len(values),
    }
