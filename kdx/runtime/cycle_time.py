"""The cycle time of a detector, from array to verdict, at a percentile, and its budget."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from kdx.errors import OptionError
from kdx.progress import SILENT, Progress
from kdx.runtime.detector import Detector


class CycleTime(msgspec.Struct, frozen=True, kw_only=True):
    """A measured cycle time and the budget that it was compared with.

    Attributes:
        backend: The backend that ran.
        budget_ms: The milliseconds that a verdict may take.
        percentile: The share of calls, in percent, that must take no longer; at 99.9, one call in a
            thousand may.
        measured_ms: The time at that percentile: a measured one, not interpolated, rounded up to a
            microsecond, so that the number that is shown is the number that is compared with the
            budget.
        p50_ms: The median.
        max_ms: The time of the slowest call.
        late: The number of calls that took longer than the budget.
        runs: The number of calls that were counted, one image each.
        warm_up: The number of calls before these.
        is_met: Whether ``measured_ms`` is within the budget.
    """

    backend: str
    budget_ms: float
    percentile: float
    measured_ms: float
    p50_ms: float
    max_ms: float
    late: int
    runs: int
    warm_up: int
    is_met: bool


def runs_needed(percentile: float) -> int:
    """Return the smallest number of calls that can estimate a percentile.

    With fewer calls, it would be the slowest one.
    """
    return math.ceil(1 / (1 - percentile / 100) - 1e-9)


def measure_cycle_time(
    detector: Detector,
    images: NDArray[np.uint8],
    *,
    call: Callable[[NDArray[np.uint8]], object] | None = None,
    budget_ms: float | None,
    percentile: float = 99.9,
    runs: int | None = None,
    warm_up: int = 50,
    progress: Progress = SILENT,
) -> CycleTime:
    """Call a detector with one image at a time, and compare its cycle time with a budget.

    Args:
        detector: The detector, called as the line calls it: input check, backend, verdict.
        images: uint8 ``(K, H, W, C)``, used in turn.
        call: What is timed with each of them; None for the detector.
        budget_ms: The budget in milliseconds; None to only measure, for which any time is within
            the budget.
        percentile: The share of calls, in percent, that must be within the budget: above 0, below
            100.
        runs: The number of calls that count; None for as many as the percentile needs, at least
            1000.
        warm_up: The number of calls before these.
        progress: Shows the calls.

    Raises:
        OptionError: An invalid budget or percentile, or too few runs for the percentile.
    """
    if budget_ms is not None and not 0 < budget_ms < math.inf:
        raise OptionError("invalid `budget_ms`", expected="above 0, finite", received=f"{budget_ms:g}")
    if not 0 < percentile < 100:
        raise OptionError("invalid `percentile`", expected="above 0, below 100", received=f"{percentile:g}")
    needed = runs_needed(percentile)
    counted = max(1000, needed) if runs is None else runs
    if counted < needed:
        raise OptionError(
            f"too few runs for percentile {percentile:g}", expected=f"at least {needed}", received=str(counted)
        )
    judge = detector if call is None else call
    times = []
    with progress.task("measuring the cycle time", warm_up + counted) as task:
        for index in range(warm_up + counted):
            image = images[index % len(images)]
            started = time.perf_counter()
            judge(image)
            times.append((time.perf_counter() - started) * 1e3)
            task.advance()
    budget = math.inf if budget_ms is None else budget_ms
    return compare_with_budget(detector.backend.name, times[warm_up:], budget, percentile, warm_up)


def compare_with_budget(
    backend: str, times_ms: list[float], budget_ms: float, percentile: float, warm_up: int
) -> CycleTime:
    """Return the cycle time of measured calls, compared with a budget.

    Args:
        backend: The name of the backend that ran.
        times_ms: The milliseconds of each call.
        budget_ms: The milliseconds that a verdict may take.
        percentile: The share of calls, in percent, that must take no longer.
        warm_up: The number of calls before these.
    """
    # 99.9 % of 1000 calls are 999, whatever binary fractions make of it.
    count = math.ceil(percentile / 100 * len(times_ms) - 1e-9)
    measured = math.ceil(sorted(times_ms)[count - 1] * 1e3 - 1e-6) / 1e3
    return CycleTime(
        backend=backend,
        budget_ms=budget_ms,
        percentile=percentile,
        measured_ms=measured,
        p50_ms=round(float(np.median(times_ms)), 3),
        max_ms=round(max(times_ms), 3),
        late=sum(value > budget_ms for value in times_ms),
        runs=len(times_ms),
        warm_up=warm_up,
        is_met=measured <= budget_ms,
    )
