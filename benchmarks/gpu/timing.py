"""Timing candidates: parity first, then rounds that alternate, until each has its calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.candidates import EAGER, GpuCandidate
from benchmarks.gpu.result_store import FAILED, NOT_RUN, OK, Key, row_of
from kdx.decision.rule import DecisionRule
from kdx.errors import KdxError
from kdx.runtime.backend import Outputs
from kdx.runtime.detector import Detector
from kdx.verification.comparison import Comparison, compare_batch
from kdx.verification.golden import certificate_batches
from kdx.verification.tolerances import TOLERANCES

if TYPE_CHECKING:
    from benchmarks.gpu.models import ReferenceModel

ROUNDS = 10
SEVERAL = 7  # images of a comparison at a batch above 1


@dataclass(frozen=True)
class Counts:
    """How many calls: uncounted, and counted of compute alone and end to end each."""

    warm_up: int
    timed: int

    @classmethod
    def at(cls, batch: int, runs: int) -> Counts:
        """Return the counts of a batch size, where batch 1 gets ``runs`` of each kind.

        A larger batch takes longer, and its use is throughput, not the tail of the distribution.
        """
        share = 1.0 if batch == 1 else 0.3 if batch <= 8 else 0.2
        return cls(*[max(2, round(runs * share))] * 2)

    def for_anchor(self) -> Counts:
        """Return the counts of the baseline where it is timed again, beside other candidates."""
        return Counts(max(2, self.warm_up // 5), max(2, self.timed // 5))


@dataclass
class Session:
    """One candidate, loaded, and what was measured of it."""

    candidate: GpuCandidate
    key: Key
    counts: Counts
    images: NDArray[np.uint8]
    backend: Any
    detector: Detector
    row: dict[str, Any]
    is_anchor: bool = False
    failure: str = ""
    compute: list[float] = field(default_factory=list)
    end_to_end: list[float] = field(default_factory=list)

    @property
    def todo(self) -> int:
        """Calls that a next round would count."""
        return 0 if self.failure else min(-(-self.counts.timed // ROUNDS), self.counts.timed - len(self.compute))

    def guard(self, work: Callable[[], None]) -> None:
        """Do something with the candidate, and keep the reason where it raises an exception."""
        if self.failure:
            return
        try:
            work()
        except Exception as error:
            self.failure = short_reason(error)

    def warm_up(self) -> None:
        """Run without counting, both as compute alone and end to end."""
        self.backend.compute_only(self.images, self.counts.warm_up)
        for _ in range(min(20, self.counts.warm_up)):
            self._judge()

    def round(self) -> None:
        """Count some calls."""
        count = self.todo
        self.compute += self.backend.compute_only(self.images, count)
        for _ in range(3):  # uncounted: the other candidates' threads and caches
            self._judge()
        for _ in range(count):
            started = time.perf_counter()
            self._judge()
            self.end_to_end.append((time.perf_counter() - started) * 1e3)

    def _judge(self) -> None:
        if len(self.images) == 1:
            self.detector(self.images[0])
        else:
            self.detector.batch(self.images)

    def result(self, eager_ms: float | None) -> dict[str, Any]:
        """Return the row."""
        if self.failure:
            return row_of(self.key, NOT_RUN, self.failure, **self.row)
        batch = len(self.images)
        compute, end_to_end = summary(self.compute), summary(self.end_to_end)
        return row_of(
            self.key,
            OK,
            **self.row,
            clock=self.candidate.clock,
            warm_up=self.counts.warm_up,
            compute=compute,
            end_to_end=end_to_end,
            eager_ms=eager_ms,
            ratio=None if eager_ms is None else round(eager_ms / compute["p50_ms"], 2),
            images_per_second=round(batch / compute["p50_ms"] * 1e3, 1),
            images_per_second_end_to_end=round(batch / end_to_end["p50_ms"] * 1e3, 1),
        )


class InBatches:
    """A backend that is always called with one batch size: fewer images are repeated to fill it."""

    def __init__(self, backend: Any, batch: int) -> None:
        self.backend = backend
        self.batch = batch
        self.name = backend.name

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """Run at most ``batch`` images."""
        count = len(images)
        filled = np.ascontiguousarray(images[[index % count for index in range(self.batch)]])
        maps, scores = self.backend.run(filled)
        return Outputs(maps[:count], scores[:count])


def open_candidate(
    candidate: GpuCandidate, model: ReferenceModel, batch: int, counts: Counts
) -> Session | dict[str, Any]:
    """Open a candidate that agrees with FP32 at this batch size, or return why there is none."""
    key = (model.method, batch, candidate.name)
    row: dict[str, Any] = {"backend": candidate.backend, "precision": candidate.precision}
    if candidate.absent:
        return row_of(key, NOT_RUN, candidate.absent, **row)
    started = time.perf_counter()
    backend = None
    try:
        backend = candidate.open(model, batch)
        row["load_seconds"] = round(time.perf_counter() - started, 2)
        parity = compare_with_reference(backend, model, batch, candidate.precision)
        row["parity"] = msgspec.to_builtins(parity)
    # Whatever is raised here concerns this candidate alone.
    except Exception as error:
        close(backend)
        return row_of(key, NOT_RUN, short_reason(error), **row)
    if not parity.passed:
        close(backend)
        allowed = TOLERANCES[candidate.precision]
        reason = parity.error or (
            f"scores differ by {parity.score_max:.2g}, maps by {parity.map_max:.2g} of their range; "
            f"{allowed.score:g} and {allowed.map:g} are allowed"
        )
        return row_of(key, FAILED, f"parity: {reason}", **row)
    golden = model.golden.images
    images = np.ascontiguousarray(golden[[index % len(golden) for index in range(batch)]])
    detector = Detector(backend, model.detector.input_spec, DecisionRule(threshold=1.0), max_batch=batch)
    return Session(candidate, key, counts, images, backend, detector, row)


def compare_with_reference(backend: Any, model: ReferenceModel, batch: int, precision: str) -> Comparison:
    """Return the worst comparison with the reference, at one image and at several."""
    sizes = certificate_batches(len(model.golden.images), min(batch, SEVERAL))
    found = [compare_batch(InBatches(backend, batch), model.golden, size, None, precision) for size in sizes]
    worst = min(found, key=lambda comparison: (comparison.passed, -comparison.map_max))
    return msgspec.structs.replace(worst, batch=batch)


def time_sessions(sessions: Sequence[Session], mark: Callable[[Key | None], None]) -> None:
    """Warm all up, then alternate: a machine whose clocks drift drifts for all of them."""

    def each(work: Callable[[Session], None]) -> None:
        for session in sessions:
            mark(session.key)
            session.guard(lambda session=session: work(session))  # type: ignore[misc]

    each(Session.warm_up)
    while any(session.todo > 0 for session in sessions):
        each(lambda session: session.round() if session.todo > 0 else None)
    mark(None)


def eager_median(sessions: Sequence[Session]) -> float | None:
    """Return the baseline's median of these rounds."""
    for session in sessions:
        if session.candidate.name == EAGER and not session.failure:
            return float(summary(session.compute)["p50_ms"])
    return None


def summary(times: Sequence[float]) -> dict[str, Any]:
    """Return percentiles in milliseconds, and of how many calls."""
    values = np.asarray(times)
    quantiles = zip(("p50_ms", "p99_ms", "p999_ms"), np.percentile(values, [50, 99, 99.9]), strict=True)
    return {
        **{name: round(float(value), 5) for name, value in quantiles},
        "max_ms": round(float(values.max()), 5),
        "runs": len(values),
    }


def short_reason(error: BaseException) -> str:
    """Say in a few lines at most what an exception says."""
    text = str(error) or "no message"
    if isinstance(error, KdxError):
        text = "; ".join(part for part in (error.message, error.received, error.fix) if part)
    return f"{type(error).__name__}: {' '.join(text.split())[:400]}"


def close(backend: Any) -> None:
    """Close a backend, whatever it says to that."""
    try:
        if backend is not None:
            backend.close()
    except Exception as error:
        print(f"  closing it failed: {short_reason(error)}", flush=True)
