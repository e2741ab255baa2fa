"""The comparison of a reproduction with its paper: differences, open questions, and figures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kd_train.reproduction.choice import Choice, Column, MethodVariant
from kd_train.reproduction.differences import differences, means, unknowns
from kd_train.reproduction.papers import EVERY, MEAN, SHARE_METRICS, Share
from kd_train.reproduction.result_folder import JobResult
from kd_train.reproduction.runs import Reproduction

_Figure = tuple["float | None", str]  # a figure in percent, and the table that quotes it


@dataclass(frozen=True)
class TableCell:
    """One figure, in percent.

    Attributes:
        paper: The paper's figure; None if it prints none.
        quoted: The table of another paper that quotes the figure; empty if the method's own paper
            prints it.
        seeds: The reproduced figure of each seed.
        mean: The mean over the seeds; None without any.
        spread: The sample standard deviation; None for fewer than two seeds.
        difference: The mean minus the paper's figure; None if the two are not means over the same
            categories.
    """

    paper: float | None
    quoted: str
    seeds: tuple[float, ...]
    mean: float | None
    spread: float | None
    difference: float | None


@dataclass(frozen=True)
class PaperRow:
    """One row of the table.

    Attributes:
        variant: The column of an ablation, or empty.
        name: The category, or a description of the mean.
        row: The row's name in the paper's tables.
        is_mean: Whether the row is a mean over categories.
        cells: The figure of each metric.
    """

    variant: str
    name: str
    row: str
    is_mean: bool
    cells: dict[Share, TableCell]


@dataclass(frozen=True)
class PrintedTable:
    """One metric of a paper's table for all systems, in percent."""

    place: str
    caption: str
    metric: Share
    systems: tuple[str, ...]
    rows: dict[str, tuple[float | None, ...]]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class PaperComparison:
    """A reproduction beside its paper.

    Attributes:
        title: A title, which says whether it is a reproduction.
        method: kdx's name of the method.
        paper: The paper's title.
        data: The key of the data set whose figures are shown.
        is_reproduction: Whether no difference from the paper is known.
        differs: The differences from the paper.
        unknown: The settings that the paper does not give.
        notes: The notes on the paper's tables.
        not_trained: The columns that kdx cannot train, with the reason for each.
        seeds: The number of seeds of each run.
        rows: The rows of figures.
        printed: The paper's tables with the compared systems.
    """

    title: str
    method: str
    paper: str
    data: str
    is_reproduction: bool
    differs: tuple[str, ...]
    unknown: tuple[str, ...]
    notes: tuple[str, ...]
    not_trained: dict[str, str]
    seeds: int
    rows: tuple[PaperRow, ...]
    printed: tuple[PrintedTable, ...]


def compare_with_paper(made: Reproduction) -> PaperComparison:
    """Compare a reproduction with its paper."""
    choice = made.choice
    rows = tuple(row for variant in choice.variants for row in _rows(made, variant))
    differs = differences(made)
    what = f"{choice.method} on {choice.data_set.title}"
    count = "one thing differs" if len(differs) == 1 else f"{len(differs)} things differ"
    return PaperComparison(
        title=f"{what}: not a reproduction, {count} from {choice.paper.short}"
        if differs
        else f"{what}: a reproduction of {choice.paper.short}, as far as its text goes",
        method=choice.method,
        paper=f"{choice.paper.title} ({choice.paper.short})",
        data=choice.data,
        is_reproduction=not differs,
        differs=differs,
        unknown=unknowns(made),
        notes=tuple(
            f"table {column.table.number}: {note}"
            for column in choice.tables
            if column.paper is choice.paper
            for note in column.table.notes
        ),
        not_trained=dict(choice.cannot),
        seeds=made.seeds,
        rows=rows,
        printed=tuple(_tables(choice)),
    )


def _rows(made: Reproduction, variant: MethodVariant) -> Iterable[PaperRow]:
    results = [result for result in made.results if result.variant == variant.slug]
    for category in made.categories:
        of_it = [result for result in results if result.category == category]
        if of_it:
            cells = {
                m: _cell(_printed(variant, category, m), _values(of_it, m), is_comparable=True) for m in SHARE_METRICS
            }
            yield PaperRow(variant.name, category, category, False, cells)
    for group, (here, is_complete) in means(made, variant).items():
        cells = {
            metric: _cell(
                _printed_mean(variant, group, metric), _mean_values(results, here, metric), is_comparable=is_complete
            )
            for metric in SHARE_METRICS
        }
        if len(here) > 1 or any(cell.paper is not None for cell in cells.values()):
            name = MEAN if group == EVERY else f"{MEAN} of {group}"
            yield PaperRow(variant.name, name, _row_of(variant, group), True, cells)


def _row_of(variant: MethodVariant, group: str) -> str:
    """Return the tables' name of a group's mean; two tables may use one name for two groups."""
    rows = (row for c in variant.columns for row in c.table.rows() if c.table.row_group(row) == group)
    return next(rows, MEAN)


def _values(results: Sequence[JobResult], metric: Share) -> tuple[float, ...]:
    by_seed = sorted(results, key=lambda result: result.seed)
    return tuple(100 * v for result in by_seed if (v := getattr(result, metric)) is not None)


def _mean_values(results: Sequence[JobResult], categories: Sequence[str], metric: Share) -> tuple[float, ...]:
    """Return the mean over categories for each seed that has results of all of them."""
    found = []
    for seed in sorted({result.seed for result in results}):
        values = _values([r for r in results if r.seed == seed and r.category in categories], metric)
        if values and len(values) == len(categories):
            found.append(math.fsum(values) / len(values))
    return tuple(found)


def _cell(printed: _Figure, values: tuple[float, ...], *, is_comparable: bool) -> TableCell:
    paper, quoted = printed
    mean = math.fsum(values) / len(values) if values else None
    return TableCell(
        paper=paper,
        quoted=quoted,
        seeds=values,
        mean=mean,
        spread=statistics.stdev(values) if len(values) > 1 else None,
        difference=mean - paper if is_comparable and mean is not None and paper is not None else None,
    )


def _printed(variant: MethodVariant, category: str, metric: Share) -> _Figure:
    """Return the printed figure of a category, from the method's own paper if it has one."""
    return _first((column, column.table.figure(metric, category, column.system)) for column in variant.columns)


def _printed_mean(variant: MethodVariant, group: str, metric: Share) -> _Figure:
    return _first(
        (column, column.table.figure(metric, row, column.system))
        for column in variant.columns
        for row in column.table.rows()
        if column.table.row_group(row) == group
    )


def _first(figures: Iterable[tuple[Column, float | None]]) -> _Figure:
    for column, figure in figures:
        if figure is not None:
            return figure, "" if column.system in column.table.own else column.place
    return None, ""


def _tables(choice: Choice) -> Iterable[PrintedTable]:
    for column in choice.tables:
        table = column.table
        for metric in SHARE_METRICS:
            if metric in table.figures:
                rows = {
                    row: tuple(table.figure(metric, row, system) for system in table.systems)
                    for row in table.figures[metric]
                }
                yield PrintedTable(column.place, table.caption, metric, table.systems, rows, table.notes)
