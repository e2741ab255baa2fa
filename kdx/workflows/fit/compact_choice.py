"""A compact teacher or the network from which it learns: which pair is better here, and why."""

from __future__ import annotations

from collections.abc import Sequence

from kdx.text import percent
from kdx.workflows.fit.frontier import accuracy_of, by_accuracy, ranked
from kdx.workflows.fit.request import FitRequest
from kdx.workflows.fit.trial_records import Dropped, FrontierRow, MethodSize


def compact_choice(rows: Sequence[FrontierRow], dropped: Sequence[Dropped], request: FitRequest) -> str:
    """Return the choice between both pairs with its reason; empty where they were no candidates.

    It follows the ranking of the table: the most accurate within the budget, and the faster of
    equals.

    Args:
        rows: The table.
        dropped: What is not in it.
        request: What the user asked for.
    """
    both = request.compact_and_source
    if both is None:
        return ""
    names = [backbone or request.training.backbone or "" for _, backbone in both]
    own = [[row for row in rows if _is(row.candidate, pair)] for pair in both]
    missing = [pair for pair, found in zip(both, own, strict=True) if not found]
    if missing:
        firsts = [next((one for one in dropped if _is(one.candidate, pair)), None) for pair in missing]
        reasons = "; ".join(f"{one.candidate}: {one.reason}" for one in firsts if one is not None)
        return f"{names[0]} and {names[1]} were not compared: {reasons}"
    best = [(ranked(found) or by_accuracy(found))[0] for found in own]
    figures = ", ".join(_figures(name, row) for name, row in zip(names, best, strict=True))
    order = ranked(best)
    if not order:
        return f"{figures}: neither keeps {request.budget_ms:g} ms"
    chosen = best.index(order[0])
    if len(order) == 1:
        reason = f"only it keeps {request.budget_ms:g} ms"
    elif accuracy_of(order[0]) > accuracy_of(order[1]):
        reason = "its image AUROC is higher"
    else:
        reason = "the image AUROCs agree to a tenth of a percent, and it is faster"
    smaller = [name for name, pair in zip(names, both, strict=True) if _lacked_time(dropped, pair)]
    caveat = f"; other sizes of {' and '.join(smaller)} would have taken too long" if smaller else ""
    return f"{figures}: {names[chosen]} is the better pair here, {reason}{caveat}"


def _lacked_time(dropped: Sequence[Dropped], pair: tuple[str, str]) -> bool:
    return any(one.cause == "hours" and not one.precision and _is(one.candidate, pair) for one in dropped)


def _is(candidate: MethodSize, pair: tuple[str, str]) -> bool:
    return (candidate.method, candidate.backbone) == pair


def _figures(teacher: str, row: FrontierRow) -> str:
    scores, timing = row.scores, row.timing
    accuracy = f"image AUROC {percent(scores.image_auroc)} ± {percent(scores.image_auroc_error)}"
    return f"{teacher} ({row.candidate}, {timing.precision}) {accuracy} in {timing.measured_ms:.2f} ms"
