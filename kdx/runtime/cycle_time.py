"""A cycle time as a contract: so many milliseconds, from the camera's array to the verdict, at a percentile."""

from __future__ import annotations

import math
import time

import msgspec
import numpy as np
from numpy.typing import NDArray

from kdx.errors import OptionError
from kdx.progress import SILENT, Progress
from kdx.runtime.detector import Detector


class Contract(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked of a detector's latency, and what was measured.

    Attributes:
        backend: What ran.
        budget_ms: Milliseconds that a verdict may take.
        percentile: At which it may take them; at 99.9, one call in a thousand may take longer.
        measured_ms: The smallest measured time that at least so many percent of the calls kept, rounded up to a
            microsecond: what is shown is what is compared with the budget.
        p50_ms: Median.
        max_ms: The slowest call.
        late: Calls that took longer than the budget.
        runs: Calls counted, one image each.
        warm_up: Calls before any was counted.
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
    """Return the fewest calls that say anything of a percentile: below, it would be the slowest call of too few."""
    return math.ceil(1 / (1 - percentile / 100) - 1e-9)


def hold_to(
    detector: Detector,
    images: NDArray[np.uint8],
    *,
    budget_ms: float | None,
    percentile: float = 99.9,
    runs: int | None = None,
    warm_up: int = 50,
    progress: Progress = SILENT,
) -> Contract:
    """Call a detector with one image at a time, and hold it to a budget.

    Args:
        detector: As the line calls it: input check, backend, verdict.
        images: uint8 ``(K, H, W, C)``, taken in turn.
        budget_ms: Milliseconds; None to measure alone, which every time keeps.
        percentile: Above 0, below 100.
        runs: Calls counted; None for as many as the percentile needs, 1000 at least.
        warm_up: Calls before.
        progress: Shows the calls.

    Raises:
        OptionError: A budget or percentile that cannot be, or too few runs for the percentile.
    """
    if budget_ms is not None and not 0 < budget_ms < math.inf:
        raise OptionError("--budget-ms is not possible", expected="above 0, finite", received=f"{budget_ms:g}")
    if not 0 < percentile < 100:
        raise OptionError("--percentile is not possible", expected="above 0, below 100", received=f"{percentile:g}")
    needed = runs_needed(percentile)
    counted = max(1000, needed) if runs is None else runs
    if counted < needed:
        raise OptionError(
            f"too few runs for percentile {percentile:g}", expected=f"at least {needed}", received=str(counted)
        )
    times = []
    with progress.task("holding to the budget", warm_up + counted) as task:
        for index in range(warm_up + counted):
            image = images[index % len(images)]
            started = time.perf_counter()
            detector(image)
            times.append((time.perf_counter() - started) * 1e3)
            task.advance()
    allowed = math.inf if budget_ms is None else budget_ms
    return judge(detector.backend.name, times[warm_up:], allowed, percentile, warm_up)


def judge(backend: str, times_ms: list[float], budget_ms: float, percentile: float, warm_up: int) -> Contract:
    """Return what measured times say of a budget."""
    # A time that was measured, and that so many percent of the calls really kept: nothing interpolated. 99.9 % of 1000
    # calls are 999, whatever binary fractions make of it.
    kept = math.ceil(percentile / 100 * len(times_ms) - 1e-9)
    measured = math.ceil(sorted(times_ms)[kept - 1] * 1e3 - 1e-6) / 1e3
    return Contract(
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
