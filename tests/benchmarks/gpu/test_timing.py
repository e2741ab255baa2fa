"""How many calls, and what becomes of them."""

from __future__ import annotations

import numpy as np

from benchmarks.gpu.timing import Counts, summary


def test_larger_batches_take_fewer_calls() -> None:
    assert Counts.at(1, 1000) == Counts(1000, 1000)
    assert Counts.at(8, 1000).timed == 300
    assert Counts.at(32, 1000).timed == 200


def test_percentiles_of_a_known_distribution() -> None:
    found = summary(np.arange(1001) / 1000)
    assert found == {"p50_ms": 0.5, "p99_ms": 0.99, "p999_ms": 0.999, "max_ms": 1.0, "runs": 1001}
