"""What ``kdx fit`` advises."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from kdx.workflows.fit.advice import quickest_found
from kdx.workflows.fit.trial_records import MethodSize, Screened, Timing


def test_the_fastest_is_the_one_with_the_lowest_latency_in_the_report() -> None:
    def screened(name: str, p50: float, p99: float) -> Screened:
        timing = Timing(
            backend="openvino", precision="fp32", percentile=99, measured_ms=p99, p50_ms=p50, max_ms=p99, runs=100
        )
        return Screened(candidate=MethodSize(name, 64), outcome="may keep", timings=[timing])

    report = SimpleNamespace(rows=[], screened=[screened("stpm", 0.7, 9.1), screened("dual", 1.6, 2.4)])
    found = quickest_found(cast(Any, report))
    assert found is not None
    assert found[0] == "dual 64"
