"""What ``gpu.py`` does in which order, and how it stops in time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from benchmarks.gpu.candidates import EAGER, GpuCandidate, is_device_well, release
from benchmarks.gpu.gpu_machine import clocks
from benchmarks.gpu.result_store import FAILED, NOT_RUN, OK, Key, Store, key_of, row_of
from benchmarks.gpu.timing import Counts, Session, close, eager_median, open_candidate, short_reason, time_sessions
from kdx.verification.tolerances import FP32

if TYPE_CHECKING:
    from benchmarks.gpu.models import ReferenceModel

KERNELS = "kernels"
# What is measured first.
FIRST = ("stpm", "reduced-student", "mixed-teacher", "dual-det", "dskd")
BATCHES = (1, 32, 8)
RESTART = 3  # exit status: the CUDA device no longer answers this process
_TIMING_GUESS = 15.0
_QUICK_S = 20.0  # to load

Clock = Callable[[], float]


@dataclass(frozen=True)
class TimingJob:
    """Candidates that are timed together, at one batch size of one method."""

    method: str
    batch: int
    candidates: tuple[str, ...]

    @property
    def keys(self) -> list[Key]:
        """What its rows are about."""
        return [(self.method, self.batch, name) for name in self.candidates]


@dataclass(frozen=True)
class Deadline:
    """When to stop."""

    end: float
    clock: Clock = time.monotonic

    @property
    def left(self) -> float:
        """Seconds until then."""
        return self.end - self.clock()


def order_methods(methods: Iterable[str]) -> list[str]:
    """Return the methods in the order in which they are measured."""
    return sorted(methods, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))


def plan(
    methods: Sequence[str], candidates: Sequence[GpuCandidate], batches: Sequence[int] = BATCHES
) -> list[TimingJob]:
    """Return the jobs, the most informative first.

    First every method gets the baseline and the best backend at batch 1: those of ``FIRST``, then
    the throughput of the first method, then the other methods. After them come the backends
    that load in seconds, the kernels of this repository, the other batches, and the backends that
    take long to build.
    """
    here = [candidate for candidate in candidates if not candidate.absent]
    best = next((candidate.name for candidate in here if candidate.name != EAGER), EAGER)
    known = {candidate.name for candidate in candidates}
    lead = tuple(name for name in dict.fromkeys((EAGER, best)) if name in known)
    others = [candidate for candidate in here if candidate.name not in lead]
    quick = tuple(candidate.name for candidate in others if candidate.seconds <= _QUICK_S)
    slow = [(candidate.name,) for candidate in others if candidate.seconds > _QUICK_S]
    methods, larger = order_methods(methods), [batch for batch in batches if batch != 1]
    single = methods if 1 in batches else []
    first = [method for method in single if method in FIRST]
    jobs = [TimingJob(method, 1, lead) for method in first]
    jobs += [TimingJob(methods[0], batch, lead) for batch in larger]
    jobs += [TimingJob(method, 1, lead) for method in single if method not in FIRST]
    jobs += [TimingJob(method, 1, quick) for method in single if quick]
    jobs += [TimingJob(methods[0], 1, names) for names in slow if single]
    jobs += [TimingJob(method, 1, (KERNELS,)) for method in methods]
    jobs += [TimingJob(method, batch, lead) for batch in larger for method in methods[1:]]
    jobs += [TimingJob(method, 1, names) for names in slow for method in single[1:]]
    jobs += [TimingJob(method, batch, quick) for batch in larger for method in methods if quick]
    jobs += [TimingJob(method, batch, names) for batch in larger for names in slow for method in methods]
    return jobs


def fitting(keys: Sequence[Key], seconds: float, candidates: Sequence[GpuCandidate], store: Store) -> list[Key]:
    """Return the keys that so many seconds suffice for, by what was seen so far or by a guess."""
    costs = {candidate.name: candidate.seconds + _TIMING_GUESS for candidate in candidates}
    ran = [row for row in store.rows.values() if row["status"] == OK]
    for name in {row["candidate"] for row in ran}:
        costs[name] = max(row.get("seconds", 0.0) for row in ran if row["candidate"] == name)
    totals = accumulate(costs.get(key[2], 60.0) for key in keys)
    return [key for key, total in zip(keys, totals, strict=True) if total <= seconds]


def run_jobs(
    jobs: Sequence[TimingJob],
    candidates: Sequence[GpuCandidate],
    make: Callable[[str], ReferenceModel],
    store: Store,
    deadline: Deadline,
    *,
    runs: int = 1000,
    kernels: Callable[[ReferenceModel], dict[str, Any]] | None = None,
) -> bool:
    """Do the jobs that have no rows yet and fit into the time that is left.

    Each method's model is made once. ``kernels`` times those of this repository for a model; None
    leaves them out. Returns whether everything was done, which the record says too; what did not
    fit is listed there under ``skipped``.
    """
    known = {candidate.name: candidate for candidate in candidates}
    models: dict[str, Any] = {}
    skipped: list[Key] = []
    for job in jobs:
        missing = [key for key in store.missing(job.keys) if key[2] != KERNELS or kernels is not None]
        in_time = fitting(missing, deadline.left, candidates, store)
        skipped += [key for key in missing if key not in in_time]
        missing = in_time
        if not missing:
            continue
        started = deadline.clock()
        store.mark(missing[0])
        model = models.get(job.method) or _make(make, job.method)
        models[job.method] = model
        if isinstance(model, str):
            rows = [row_of(key, NOT_RUN, model) for key in missing]
        elif job.candidates == (KERNELS,):
            rows = [time_kernels(model, missing[0], kernels)] if kernels else []
        else:
            wanted = [known[key[2]] for key in missing]
            rows = run_job(model, job.batch, wanted, known.get(EAGER), store, runs, deadline.clock)
        _keep(rows, store, deadline.clock() - started)
        if any(row["status"] == NOT_RUN for row in rows) and not is_device_well():
            raise SystemExit(RESTART)
    store.mark(None)
    store.put(skipped=skipped, complete=not skipped)
    return not skipped


def run_job(
    model: ReferenceModel,
    batch: int,
    wanted: Sequence[GpuCandidate],
    baseline: GpuCandidate | None,
    store: Store,
    runs: int,
    clock: Clock,
) -> list[dict[str, Any]]:
    """Load candidates, time them in turn beside the baseline, and return their rows."""
    counts = Counts.at(batch, runs)
    sessions: list[Session] = []
    rows: list[dict[str, Any]] = []
    anchor = baseline is not None and baseline not in wanted and not baseline.absent
    todo = [*([baseline] if anchor and baseline else []), *wanted]
    try:
        for candidate in todo:
            is_anchor = candidate not in wanted
            store.mark((model.method, batch, candidate.name))
            started = clock()
            loaded = open_candidate(candidate, model, batch, counts.for_anchor() if is_anchor else counts)
            if isinstance(loaded, Session):
                loaded.is_anchor = is_anchor
                loaded.row["seconds"] = round(clock() - started, 2)
                sessions.append(loaded)
            elif not is_anchor:
                rows.append(loaded)
        if any(not session.is_anchor for session in sessions):
            time_sessions(sessions, store.mark)
        now = clocks()
        eager = eager_median(sessions)
        for session in sessions:
            if not session.is_anchor:
                rows.append({**session.result(eager), "clocks": now})
    finally:
        for session in sessions:
            close(session.backend)
        release()
    return rows


def time_kernels(
    model: ReferenceModel, key: Key, kernels: Callable[[ReferenceModel], dict[str, Any]]
) -> dict[str, Any]:
    """Return the row of the fused tail and the grouped networks against the tail in the graph."""
    row = {"backend": KERNELS, "precision": "fp16"}
    try:
        found = kernels(model)
        if not found["max_difference"] <= FP32.map:
            reason = f"parity: off by {found['max_difference']:.2g} of the map, {FP32.map:g} are allowed"
            return row_of(key, FAILED, reason, **row)
        return row_of(key, OK, **row, found=found)
    # As of any candidate.
    except Exception as error:
        return row_of(key, NOT_RUN, short_reason(error), **row)
    finally:
        release()


def _make(make: Callable[[str], Any], method: str) -> Any:
    try:
        return make(method)
    # A method that fails to build is no reason to give up the others.
    except Exception as error:
        return f"the model was not built: {short_reason(error)}"


def _keep(rows: Sequence[dict[str, Any]], store: Store, seconds: float) -> None:
    """Keep rows; what a job took beside loading is shared among what it timed."""
    timed = [row for row in rows if row["status"] == OK]
    rest = max(0.0, seconds - sum(row.get("seconds", 0.0) for row in timed))
    for row in timed:
        row["seconds"] = round(row.get("seconds", 0.0) + rest / len(timed), 2)
    store.put_rows(rows)
    for row in rows:
        print(f"  {'/'.join(map(str, key_of(row)))}: {_line(row)}", flush=True)


def _line(row: dict[str, Any]) -> str:
    if row["status"] != OK:
        return f"{row['status']}: {row['reason']}"
    if row["candidate"] == KERNELS:
        return f"fused tail {row['found']['speedup']:.2f} times the in-graph tail, end to end"
    ratio = "" if row["ratio"] is None else f", {row['ratio']} times eager"
    return f"{row['compute']['p50_ms']:.3f} ms compute, {row['end_to_end']['p50_ms']:.3f} ms end to end{ratio}"
