"""What the GPU benchmark's tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.candidates import EVENTS, GpuCandidate
from benchmarks.gpu.result_store import Store
from tests.benchmarks.gpu.fakes import FakeBackend, FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def log() -> list[Any]:
    return []


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "gpu-fake.json", {"found": {}})


@pytest.fixture
def fake(clock: FakeClock, log: list[Any]) -> Callable[..., GpuCandidate]:
    """Makes a candidate; loading it takes ``seconds``."""

    def make(name: str, ms: float = 1.0, *, seconds: float = 5.0, error: float = 0.0, raises: str = "") -> GpuCandidate:
        def load(model: Any, batch: int) -> FakeBackend:
            log.append((name, "open", batch))
            clock.now += seconds
            if raises == "open":
                raise ImportError("libnvinfer.so.10: cannot open shared object file")
            return FakeBackend(name, log, ms, error=error, raises=raises)

        return GpuCandidate(name, name.rsplit("-", 1)[0], name.rsplit("-", 1)[1], EVENTS, seconds, load)

    return make
