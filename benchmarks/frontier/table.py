"""What every detector reaches and costs, as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from statistics import mean, stdev
from textwrap import shorten
from typing import Any

from benchmarks.commands import RESULTS
from benchmarks.frontier.points import VARIANTS, Point, all_points
from benchmarks.markdown import machine_text, runtime_name, table, threads_text
from kdx.calibration.rates import share_interval

Row = dict[str, Any]
_HEADINGS = (
    "data set", "detector", "precision", "seeds", "image AUROC", "pixel AUROC", "PRO", "detected", "false rejects",
    "drawn: AUROC / PRO", "p50 ms", "p99 ms", "first verdict s", "peak MB", "disk MB", "training, minutes",
)  # fmt: skip
_SHARES = {"detection_rate": "defective", "false_reject_rate": "good"}
_LONGEST = 90
_GOALS = {"image_auroc": "image AUROC", "pro": "PRO", "detection_rate": "detected"}
# So much may INT8 students lose against FP32, as a share.
_MOST_LOST = {"image_auroc": 0.003, "pro": 0.01}


def frontier_table(record: Row, points: Sequence[Point] | None = None) -> list[str]:
    """Return a line for each point, how they were measured, a record's goals, what is missing."""
    points = all_points() if points is None else points
    rows = [row for point in points for row in point.rows]
    others = [figures["on"] for row in rows for figures in row["test"].values() if "on" in figures]
    told = f"Accuracy and training: {', '.join(sorted({threads_text(where) for where in [*rows, *others]}))}."
    for machine in dict.fromkeys(point.machine for point in points if point.time):
        some = [point for point in points if point.machine == machine]
        pairs, where = ", ".join(sorted({f"`{point.pair}`" for point in some})), some[0].time["timed_on"]
        text = machine_text({"machine": where}, "onnxruntime", "openvino")
        features = "" if "features" in where else "; the CPU's features were not recorded"
        told += f" Latency of {pairs}: {text}, {where['system']}{features}."
    if untimed := [point for point in points if not point.time]:
        told += f" {len(untimed)} of {len(points)} lines have no latency yet."
    lines = table(_HEADINGS, map(_cells, points), right=range(4, len(_HEADINGS)))
    drawn = {point.data: f"frontier_{point.rows[0]['data']}.png" for point in points}
    figures = [f"![{data}](../benchmarks/results/{name})" for data, name in drawn.items() if (RESULTS / name).is_file()]
    said = [told, *_goals(record, points), *_students(points), *_refused(rows)]
    return [*lines, "", *said, *(line for figure in figures for line in ("", figure))]


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
        point.data, f"`{point.pair}`", VARIANTS[point.variant] + (f", {kept} operations in FP32" if kept else ""),
        str(len(figures) or "timed alone"),
        *(spread([each[name] for each in figures]) for name in ("image_auroc", "pixel_auroc", "pro")),
        *(_share(figures, name) for name in _SHARES),
        " / ".join(spread([each[name] for each in drawn]) for name in ("image_auroc", "pro")) if drawn else "–",
        f"{time['p50_ms']:.2f} ({runtime_name(time['backend'])})" if time else "–",
        f"{time['p99_ms']:.2f}" if time else "–", f"{time['load_ms'] / 1e3:.1f}" if time else "–",
        f"{time['peak_memory_mb']:.0f}" if time else "–",
        "–" if point.bytes is None else f"{point.bytes / 1e6:.1f}", _minutes(point),
    ]  # fmt: skip


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


def _goals(record: Row, points: Sequence[Point]) -> Iterator[str]:
    """Say what meets each goal."""
    said = []
    for data, about in record.get("data_sets", {}).items():
        for name, goal in about.get("goals", {}).items():
            met = [each for each in points if each.rows[0]["data"] == data and (each.mean_of(name) or 0) >= goal]
            by = ", ".join(f"`{each.pair}` {VARIANTS[each.variant]}" for each in met) or "none"
            said.append(f"{_GOALS[name]} {100 * goal:g} on {about['title']} by {by}")
    if said:
        yield f"Goals, in the mean of the seeds, are met by the pairs named and by no other: {'; '.join(said)}."


def _students(points: Sequence[Point]) -> Iterator[str]:
    """Say which INT8 students lose more against FP32 than they may."""
    missed, trained = [], [each for each in points if each.variant == "students"]
    for point, (name, most) in product(trained, _MOST_LOST.items()):
        known = [row["test"] for row in point.rows if "students" in row["test"] and row["test"]["fp32"][name]]
        lost = mean(each["fp32"][name] - each["students"][name] for each in known) if known else 0
        missed += [f"`{point.pair}` on {point.data} ({100 * lost:.2f} of {_GOALS[name]})"] * (lost > most)
    if trained:
        said = f"Of {len(trained)} that were trained, these lose more: {', '.join(missed) or 'none'}"
        yield f"INT8 students may lose 0.3 points of image AUROC and 1 of PRO against FP32. {said}."


def _refused(rows: Sequence[Row]) -> Iterator[str]:
    """Say which precisions there are not, each reason once."""
    said: dict[str, list[str]] = {}
    for row in rows:
        reasons = {name: (reason, "") for name, reason in row["refused"].items()}
        unable = row.get("unable", {}).items()
        reasons |= {name: (why["reason"], f" on {threads_text(why['on'])}") for name, why in unable}
        for variant, (reason, where) in reasons.items():
            why = shorten(reason.split(";")[0].replace("|", "/"), _LONGEST, placeholder="…") + where
            name = f"`{row['pair']}` {VARIANTS[variant]} on {row['data']}"
            if name not in said.setdefault(why, []):
                said[why].append(name)
    if said:
        parts = (f"{', '.join(names)} ({why})" for why, names in said.items())
        yield f"Without: {'; '.join(parts)}."
