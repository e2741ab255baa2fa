"""A clock, a backend and models that stand for a GPU's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.gpu.candidates import GpuCandidate
from benchmarks.gpu.jobs import Deadline, plan, run_jobs
from benchmarks.gpu.result_store import Store
from kdx.bundle.bundle import Golden
from kdx.imaging.images import InputSpec
from kdx.runtime.backend import Outputs

SIDE = 4
METHODS = ["stpm", "dual"]


class FakeClock:
    """Seconds pass when something says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class FakeBackend:
    """Answers as the reference does, or worse; says how long it takes."""

    def __init__(self, name: str, log: list[Any], ms: float, *, error: float, raises: str) -> None:
        self.name, self.log, self.ms, self.error, self.raises = name, log, ms, error, raises

    def run(self, images: np.ndarray) -> Outputs:
        if self.raises == "run":
            raise RuntimeError("an illegal memory access")
        self.log.append((self.name, "run", len(images)))
        maps, scores = _reference(images)
        return Outputs(maps * (1 + self.error), scores * (1 + self.error))

    def compute_only(self, images: np.ndarray, runs: int) -> list[float]:
        if self.raises == "compute":
            raise RuntimeError("lost in the middle")
        self.log.append((self.name, "compute", runs))
        return [self.ms * len(images)] * runs

    def close(self) -> None:
        self.log.append((self.name, "close", 0))


def _reference(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    maps = images.astype(np.float32).mean(axis=-1)
    return maps, maps.max(axis=(1, 2))[:, None]


def make_model(method: str) -> Any:
    images = np.random.default_rng(0).integers(0, 255, (8, SIDE, SIDE, 3), np.uint8)
    golden = Golden([f"{i}.png" for i in range(8)], images, *_reference(images))
    spec = InputSpec(height=SIDE, width=SIDE)
    return SimpleNamespace(method=method, golden=golden, detector=SimpleNamespace(input_spec=spec))


def run(candidates: list[GpuCandidate], store: Store, clock: FakeClock, *, left: float = 1e6, **options: Any) -> bool:
    jobs = plan(options.pop("methods", ["stpm"]), candidates, options.pop("batches", (1,)))
    return run_jobs(jobs, candidates, make_model, store, Deadline(clock.now + left, clock), runs=20, **options)


def statuses(store: Store) -> dict[str, str]:
    return {"/".join(map(str, key)): row["status"] for key, row in store.rows.items()}
