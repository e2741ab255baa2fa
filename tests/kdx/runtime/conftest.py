"""A fake CUDA that fails the test which misused it or left something allocated."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tests.kdx.runtime.tensorrt.fake_cuda import FakeCuda
from tests.kdx.runtime.tensorrt.fake_runtime import SHAPE


@pytest.fixture
def cuda() -> Iterator[FakeCuda]:
    """A fake CUDA; the test closes what it opens on it."""
    fake = FakeCuda()
    yield fake
    assert not fake.misuses
    assert not fake.leaked


@pytest.fixture
def images() -> np.ndarray:
    """Twelve images, no two alike."""
    return np.random.default_rng(0).integers(0, 256, (12, *SHAPE), np.uint8)
