"""Accuracy, latency and training of pairs in FP32 and INT8, as a table."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import mean, stdev
from textwrap import shorten
from typing import Any

from benchmarks.markdown import runtime_name, table, threads_text
from kdx.text import number_of

Row = dict[str, Any]
_VARIANTS = {"fp32": "FP32", "int8": "INT8 after training", "students": "INT8 students"}
_FIGURES = ("image_auroc", "pixel_auroc", "pro", "detection_rate", "false_reject_rate")
_HEADINGS = (
    "data set", "pair", "variant", "seeds", "epochs", "gate", "image AUROC", "pixel AUROC", "PRO", "detected",
    "false rejects", "differ", "drawn: AUROC / PRO",
)  # fmt: skip
# What INT8 students should reach: the most by which image AUROC and PRO may be below FP32, and the
# least share of the speed of the graph with every operation in INT8, in OpenVINO with one thread.
_MOST_LOST, _LEAST_SPEED = {"image_auroc": 0.003, "pro": 0.01}, 0.95
_LONGEST = 90


def accuracy_table(record: Row) -> list[str]:
    """Return a line for each variant of each pair, and which INT8 students miss their goal."""
    rows, found = record["found"].get("rows"), record["found"]
    if not rows:
        return [f"Not measured yet: `python -m benchmarks {record['benchmark']}` writes this table."]
    times = {
        (row["data"], row["pair"], row["precision"], row["backend"], row["threads"]): row["p50_ms"]
        for row in found.get("latency", [])
    }
    runs = [] if "ceiling" not in {key[2] for key in times} else list(dict.fromkeys(key[3:] for key in times))
    timed = [f"{runtime_name(name)}, {number_of(count, '[thread|threads]')}" for name, count in runs]
    lines, missed = [], []
    for data, about in record["data_sets"].items():
        for pair in record["pairs"]:
            mine = [row for row in rows if (row["data"], row["pair"]) == (data, pair)]
            # Seeds with other options have lines of their own.
            for options in {str(row["asked"]): row["asked"] for row in mine}.values():
                group = [row for row in mine if row["asked"] == options]
                lines += [[about["title"], f"`{pair}`", *cells] for cells in _lines(record, group, times, runs)]
                missed += _missed(group, times)
        if about["goals"] and any(row["data"] == data for row in rows):
            goals = (f"{100 * about['goals'][name]:g}" if name in about["goals"] else "" for name in _FIGURES)
            lines.append([about["title"], "goal", *[""] * 4, *goals, *[""] * (3 + len(runs))])
    headings = [*_HEADINGS, *timed, "training, minutes"]
    said = ["", f"{', '.join(sorted({threads_text(row) for row in rows}))}."]
    if trained := sum("students" in row["test"] for row in rows):
        result = f"These miss the goal: {'; '.join(missed)}" if missed else "As far as measured, none misses the goal"
        said[1] += f" {trained} of {len(rows)} trainings have INT8 students. {result}."
    return [*table(headings, lines, right=range(6, len(headings))), *said]


def _lines(record: Row, rows: list[Row], times: dict[Any, float | None], runs: list[Any]) -> Iterator[list[str]]:
    """Yield the cells of each variant that was measured; the rows differ in their seed."""
    epochs = " + ".join(str(count) for count in rows[0]["epochs"] if count)
    for variant in record["settings"]["precisions"]:
        known = [row for row in rows if variant in row["test"]]
        refused = [row["refused"][variant] for row in rows if variant in row["refused"]]
        if not known and not refused:
            continue
        gate = ["passed" if known and variant != "fp32" else ""]
        gate += ["refused: " + shorten(each.split(";")[0], _LONGEST, placeholder="…") for each in refused[:1]]
        kept = max((row["test"][variant].get("kept", 0) for row in known), default=0)
        gate[0] += f", {kept} in FP32" if kept else ""
        figures = [_compared(known, "test", name, variant) for name in _FIGURES]
        differ = [row["test"][variant]["differ"] for row in known if "differ" in row["test"][variant]]
        figures += [f"{mean(differ):g}" if differ and variant != "fp32" else ""]
        figures += [" / ".join(spread([row["drawn"][variant][name] for row in known]) for name in _MOST_LOST)]
        cost = [_time(times, rows[0], variant, run) for run in runs]
        yield [
            _VARIANTS[variant],
            str(len(known)),
            epochs,
            "; ".join(filter(None, gate)),
            *figures,
            *cost,
            _minutes(rows, variant),
        ]


def _compared(rows: list[Row], images: str, name: str, variant: str) -> str:
    """Return a figure with, for INT8, its difference from FP32 in points."""
    pairs = [(row[images][variant][name], row[images]["fp32"][name]) for row in rows]
    differences = [100 * (own - exact) for own, exact in pairs if own is not None]
    text = spread([own for own, _ in pairs])
    return text if variant == "fp32" or not differences else f"{text} ({mean(differences):+.1f})"


def _minutes(rows: list[Row], variant: str) -> str:
    """Return the minutes of a training, those of the epochs of teacher and students in brackets."""
    if variant == "int8":
        return ""
    seconds = [row["seconds"] for row in rows if variant != "students" or "quantize" in row["seconds"]]
    if variant == "students":
        return f"{mean(each['quantize'] for each in seconds) / 60:.1f}" if seconds else ""
    whole, *parts = (mean(each[part] for each in seconds) / 60 for part in ("whole", "teacher", "students"))
    return f"{whole:.1f} ({' + '.join(f'{part:.1f}' for part in parts if part)})"


def _time(times: dict[Any, float | None], row: Row, variant: str, run: Any) -> str:
    p50, least = (times.get((row["data"], row["pair"], each, *run)) for each in (variant, "ceiling"))
    return "–" if p50 is None or least is None else f"{p50:.2f} ({least / p50:.0%})"


def _missed(rows: list[Row], times: dict[Any, float | None]) -> Iterator[str]:
    """Say in what the INT8 students of some seeds miss the goal, in the mean."""
    known = [row["test"] for row in rows if "students" in row["test"]]
    faults = []
    for name, most in _MOST_LOST.items():
        lost = mean([each["fp32"][name] - each["students"][name] for each in known if each["fp32"][name]] or [0])
        faults += [f"{100 * lost:.1f} points of {'PRO' if name == 'pro' else 'image AUROC'}"] if lost > most else []
    p50, least = (
        times.get((rows[0]["data"], rows[0]["pair"], each, "openvino", 1)) for each in ("students", "ceiling")
    )
    if p50 and least and least / p50 < _LEAST_SPEED:
        faults.append(f"{least / p50:.0%} of the speed")
    if faults:
        yield f"`{rows[0]['pair']}` on {rows[0]['data']} ({', '.join(faults)})"


def spread(values: list[float | None]) -> str:
    """Return the mean in percent, with the standard deviation if there are several values."""
    known = [100 * value for value in values if value is not None]
    if not known:
        return "–"
    return f"{mean(known):.1f}" + (f" ± {stdev(known):.1f}" if len(known) > 1 else "")
