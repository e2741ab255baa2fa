"""What the GPU benchmark's tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.result_store import Store
from tests.benchmarks.gpu.fakes import FakeClock, FakeGpu, make_store


@pytest.fixture
def log() -> list[Any]:
    return []


@pytest.fixture
def gpu(log: list[Any]) -> FakeGpu:
    return FakeGpu(FakeClock(), log)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path / "gpu-fake.json")
