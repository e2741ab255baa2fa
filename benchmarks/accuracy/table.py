"""Accuracy on real parts, as a table: the mean over seeds with their standard deviation."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import mean, stdev
from typing import Any

from benchmarks.markdown import table, threads_text

Row = dict[str, Any]
_FIGURES = ("image_auroc", "pixel_auroc", "pro", "detection_rate", "false_reject_rate")
_HEADINGS = (
    "data set", "pair", "seeds", "epochs", "images", "image AUROC", "pixel AUROC", "PRO", "detected", "false rejects",
    "INT8: image AUROC", "INT8: PRO", "training, minutes",
)  # fmt: skip
_SETS = {"test": "test", "drawn": "held out, drawn defects"}


def accuracy_table(record: Row) -> list[str]:
    """Return two lines for each data set and pair, and how they were measured."""
    rate, rows = record["settings"]["false_reject_rate"], record["found"].get("rows")
    if not rows:
        return [f"Not measured yet: `python -m benchmarks {record['benchmark']}` writes this table."]
    cpus = ", ".join(sorted({threads_text(row) for row in rows}))
    return [
        *table(_HEADINGS, _lines(record, rows), right=range(5, len(_HEADINGS))),
        "",
        "Percent; mean and standard deviation over the seeds. Drawn defects are patches, scars and blobs, which "
        "training never draws, on good images that were held out. Detected: at the threshold for "
        f"{100 * rate:g} % false rejects, which the held-out good images set; false rejects: of the good test images. "
        "Epochs: those of a compact teacher, and of the student. Training: from the folder to the calibrated bundle, "
        f"in brackets the epochs of teacher and student alone; {cpus}.",
    ]


def _lines(record: Row, rows: list[Row]) -> Iterator[list[str]]:
    for data, about in record["data_sets"].items():
        for pair in record["pairs"]:
            mine = [row for row in rows if (row["data"], row["pair"]) == (data, pair)]
            # Seeds with other options have lines of their own.
            for options in {str(row["asked"]): row["asked"] for row in mine}.values():
                yield from _pair_lines(about["title"], pair, [row for row in mine if row["asked"] == options])
        if about["goals"] and any(row["data"] == data for row in rows):
            goals = (f"{100 * about['goals'][name]:g}" if name in about["goals"] else "" for name in _FIGURES)
            yield [about["title"], "goal", "", "", _SETS["test"], *goals, "", "", ""]


def _pair_lines(title: str, pair: str, rows: list[Row]) -> Iterator[list[str]]:
    epochs = " + ".join(str(count) for count in rows[0]["epochs"] if count)
    for images, name in _SETS.items():
        figures = [spread([row[images]["fp32"][figure] for row in rows]) for figure in _FIGURES]
        if images == "drawn":
            figures[-1] = ""  # decided by the threshold, which was chosen on these images
        int8 = [row[images]["int8"] for row in rows if "int8" in row[images]]
        quantised = [spread([each[figure] for each in int8]) for figure in ("image_auroc", "pro")]
        if 0 < len(int8) < len(rows):
            quantised[0] += f" ({len(int8)} of {len(rows)} seeds)"
        whole, *parts = (mean(row["seconds"][part] for row in rows) / 60 for part in ("whole", "teacher", "students"))
        minutes = f"{whole:.1f} ({' + '.join(f'{part:.1f}' for part in parts if part)})"
        yield [title, f"`{pair}`", str(len(rows)), epochs, name, *figures, *quantised, minutes]


def spread(values: list[float | None]) -> str:
    """Return the mean in percent, with the standard deviation if there are several values."""
    known = [100 * value for value in values if value is not None]
    if not known:
        return "–"
    return f"{mean(known):.1f}" + (f" ± {stdev(known):.1f}" if len(known) > 1 else "")
