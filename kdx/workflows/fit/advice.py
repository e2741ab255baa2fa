"""What ``kdx fit`` prints of a trial and of a failure, and what it advises."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from kdx.errors import KdxError
from kdx.imaging.image_size import both_sides, say_size, size_of
from kdx.runtime.backend_table import BACKENDS
from kdx.runtime.machine import usable_cores
from kdx.workflows.fit.request import CPU_PRECISIONS, FitRequest
from kdx.workflows.fit.trial_records import Best, Dropped, Report, Timing, Trial, fastest_timing

_SMALLEST_SENSIBLE = 64


def reason_of(error: Exception) -> str:
    """Say in one line why a candidate failed."""
    if isinstance(error, KdxError):
        return "; ".join(part for part in (error.message, error.received, error.fix) if part)
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"


def trial_line(trial: Trial) -> str:
    """Sum a trial up: accuracy and latency of each precision."""
    parts = []
    for measured in trial.measured:
        timing = fastest_timing(measured.timings)
        latency = "" if timing is None else f", {timing.measured_ms:.2f} ms"
        parts.append(f"{measured.precision} image AUROC {100 * measured.scores.image_auroc:.1f}{latency}")
    return f"{trial.candidate}: {'; '.join(parts)} ({trial.epochs} epochs, {trial.seconds:.0f} s of training)"


def by_reason(dropped: Iterable[Dropped]) -> list[str]:
    """Say what was dropped, in a line for each reason."""
    names: dict[str, list[str]] = {}
    for one in dropped:
        names.setdefault(one.reason, []).append(f"{one.candidate} {one.precision or ''}".strip())
    return [f"{', '.join(of)}: {reason}" for reason, of in names.items()]


def teacher_lines(trial: Trial) -> list[str]:
    """Say what a trial's compact teacher sees of defects, compared with each of its sources."""
    return [f"{trial.candidate}: the teacher's features alone: {each.describe()}" for each in trial.teacher_comparisons]


def next_command(best: Best | None, request: FitRequest) -> str:
    """Return the command that checks the best bundle against the budget; empty without one."""
    if best is None:
        return ""
    contract = f"--budget-ms {request.budget_ms:g} --percentile {request.percentile:g} --threads {request.threads}"
    return f"kdx bench {shlex.quote(best.bundle)} {contract}"


def quickest_found(report: Report) -> tuple[str, Timing] | None:
    """Return name and timing of the fastest candidate, trained or screened; None if nothing ran.

    It is the fastest by the latency that the report shows, which need not have the lowest median.
    """
    found = [(str(row.candidate), row.timing) for row in report.rows]
    found += [(str(one.candidate), timing) for one in report.screened if (timing := one.fastest) is not None]
    return min(found, key=lambda each: each[1].measured_ms or 0.0) if found else None


def advice(report: Report, request: FitRequest) -> list[str]:
    """Say what would help where nothing keeps the budget, the cheapest first."""
    if any(one.cause == "hours" for one in report.dropped):
        return ["more time for training: run the command again with more `hours`; what is finished is kept"]
    if not report.rows and any(one.outcome == "may keep" for one in report.screened):
        return ["to fix what failed, and to run the command again: what is finished is kept"]
    found = []
    if report.unconfirmed:
        found.append(
            "an idle machine: run the command again, which measures once more what keeps the budget in the table"
        )
    if request.threads < usable_cores():
        found.append(f"more threads: `threads={usable_cores()}`")
    missing = [precision for precision in CPU_PRECISIONS if precision not in request.precisions]
    if missing:
        found.append(f"lower precision: `precisions={','.join((*request.precisions, *missing))}`")
    absent = [info for info in BACKENDS.values() if not info.needs_gpu and not info.is_usable()]
    found += [f"the backend {info.name}: {info.install}" for info in absent]
    smallest = request.sizes[0]
    if min(both_sides(smallest)) > _SMALLEST_SENSIBLE:
        height, width = (max(_SMALLEST_SENSIBLE, side // 2 // 32 * 32) for side in both_sides(smallest))
        found.append(f"smaller images: `sizes={say_size(size_of((height, width)))},{say_size(smallest)}`")
    if request.training.taps is None:
        found.append("shallower `taps`: the networks end at the last one")
    found.append("a smaller teacher: `backbone`, any convolutional network of timm")
    quickest = quickest_found(report)
    if quickest is not None and (quickest[1].max_ms or 0.0) > request.budget_ms:
        found.append(f"a budget of {quickest[1].max_ms:.1f} ms, in which {quickest[0]} did every call")
    return found
