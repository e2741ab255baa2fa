"""The frontier as a picture: latency against accuracy, what keeps the budget left of its line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdx.bundle.variants import PRECISIONS
from kdx.storage.files import write_atomic
from kdx.text import number_of_threads
from kdx.workflows.fit.trial_records import FrontierRow, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = ("o", "s", "^", "D", "v", "P")
# Okabe and Ito's colours, which most colour-blind readers tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000")
_BUDGET = "#B00020"
_RADIUS = 4.0  # of a point, in pixels
# Where a label may stand beside its point, in points (1/72 inch): the first place that is free is
# taken. Above and to the left of the frontier no other point stands, or it would not be the
# frontier.
_PLACES = ((-7, 5), (7, -12), (7, 5), (-7, -12), (0, 12), (0, -19), (-14, 18), (14, -26), (14, 18), (-14, -26))


def write_plots(report: Report, files: Sequence[Path]) -> None:
    """Write the plot into files, in the format of their suffix; remove them if there is no row."""
    if not report.rows:
        for file in files:
            file.unlink(missing_ok=True)
        return
    import io

    import matplotlib

    figure = draw(report)
    # SVG identifiers are random and files carry the date, unless set otherwise.
    with matplotlib.rc_context({"svg.hashsalt": "kdx"}):
        for file in files:
            content = io.BytesIO()
            kind = file.suffix[1:]
            metadata = {"Date": None} if kind == "svg" else {"Software": None}
            figure.savefig(content, format=kind, dpi=150, metadata=metadata)
            write_atomic(file, content.getvalue())


def draw(report: Report) -> Figure:
    """Return the figure of a report that has lines."""
    # Not pyplot: it keeps figures for the process, and may look for a screen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _points(axes, report)
    axes.axvline(report.budget_ms, color=_BUDGET, linestyle="--", linewidth=1)
    right = max([report.budget_ms, *(_x(row) for row in report.rows)])
    axes.set_xlim(0, right * 1.12)
    axes.margins(y=0.12)
    threads = number_of_threads(report.machine.threads)
    axes.set_xlabel(f"milliseconds from array to verdict, p{report.percentile:g}, {threads}")
    axes.set_ylabel(f"image AUROC in percent, {report.evidence}")
    axes.set_title(f"{Path(report.data).name}: accuracy and latency on {report.machine.cpu}", fontsize=10)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    _budget_label(axes, report.budget_ms)
    _legend(axes, report.rows)
    figure.draw_without_rendering()  # only now is known where things stand
    _labels(axes, report.rows, report.budget_ms)
    return figure


def _points(axes: Axes, report: Report) -> None:
    frontier = [row for row in report.rows if row.on_frontier]
    xs, ys = [_x(row) for row in frontier], [_y(row) for row in frontier]
    axes.plot(xs, ys, color="#444444", linewidth=1, drawstyle="steps-post", zorder=2)
    pairs = _pairs(report.rows)
    for row in report.rows:
        axes.scatter(
            _x(row),
            _y(row),
            s=64 if row.on_frontier else 36,
            color=_COLOURS[pairs.index(row.candidate.pair) % len(_COLOURS)],
            marker=_marker(row.timing.precision),
            alpha=1.0 if row.on_frontier else 0.45,
            edgecolors="white",
            linewidths=0.6,
            zorder=3,
        )
    if report.best is not None:
        best = report.best.row
        axes.scatter(_x(best), _y(best), s=220, facecolors="none", edgecolors=_BUDGET, linewidths=1.4, zorder=4)


def _budget_label(axes: Axes, budget_ms: float) -> None:
    from matplotlib.transforms import blended_transform_factory

    place = blended_transform_factory(axes.transData, axes.transAxes)
    side = "right" if budget_ms > 0.8 * axes.get_xlim()[1] else "left"  # where the axes have room for it
    axes.text(
        budget_ms, 0.01, f" budget {budget_ms:g} ms ", color=_BUDGET, fontsize=8, transform=place, va="bottom", ha=side
    )


def _legend(axes: Axes, rows: Sequence[FrontierRow]) -> None:
    """Explain colours and markers, outside of the points."""
    from matplotlib.artist import Artist
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Artist] = [
        Patch(color=_COLOURS[index % len(_COLOURS)], label=pair) for index, pair in enumerate(_pairs(rows))
    ]
    handles += [
        Line2D([], [], color="#777777", marker=_marker(precision), linestyle="none", label=precision)
        for precision in PRECISIONS
        if any(row.timing.precision == precision for row in rows)
    ]
    handles.append(Line2D([], [], color="#444444", linewidth=1, label="frontier"))
    handles.append(
        Line2D(
            [],
            [],
            color=_BUDGET,
            marker="o",
            markersize=11,
            markerfacecolor="none",
            linestyle="none",
            label="best within budget",
        )
    )
    axes.legend(handles=handles, fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)


def _labels(axes: Axes, rows: Sequence[FrontierRow], budget_ms: float) -> None:
    """Label the frontier's points, then the others; leave out labels that have no room."""
    from matplotlib.transforms import Bbox

    line = axes.transData.transform((budget_ms, 0))[0]
    # Points and the budget's line may not be written over either.
    taken = [Bbox.from_extents(line - 1, axes.bbox.y0, line + 1, axes.bbox.y1)]
    for row in rows:
        x, y = axes.transData.transform((_x(row), _y(row)))
        taken.append(Bbox.from_extents(x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS))
    for row in sorted(rows, key=lambda row: not row.on_frontier):
        text = f"{row.candidate} {row.timing.precision}"
        for offset in _PLACES:
            label = axes.annotate(
                text,
                (_x(row), _y(row)),
                xytext=offset,
                textcoords="offset points",
                fontsize=8 if row.on_frontier else 7,
                color="black" if row.on_frontier else "#777777",
                ha="left" if offset[0] > 0 else "right" if offset[0] < 0 else "center",
            )
            box = label.get_window_extent()
            inside = axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 and axes.bbox.y0 <= box.y0 <= axes.bbox.y1
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            label.remove()


def _pairs(rows: Sequence[FrontierRow]) -> list[str]:
    return sorted({row.candidate.pair for row in rows})


def _marker(precision: str) -> str:
    return _MARKERS[PRECISIONS.index(precision) % len(_MARKERS)]


def _x(row: FrontierRow) -> float:
    return row.timing.measured_ms or 0.0


def _y(row: FrontierRow) -> float:
    return 100 * row.scores.image_auroc
