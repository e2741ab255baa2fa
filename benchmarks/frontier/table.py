"""What every detector reaches and costs, as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import mean, stdev
from textwrap import shorten
from typing import Any

from benchmarks.commands import RESULTS
from benchmarks.frontier.points import VARIANTS, Point, all_points
from benchmarks.markdown import runtime_name, table, threads_text
from kdx.calibration.rates import share_interval

Row = dict[str, Any]
_HEADINGS = (
    "data set", "detector", "precision", "seeds", "image AUROC", "pixel AUROC", "PRO", "detected", "false rejects",
    "drawn: AUROC / PRO", "p50 ms", "p99 ms", "first verdict s", "peak MB", "disk MB", "training, minutes",
)  # fmt: skip
_SHARES = {"detection_rate": "defective", "false_reject_rate": "good"}
_LONGEST = 90


def frontier_table(_: Row, points: Sequence[Point] | None = None) -> list[str]:
    """Return a line for each point, how they were measured, and what was refused."""
    points = all_points() if points is None else points
    rows = [row for point in points for row in point.rows]
    told = f"Accuracy and training: {', '.join(sorted({threads_text(row) for row in rows}))}."
    if untimed := [point for point in points if not point.time]:
        told += f" {len(untimed)} of {len(points)} lines have no latency yet."
    lines = table(_HEADINGS, map(_cells, points), right=range(4, len(_HEADINGS)))
    drawn = {point.data: f"frontier_{point.rows[0]['data']}.png" for point in points}
    figures = [f"![{data}](../benchmarks/results/{name})" for data, name in drawn.items() if (RESULTS / name).is_file()]
    return [*lines, "", told, *_refused(rows), *(line for figure in figures for line in ("", figure))]


def spread(values: Sequence[float | None]) -> str:
    """Return the mean in percent, with the standard deviation if there are several values."""
    known = [100 * value for value in values if value is not None]
    if not known:
        return "–"
    return f"{mean(known):.1f}" + (f" ± {stdev(known):.1f}" if len(known) > 1 else "")


def _cells(point: Point) -> list[str]:
    figures, time = point.figures, point.time
    drawn = [row["drawn"][point.variant] for row in point.rows if point.variant in row["drawn"]]
    kept = max((each.get("kept", 0) for each in figures), default=0)
    return [
        point.data,
        f"`{point.pair}`",
        VARIANTS[point.variant] + (f", {kept} operations in FP32" if kept else ""),
        str(len(figures) or "timed alone"),
        *(spread([each[name] for each in figures]) for name in ("image_auroc", "pixel_auroc", "pro")),
        *(_share(figures, name) for name in _SHARES),
        " / ".join(spread([each[name] for each in drawn]) for name in ("image_auroc", "pro")) if drawn else "–",
        f"{time['p50_ms']:.2f} ({runtime_name(time['backend'])})" if time else "–",
        f"{time['p99_ms']:.2f}" if time else "–",
        f"{time['load_ms'] / 1e3:.1f}" if time else "–",
        f"{time['peak_memory_mb']:.0f}" if time else "–",
        "–" if point.bytes is None else f"{point.bytes / 1e6:.1f}",
        _minutes(point),
    ]


def _share(figures: Sequence[Row], name: str) -> str:
    """Return a share of the test images, of a single seed with its 95 % interval."""
    text = spread([each[name] for each in figures])
    if len(figures) != 1 or figures[0][name] is None:
        return text
    count = figures[0][_SHARES[name]]
    low, high = share_interval(round(figures[0][name] * count), count)
    return f"{text} ({100 * low:.1f}–{100 * high:.1f})"


def _minutes(point: Point) -> str:
    """Return the minutes from the folder to what is deployed, of INT8 students those they add."""
    name = {"fp32": "whole", "students": "quantize"}.get(point.variant, "")
    known = [row["seconds"][name] / 60 for row in point.rows if name in row["seconds"]]
    return f"{mean(known):.1f}" if known else ""


def _refused(rows: Sequence[Row]) -> Iterator[str]:
    """Say which precisions there are not, each reason once."""
    said: dict[str, list[str]] = {}
    for row in rows:
        for variant, reason in row["refused"].items():
            why = shorten(reason.split(";")[0].replace("|", "/"), _LONGEST, placeholder="…")
            name = f"`{row['pair']}` {VARIANTS[variant]} on {row['data']}"
            if name not in said.setdefault(why, []):
                said[why].append(name)
    if said:
        parts = (f"{', '.join(names)} ({why})" for why, names in said.items())
        yield f"Without: {'; '.join(parts)}."
