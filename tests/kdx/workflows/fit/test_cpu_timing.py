"""How the backends of a trained candidate are timed, by a measurement that tests set."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from kdx.errors import BackendError
from kdx.runtime.cycle_time import compare_with_budget
from kdx.workflows.fit import cpu_timing as module
from kdx.workflows.fit.cpu_timing import time_precision
from kdx.workflows.fit.trial_records import fastest_timing

LATENCY_MS = {"fast": 2.0, "near": 2.5, "slow": 7.0}


@pytest.mark.parametrize(
    ("failing", "measured", "fastest"),
    [
        (set(), {"fast", "near"}, "fast"),
        ({"fast"}, {"near"}, "near"),
        ({"fast", "near"}, {"slow"}, "slow"),  # whose first look is no percentile
        ({"fast", "near", "slow"}, set(), None),
    ],
)
def test_the_fastest_backend_that_can_be_measured_is_measured_at_the_percentile(
    monkeypatch, failing, measured, fastest
):
    @contextmanager
    def opened(bundle, name, threads, precision):
        yield SimpleNamespace(name=name)

    def stated(detector, images, *, budget_ms, percentile, runs, warm_up=50):
        if percentile != 50 and detector.name in failing:
            raise BackendError("no memory is left")
        return compare_with_budget(detector.name, [LATENCY_MS[detector.name]] * runs, budget_ms, percentile, warm_up)

    pairs = [(name, "fp32") for name in ("slow", "near", "fast")]
    monkeypatch.setattr(module, "cpu_backend_precision_pairs", lambda *_: pairs)
    monkeypatch.setattr(module, "detector_of", opened)
    monkeypatch.setattr(module, "measure_cycle_time", stated)
    timings = time_precision(
        SimpleNamespace(), "fp32", np.zeros((1, 4, 4, 1), np.uint8), budget_ms=8.0, percentile=99.0, threads=1
    )
    assert {each.backend for each in timings} == {"fast", "near", "slow"}
    assert {each.backend for each in timings if each.percentile == 99.0} == measured
    assert {each.backend for each in timings if each.error} == failing
    found = fastest_timing(timings)
    assert (found.backend if found else None) == fastest
