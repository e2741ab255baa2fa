"""A clock and processes that stand for a GPU's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.gpu.candidates import GpuCandidate
from benchmarks.gpu.jobs import Deadline, GpuBenchmark, plan
from benchmarks.gpu.result_store import Store
from benchmarks.timing.process import GoneError

METHODS = ["stpm", "dual"]
FOUND = {"speedup": 1.2, "is_fast_enough": False, "grouped_speedup": None}


class FakeClock:
    """Seconds pass when something says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class FakeProcess:
    """Answers as a worker does; its candidate takes ``ms`` an image, and may fail at some order."""

    def __init__(self, candidate: GpuCandidate, clock: FakeClock, log: list[Any], ms: float, fault: str) -> None:
        self.name, self.seconds = candidate.name, candidate.seconds
        self.clock, self.log, self.ms, self.fault = clock, log, ms, fault
        self.order: dict[str, Any] = {}
        self.batch = 0
        self.log.append((self.name, "start", 0))

    def tell(self, message: dict[str, Any]) -> None:
        self.order = message
        self.batch = message.get("batch", self.batch)
        self.log.append((self.name, message["do"], message.get("batch", message.get("calls", 0))))

    def hear(self, limit_s: float) -> dict[str, Any]:
        if self.fault == self.order["do"]:
            raise GoneError("the worker died (killed by SIGSEGV)")
        if limit_s <= (0 if self.order["do"] == "turn" else self.seconds):
            self.clock.now += max(0.0, limit_s)
            raise GoneError(f"no answer within {limit_s:g} s")
        if self.order["do"] == "turn":
            count = self.order["calls"]
            return {"compute": [self.ms * self.batch] * count, "end_to_end": [2 * self.ms * self.batch] * count}
        self.clock.now += self.seconds
        self.log.append((self.name, "loaded", 0))
        if self.order["do"] == "kernels":
            return {"failure": "off by 0.01 of the map" if self.fault else "", "found": FOUND}
        failure = "scores differ by 0.001" if self.fault == "parity" else ""
        return {"load_seconds": self.seconds, "parity": {"map_max": 1e-6}, "failure": failure, "versions": {}}

    def close(self) -> None:
        self.log.append((self.name, "close", 0))


class FakeGpu:
    """Candidates, of which each is made with what its process does."""

    def __init__(self, clock: FakeClock, log: list[Any]) -> None:
        self.clock, self.log = clock, log
        self.about: dict[str, tuple[float, str]] = {}

    def candidate(self, name: str, ms: float = 1.0, *, seconds: float = 5.0, fault: str = "") -> GpuCandidate:
        backend, precision = name.rsplit("-", 1)
        self.about[name] = ms, fault
        return GpuCandidate(backend, precision, seconds)

    def run(
        self,
        candidates: list[GpuCandidate],
        store: Store,
        *,
        methods: tuple[str, ...] = ("stpm",),
        batches: tuple[int, ...] = (1,),
        left: float = 1e6,
        unbuilt: str = "",
    ) -> bool:
        def folder(method: str) -> Path:
            if method == unbuilt:
                raise GoneError("ImportError: No module named 'timm'")
            return Path(f"{method}.kdx")

        benchmark = GpuBenchmark(
            {candidate.name: candidate for candidate in candidates},
            store,
            Deadline(self.clock.now + left, self.clock),
            lambda candidate: FakeProcess(candidate, self.clock, self.log, *self.about[candidate.name]),  # type: ignore[arg-type, return-value]
            folder,
            lambda: self.log.append(("", "quiet", 0)),
            runs=20,
        )
        return benchmark.run(plan(methods, candidates, batches))


def statuses(store: Store) -> dict[str, str]:
    return {"/".join(map(str, key)): row["status"] for key, row in store.rows.items()}


def make_store(path: Path) -> Store:
    return Store(path, {"machine": {"gpu": None, "cpu": "a CPU", "nvidia_smi": {}, "versions": {}},
                        "settings": {"runs": 20}, "found": {}})  # fmt: skip
