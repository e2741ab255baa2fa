"""``kdx selftest``."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.markup import escape

from kdx.cli.output import make_table, out, print_json
from kdx.cli.shared_options import JSON_OPTION, THREADS_OPTION


def selftest(
    bundle: Path = typer.Argument(help="Bundle that the line uses."),
    backend: str = typer.Option("auto", help="Backend that the line uses."),
    precision: str | None = typer.Option(None, help="Precision that the line uses. Default: as kdx.load chooses."),
    threads: int | None = THREADS_OPTION,
    budget_ms: float | None = typer.Option(None, help="Milliseconds that a verdict may take, from the array."),
    percentile: float = typer.Option(95.0, help="Share of the calls, in percent, that must keep the budget."),
    runs: int | None = typer.Option(
        None, min=1, help="Calls that are timed. Default: 40, or what the percentile needs."
    ),
    json: bool = JSON_OPTION,
) -> None:
    """The check at the start of a shift, in about a second.

    Every file is as it was exported; the bundle is calibrated; golden images score as the reference
    did, with no verdict flipped; a verdict comes within the budget. Exit status 0: run. 1: do not.
    The first call on a machine takes longer if it has yet to choose the backend (see kdx.load).
    """
    from kdx.loading.selftest import run_selftest

    result = run_selftest(bundle, backend, threads, precision, budget_ms=budget_ms, percentile=percentile, runs=runs)
    if json:
        print_json(result)
    else:
        ran = f", {result.backend} {result.precision}" if result.backend else ""
        table = make_table(
            f"{bundle}{ran}: {result.seconds:.2f} s", "check", "result", "s", "found", left=("result", "found")
        )
        for check in result.checks:
            verdict = "[green]passed[/]" if check.passed else "[bold red]FAILED[/]"
            table.add_row(check.name, verdict, f"{check.seconds:.2f}", escape(check.said))
        out.print(table)
        out.print(
            "[green]passed[/]" if result.passed else "[bold red]failed[/]: do not start the line with this bundle"
        )
    if not result.passed:
        raise typer.Exit(1)
