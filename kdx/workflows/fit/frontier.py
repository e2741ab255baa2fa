"""The frontier of latency and accuracy, and the best detector within the budget."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from kdx.workflows.fit.trial_records import FrontierRow, MethodSize, Trial, fastest_timing

# Image AUROCs that agree to a tenth of a percent are the same: a thousand test images cannot tell
# them apart.
_DECIMALS = 3


def rows_of(trial: Trial, bundle: str, budget_ms: float) -> list[FrontierRow]:
    """Return a trial's lines, one for each precision, in the fastest backend that runs it."""
    rows = []
    for measured in trial.measured:
        timing = fastest_timing(measured.timings)
        if timing is not None:
            rows.append(
                FrontierRow(
                    candidate=trial.candidate,
                    timing=timing,
                    scores=measured.scores,
                    bundle=bundle,
                    bundle_sha256=trial.bundle_sha256,
                    keeps_budget=(timing.measured_ms or 0.0) <= budget_ms,
                )
            )
    return rows


def with_frontier(rows: Sequence[FrontierRow]) -> list[FrontierRow]:
    """Return the lines from the fastest to the slowest, those on the frontier marked.

    A line is on the frontier unless another is at least as fast and at least as accurate, and
    better in one of the two: of equals, all are on it.
    """
    ordered = sorted(
        rows, key=lambda row: (_latency(row), -row.scores.image_auroc, row.candidate.order, row.timing.precision)
    )
    return [
        msgspec.structs.replace(row, on_frontier=not any(_dominates(other, row) for other in ordered))
        for row in ordered
    ]


def ranked(rows: Sequence[FrontierRow]) -> list[FrontierRow]:
    """Return the rows within the budget by image AUROC, then by latency."""
    return by_accuracy([row for row in rows if row.keeps_budget])


def by_accuracy(rows: Sequence[FrontierRow]) -> list[FrontierRow]:
    """Return the rows by image AUROC, then by latency."""
    return sorted(rows, key=lambda row: (-accuracy_of(row), _latency(row), row.candidate.order))


def accuracy_of(row: FrontierRow) -> float:
    """Return a row's image AUROC, to a tenth of a percent."""
    return round(row.scores.image_auroc, _DECIMALS)


def next_to_train(
    waiting: Sequence[tuple[MethodSize, float]], results: Sequence[tuple[MethodSize, float]]
) -> MethodSize:
    """Return the most promising of the candidates that are not trained.

    Every method, with each of its teachers, comes once before any comes again, at its largest size
    that may keep the budget, the quickest first. Then the best so far continues with its other
    sizes, the larger first, and so do the others after it.

    Args:
        waiting: Candidates with their screened latency; at least one.
        results: What was tried, with its image AUROC; below any where it failed.
    """
    best: dict[str, float] = {}
    for candidate, auroc in results:
        best[candidate.pair] = max(auroc, best.get(candidate.pair, auroc))
    untried = [each for each in waiting if each[0].pair not in best]
    if not untried:
        return min((candidate for candidate, _ in waiting), key=lambda c: (-best[c.pair], c.pair, -c.pixels))
    largest: dict[str, int] = {}
    for candidate, _ in untried:
        largest[candidate.pair] = max(candidate.pixels, largest.get(candidate.pair, 0))
    at_largest = [(ms, c.order, c) for c, ms in untried if c.pixels == largest[c.pair]]
    return min(at_largest)[2]


def _latency(row: FrontierRow) -> float:
    return row.timing.measured_ms or 0.0


def _dominates(one: FrontierRow, other: FrontierRow) -> bool:
    faster, equal_speed = _latency(one) < _latency(other), _latency(one) == _latency(other)
    better = one.scores.image_auroc > other.scores.image_auroc
    equal_accuracy = one.scores.image_auroc == other.scores.image_auroc
    return (faster and (better or equal_accuracy)) or (equal_speed and better)
