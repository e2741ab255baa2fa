"""The tables of a reproduction as text: ours beside the paper's, and the paper's own tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kd_train.reproduction.paper_comparison import PaperComparison, PaperRow, PrintedTable, TableCell

_TITLES = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "pro": "PRO"}


@dataclass(frozen=True)
class TextRow:
    """A row of a table.

    Attributes:
        name: The text of the first column.
        texts: The texts of the other columns.
        is_mean: Whether the row is a mean over categories.
        begins_section: Whether a line stands above it.
    """

    name: str
    texts: tuple[str, ...]
    is_mean: bool = False
    begins_section: bool = False


@dataclass(frozen=True)
class TextTable:
    """A table; the first column has no heading."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[TextRow, ...]


def figures_of(comparison: PaperComparison) -> TextTable:
    """Return the table that has, for each metric, our figure, the paper's, and the difference."""
    rows = comparison.rows
    shown = {m for row in rows for m, cell in row.cells.items() if cell.paper is not None or cell.seeds}
    metrics = [metric for metric in _TITLES if metric in shown]
    seeds = f"mean ± standard deviation of {comparison.seeds} seeds" if comparison.seeds > 1 else "one seed, no spread"
    has_variants = len({row.variant for row in rows}) > 1
    found = [
        TextRow(
            f"{row.variant}: {row.name}" if has_variants else row.name,
            tuple(text for metric, cell in row.cells.items() if metric in metrics for text in _cell(cell)),
            is_mean=row.is_mean,
            begins_section=index > 0 and row.variant != rows[index - 1].variant,
        )
        for index, row in enumerate(rows)
    ]
    return TextTable(
        f"ours ({seeds}), the paper's, and the difference, in percent",
        tuple(text for metric in metrics for text in (_TITLES[metric], "paper", "diff")),
        tuple(found),
    )


def systems_of(printed: PrintedTable, rows: Iterable[PaperRow]) -> TextTable:
    """Return one of the paper's tables as it is printed there, with our figures in the last column.

    Args:
        printed: The paper's table.
        rows: Our rows; those of several variants have no column.
    """
    rows = tuple(rows)
    is_one = len({row.variant for row in rows}) == 1
    ours = {row.row: row.cells[printed.metric].mean for row in reversed(rows)} if is_one else {}
    found = []
    for name, figures in printed.rows.items():
        own = ours.get(name)
        texts = (*map(_number, figures), "–" if own is None else f"{own:.1f}")
        found.append(TextRow(name.replace("_", " "), texts))
    title = f"{printed.place}: {printed.caption}; {_TITLES[printed.metric]}, percent"
    return TextTable(title, (*printed.systems, "kdx"), tuple(found))


def quoted_places(comparison: PaperComparison) -> list[str]:
    """Return the tables of other papers that quote the figures shown."""
    return sorted({cell.quoted for row in comparison.rows for cell in row.cells.values() if cell.quoted})


def _cell(cell: TableCell) -> tuple[str, str, str]:
    """Format ours, the paper's, the difference, with the decimals that the paper prints."""
    paper = _number(cell.paper)
    decimals = len(paper.partition(".")[2]) or 1
    ours = "–" if cell.mean is None else f"{cell.mean:.{decimals}f}"
    ours += "" if cell.spread is None else f" ± {cell.spread:.{decimals}f}"
    difference = "–" if cell.difference is None else f"{cell.difference:+.{decimals}f}"
    return ours, paper + ("*" if cell.quoted else ""), difference


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    # The decimals that the papers print, but one at least.
    return f"{value:.1f}" if round(value, 1) == round(value, 6) else f"{value:.2f}".rstrip("0")
