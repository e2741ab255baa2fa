"""How many calls, and what becomes of them."""

from __future__ import annotations

import numpy as np

from benchmarks.gpu.candidates import EAGER
from benchmarks.gpu.session import calls_of, summary


def test_larger_batches_and_the_baseline_take_fewer_calls() -> None:
    assert [calls_of("fast-fp16", batch, 1000) for batch in (1, 8, 32)] == [1000, 300, 200]
    assert [calls_of(EAGER, batch, 1000) for batch in (1, 8, 32)] == [200, 60, 40]
    assert calls_of(EAGER, 32, 1) == 2


def test_percentiles_of_a_known_distribution() -> None:
    found = summary(np.arange(1001) / 1000)
    assert found == {"p50_ms": 0.5, "p99_ms": 0.99, "p999_ms": 0.999, "max_ms": 1.0, "runs": 1001}
