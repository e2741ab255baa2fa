"""``kdx reproduce``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.markup import escape

from kd_train.training.options import TrainOptions
from kdx.cli.error_output import Interrupted
from kdx.cli.output import err, make_table, out, print_json, progress_for
from kdx.cli.shared_options import JSON_OPTION
from kdx.cli.train_options import TRAIN_OPTIONS, with_train_options
from kdx.workflows.packages import needs

if TYPE_CHECKING:
    from kd_train.reproduction.paper_comparison import PaperComparison
    from kd_train.reproduction.result_folder import JobResult
    from kd_train.reproduction.text_tables import TextTable


@with_train_options("reproduce")
def reproduce(
    method: str = typer.Argument(help="Method of the papers, e.g. stpm or dskd."),
    data: Path = typer.Option(..., "--data", help="The data set as downloaded, or a folder in MVTec layout."),
    category: list[str] = typer.Option(
        [], "--category", help="Category; may be repeated. Default: all that the tables are about."
    ),
    seeds: int = typer.Option(3, help="How often each run is made, with seeds from 0."),
    table: int | None = typer.Option(
        None, help="A table of the method's paper, e.g. an ablation. Default: those of the method as proposed."
    ),
    variant: list[str] = typer.Option([], "--variant", help="Column of the table; may be repeated. Default: all."),
    folder: Path | None = typer.Option(
        None, "--out", "-o", help="Folder of runs and results. Default: reproduce/METHOD."
    ),
    all_systems: bool = typer.Option(False, "--all-systems", help="Print the paper's compared systems too."),
    training: TrainOptions = TRAIN_OPTIONS,
    force: bool = typer.Option(False, "--force", help="Discard the results in the output folder and begin again."),
    json: bool = JSON_OPTION,
) -> None:
    """Train for a paper's table, and print its figures beside ours.

    One run for each category and seed; a second call continues where the first stopped. Whatever
    differs from the paper (teacher, data, settings) is said above the table, and so is what the
    paper leaves open.
    """
    with needs("train,cpu", "training"):
        from kd_train.reproduction.paper_comparison import compare_with_paper
        from kd_train.reproduction.runs import ReproduceOptions
        from kd_train.reproduction.runs import reproduce as make_runs
        from kd_train.training.freed_memory import keep_freed_memory

    keep_freed_memory()
    target = folder or Path("reproduce") / method
    options = ReproduceOptions(method, data, target, tuple(category), seeds, table, tuple(variant), force, training)
    try:
        made = make_runs(options, progress_for(json), _report)
    except KeyboardInterrupt:
        raise Interrupted(f"what is finished is in '{target}': run the same command again to continue") from None
    comparison = compare_with_paper(made)
    if json:
        print_json({**asdict(comparison), "out": target, "results": made.results})
        return
    _show(comparison, all_systems=all_systems)


def _report(result: JobResult, is_new: bool) -> None:
    done = f"{result.seconds:.0f} s of training" if is_new else "finished earlier"
    name = " ".join(part for part in (result.variant, result.category) if part != "as-proposed")
    err.print(f"{escape(name)}, seed {result.seed}: image AUROC {100 * result.image_auroc:.1f} ({done})")


def _show(comparison: PaperComparison, *, all_systems: bool) -> None:
    from kd_train.reproduction.text_tables import figures_of, quoted_places, systems_of

    out.print(f"[bold]{escape(comparison.title)}[/]")
    _list("what differs", comparison.differs)
    _list("what the text does not say", comparison.unknown)
    _list("on the tables", comparison.notes)
    _list("not trained", (f"{name}: {reason}" for name, reason in comparison.not_trained.items()))
    out.print()
    _print(figures_of(comparison))
    places = quoted_places(comparison)
    if places:
        out.print(f"* not printed by the method's own paper; as quoted by {'; '.join(places)}")
    if all_systems:
        for printed in comparison.printed:
            out.print()
            _print(systems_of(printed, comparison.rows))


def _print(found: TextTable) -> None:
    """Print a table in its own width: a figure broken over lines is no figure."""
    table = make_table(escape(found.title), "", *map(escape, found.headings))
    for row in found.rows:
        if row.begins_section:
            table.add_section()
        table.add_row(escape(row.name), *row.texts, style="bold" if row.is_mean else None)
    table.width = table.__rich_measure__(out, out.options.update(max_width=10_000)).maximum
    out.print(table, crop=False)


def _list(heading: str, lines: Iterable[str]) -> None:
    lines = tuple(lines)
    if lines:
        out.print(f"{heading}:")
    for line in lines:
        out.print(f"  {escape(line)}")
