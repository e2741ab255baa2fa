"""What the GPU benchmark does in which order, and how it stops in time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.gpu.candidates import COMPARED_FIRST, EAGER, KERNELS, LEAD, TIME_KERNELS, GpuCandidate, clock_of
from benchmarks.gpu.gpu_machine import clocks
from benchmarks.gpu.result_store import COMPARED, NOT_RUN, OK, Key, Record, Store, key_of, row_of
from benchmarks.gpu.session import ROUNDS, Session, calls_of, summary
from benchmarks.timing.process import WorkerProcess

COMPACT = "compact-m"
# What is timed first.
FIRST = ("stpm", "reduced-student", "mixed-teacher", "dual-det", "dskd", COMPACT)
_THROUGHPUT = ("stpm", COMPACT)
_TIMING_GUESS_S = 10.0
_QUICK_S = 20.0  # to load

Clock = Callable[[], float]


@dataclass(frozen=True)
class Job:
    """Candidates of one method that are compared with FP32 at one batch size, and then timed."""

    method: str
    batch: int
    candidates: tuple[str, ...]
    timed: bool = True

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
    """Return the methods in the order in which they are timed."""
    return sorted(methods, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))


def plan(methods: Sequence[str], candidates: Sequence[GpuCandidate], batches: Sequence[int]) -> list[Job]:
    """Return the jobs, the most informative first.

    First every method is compared with FP32, by what loads in seconds. Then the baseline and the
    best of each runtime are timed: at batch 1 for the methods of ``FIRST``, at larger batches for
    STPM and the compact pair, and at batch 1 for the other methods. After them come the kernels of
    this repository, the other candidates, and the other batches.
    """
    here = {candidate.name: candidate for candidate in candidates if not candidate.absent}
    lead = tuple(name for name in LEAD if name in here)
    others = [candidate for candidate in here.values() if candidate.name not in (*lead, KERNELS)]
    rest = [tuple(each.name for each in others if each.seconds <= _QUICK_S)]
    rest += [(each.name,) for each in others if each.seconds > _QUICK_S]
    methods, larger = order_methods(methods), [batch for batch in batches if batch != 1]
    single = methods if 1 in batches else []
    first = tuple(name for name in COMPARED_FIRST if name in here)
    jobs = [Job(method, 1, first, timed=False) for method in single]
    jobs += [Job(method, 1, lead) for method in single if method in FIRST]
    jobs += [Job(method, batch, lead) for method in methods if method in _THROUGHPUT for batch in larger]
    jobs += [Job(method, 1, lead) for method in single if method not in FIRST]
    jobs += [Job(method, 1, (KERNELS,)) for method in methods if KERNELS in here]
    jobs += [Job(method, 1, names) for names in rest for method in single]
    jobs += [Job(method, batch, lead) for batch in larger for method in methods if method not in _THROUGHPUT]
    jobs += [Job(method, batch, names) for names in rest for batch in larger for method in methods]
    return [job for job in jobs if job.candidates]


def fitting(keys: Sequence[Key], seconds: float, candidates: dict[str, GpuCandidate], store: Store) -> list[Key]:
    """Return the keys for which so many seconds suffice, by what was seen so far or by a guess.

    Those that time their kernels load alone, all others at the same time. They are timed one after
    the other.
    """
    fit: list[Key] = []
    longest = total = 0.0
    for key in keys:
        ran = [row for row in store.rows.values() if row["candidate"] == key[2] and row["status"] == OK]
        load = max((row.get("load_seconds", 0.0) for row in ran), default=0.0) or candidates[key[2]].seconds
        alone = load if candidates[key[2]].backend in TIME_KERNELS else 0.0
        timing = total + alone + max((row["seconds"] for row in ran), default=_TIMING_GUESS_S)
        load = max(longest, load - alone)
        if load + timing <= seconds:
            fit.append(key)
            longest, total = load, timing
    return fit


@dataclass
class GpuBenchmark:
    """Does jobs, and keeps their rows.

    ``start`` starts a candidate's process; ``folder`` returns a method's bundle, and may wait and
    raise; ``quiet`` waits until nothing else runs here; ``runs`` are the calls at batch 1.
    """

    candidates: dict[str, GpuCandidate]
    store: Store
    deadline: Deadline
    start: Callable[[GpuCandidate], WorkerProcess]
    folder: Callable[[str], Path]
    quiet: Callable[[], None] = lambda: None
    runs: int = 1000
    device: str = "cuda"
    _processes: dict[str, WorkerProcess] = field(default_factory=dict)

    def run(self, jobs: Sequence[Job]) -> bool:
        """Do the jobs that have no rows yet and fit into the time that is left.

        Returns whether everything was done, which the record says too; what did not fit is listed
        there under ``skipped``.
        """
        skipped: list[Key] = []
        try:
            for job in jobs:
                missing = self.store.missing(job.keys, timed=job.timed)
                if fit := fitting(missing, self.deadline.left, self.candidates, self.store):
                    rows = self._do(job, fit)
                    for row in rows:
                        print(f"  {'/'.join(map(str, key_of(row)))}: {_line(row)}", flush=True)
                    # Where time ran out, only what was finished says something.
                    self.store.put_rows(row for row in rows if row["status"] == OK or self.deadline.left > 0)
                skipped += self.store.missing(job.keys, timed=job.timed)
        finally:
            self._keep_processes(())
        self.store.put(skipped=list(dict.fromkeys(skipped)), complete=not skipped)
        return not skipped

    def _do(self, job: Job, keys: Sequence[Key]) -> list[Record]:
        try:
            folder = self.folder(job.method)
        # A method that fails to build is no reason to give up the others.
        except Exception as error:
            return [row_of(key, NOT_RUN, f"the model was not built: {error}") for key in keys]
        # The baseline runs beside candidates that are timed later, too.
        beside = [] if not job.timed or job.candidates == (KERNELS,) or EAGER not in self.candidates else [EAGER]
        names = list(dict.fromkeys([*beside, *(key[2] for key in keys)]))
        self._keep_processes(names)
        if job.timed:
            self.quiet()
        sessions: list[Session] = []
        for name in sorted(names, key=lambda name: self.candidates[name].backend not in TIME_KERNELS):
            sessions.append(self._open(job, name, folder))
            if sessions[-1].candidate.backend in TIME_KERNELS:
                sessions[-1].loaded = sessions[-1].hear(self.deadline.left)
        for session in sessions:  # the others load at the same time
            session.loaded = session.loaded or session.hear(self.deadline.left)
        loaded = self.deadline.clock()
        # The baseline by itself says nothing new.
        if job.timed and job.candidates != (KERNELS,) and any(s.todo for s in sessions if s.key in keys):
            self._take_turns(sessions)
        about = {"clocks": clocks(), "seconds": round((self.deadline.clock() - loaded) / len(sessions), 2)}
        eager = next((s for s in sessions if s.candidate.name == EAGER and s.compute and not s.failure), None)
        eager_ms = None if eager is None else float(summary(eager.compute)["p50_ms"])
        for session in sessions:
            if session.failure:  # an error of CUDA may have broken the process
                self._processes.pop(session.candidate.name).close()
        return [
            session.row(eager_ms, clock=clock_of(session.candidate.backend, self.device), **about)
            for session in sessions
            if session.key in keys
        ]

    def _open(self, job: Job, name: str, folder: Path) -> Session:
        """Order a candidate to load."""
        candidate = self.candidates[name]
        process = self._processes.get(name)
        if process is None:
            process = self._processes[name] = self.start(candidate)
        session = Session(candidate, (job.method, job.batch, name), process, calls_of(name, job.batch, self.runs))
        about = {"backend": candidate.backend, "precision": candidate.precision, "device": self.device}
        order = {"do": "open", "folder": str(folder), "batch": job.batch, **about}
        process.tell({"do": "kernels", "folder": str(folder)} if name == KERNELS else order)
        return session

    def _take_turns(self, sessions: Sequence[Session]) -> None:
        """Warm all up, then alternate: a machine whose clocks drift drifts for all of them."""
        for session in sessions:
            session.turn(self.deadline.left, warm_up=True)
        for _ in range(ROUNDS):
            for session in sessions:
                session.turn(self.deadline.left)

    def _keep_processes(self, names: Sequence[str]) -> None:
        """End the processes of other candidates; the memory of a GPU does not hold all of them."""
        for name in [each for each in self._processes if each not in names]:
            self._processes.pop(name).close()


def _line(row: Record) -> str:
    if row["status"] == COMPARED:
        return f"as FP32: maps differ by {row['parity']['map_max']:.2g} of their range"
    if row["status"] != OK:
        return f"{row['status']}: {row['reason']}"
    if row["candidate"] == KERNELS:
        return f"fused tail {row['found']['speedup']:.2f} times the in-graph tail, end to end"
    ratio = "" if row["ratio"] is None else f", {row['ratio']} times eager"
    return f"{row['compute']['p50_ms']:.3f} ms compute, {row['end_to_end']['p50_ms']:.3f} ms end to end{ratio}"
