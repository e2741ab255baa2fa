"""The report of ``kdx fit`` on the terminal."""

from __future__ import annotations

from rich.markup import escape

from kdx.cli.output import make_table, out
from kdx.imaging.image_size import say_size
from kdx.text import number_of_threads, percent, spelled
from kdx.workflows.fit.advice import by_reason, quickest_found
from kdx.workflows.fit.trial_records import LABELLED, FrontierRow, Report

_ON_FRONTIER, _BEST = "•", "best"


def show_report(report: Report) -> None:
    """Print the table, what was dropped, the best bundle and what to do next."""
    if report.rows:
        _table(report)
    _dropped(report)
    for note in report.notes:
        out.print(f"[yellow]note:[/] {escape(spelled(note))}")
    if report.compact_choice:
        out.print(escape(spelled(report.compact_choice)))
    machine = report.machine
    threads = number_of_threads(machine.threads)
    out.print(f"from the uint8 array to the verdict, one image a call; {machine.cpu}, {threads}")
    for missed in report.unconfirmed:
        out.print(f"skipped: {escape(spelled(missed))}")
    if report.best is None:
        _nothing_kept(report)
        return
    best, confirmed = report.best, report.best.confirmed
    out.print(
        f"[bold]{escape(best.bundle)}[/]: {best.row.candidate}, {best.row.timing.precision}; as kdx.load opens it "
        f"({confirmed.backend}, {confirmed.precision}) p{confirmed.percentile:g} {confirmed.measured_ms:.2f} ms "
        f"[green]keeps[/] {report.budget_ms:g} ms"
    )
    out.print(f"next: {escape(report.next)}")


def _table(report: Report) -> None:
    p = f"p{report.percentile:g} ms"
    signs = f"±: one standard error; {_ON_FRONTIER}: nothing is faster and as accurate"
    detected = "detected" if report.evidence == LABELLED else "detected (synthetic)"
    table = make_table(
        f"{report.data}, percent, on {report.evidence}; {signs}",
        "", "size", "precision", "backend", p, "p50", "image AUROC", "pixel AUROC", "PRO", "false rejects",
        detected, "", left=("precision", "backend"),
    )  # fmt: skip
    for row in report.rows:
        scores, timing = row.scores, row.timing
        style = "dim" if not row.keeps_budget else "bold" if _is_best(report, row) else None
        table.add_row(
            row.candidate.pair,
            say_size(row.candidate.size),
            timing.precision,
            timing.backend,
            f"{timing.measured_ms:.2f}",
            f"{timing.p50_ms:.2f}",
            f"{percent(scores.image_auroc)} ± {percent(scores.image_auroc_error)}",
            *(percent(v) for v in (scores.pixel_auroc, scores.pro, scores.false_reject_rate, scores.detection_rate)),
            _BEST if _is_best(report, row) else _ON_FRONTIER if row.on_frontier else "",
            style=style,
        )
    table.width = table.__rich_measure__(out, out.options.update(max_width=10_000)).maximum
    out.print(table, crop=False)  # a figure broken over lines is no figure
    if not all(row.keeps_budget for row in report.rows):
        out.print(f"dim: over the budget of {report.budget_ms:g} ms")


def _is_best(report: Report, row: FrontierRow) -> bool:
    return report.best is not None and (report.best.row.candidate, report.best.row.timing.precision) == (
        row.candidate,
        row.timing.precision,
    )


def _dropped(report: Report) -> None:
    if report.dropped:
        out.print("left out:")
    for line in by_reason(report.dropped):
        out.print(f"  {escape(spelled(line))}")


def _nothing_kept(report: Report) -> None:
    waits = any(one.outcome == "may keep" for one in report.screened) and not report.rows
    if waits:
        out.print(f"no candidate was finished; what may keep {report.budget_ms:g} ms, by the screening:")
        for one in report.screened:
            if one.outcome == "may keep" and one.fastest is not None:
                timing = one.fastest
                out.print(f"  {one.candidate}: {timing.backend} {timing.precision} {timing.measured_ms:.2f} ms")
    else:
        found = "none of these was confirmed to keep" if report.unconfirmed else "nothing keeps"
        out.print(f"[bold red]{found} {report.budget_ms:g} ms[/] at p{report.percentile:g}")
    if (quickest := quickest_found(report)) is not None:
        name, timing = quickest
        measured = f"p{timing.percentile:g} {timing.measured_ms:.2f} ms"
        out.print(f"fastest: {name} in {timing.backend}, {timing.precision}: {measured}")
    for line in report.advice:
        out.print(f"  what would help: {escape(spelled(line))}")
