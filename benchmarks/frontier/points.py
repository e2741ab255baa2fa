"""The points of the frontier: what a detector reaches on a data set, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from benchmarks.results import Result, result_file

Row = dict[str, Any]
# The results that have kdx's own points, beside those of the frontier itself.
SOURCES = ("frontier", "compact", "accuracy")
VARIANTS = {"fp32": "FP32", "bf16": "BF16", "int8": "INT8", "students": "INT8 students"}


@dataclass(frozen=True)
class Point:
    """One detector in one precision on one data set, of which ``data`` is the title.

    ``rows`` are its trainings, which differ in their seed. ``time`` is its latency with one thread,
    in the runtime that is faster for it; empty if it was not timed. ``bytes`` is its graph's size.
    """

    data: str
    pair: str
    variant: str
    rows: list[Row]
    time: Row = field(default_factory=dict)
    bytes: int | None = None

    @property
    def is_kdx(self) -> bool:
        """Whether it is kdx's."""
        return "peer" not in self.rows[0]["asked"]

    @property
    def figures(self) -> list[Row]:
        """The figures on test images, of each seed; none where they would mean nothing."""
        return [row["test"][self.variant] for row in self.rows if self.variant in row["test"]]

    @property
    def auroc(self) -> float | None:
        """The mean image AUROC."""
        return mean(each["image_auroc"] for each in self.figures) if self.figures else None


def all_points(records: Sequence[Row] | None = None) -> list[Point]:
    """Return the points of some results, by default all that are there, most accurate first."""
    if records is None:
        files = [file for file in map(result_file, SOURCES) if file.is_file()]
        records = [Result.load(file).record for file in files]
    titles = {data: about["title"] for record in records for data, about in record["data_sets"].items()}
    points = [point for record in records for point in _points_of(record, titles)]
    order = list(titles.values())
    return sorted(points, key=lambda point: (order.index(point.data), -(point.auroc or 0), point.pair))


def frontier_of(points: Sequence[Point]) -> list[Point]:
    """Return the points than which no faster one is as accurate, fastest first."""
    best: list[Point] = []
    for point in sorted((each for each in points if each.time and each.auroc), key=lambda each: each.time["p50_ms"]):
        if not best or (point.auroc or 0) > (best[-1].auroc or 0):
            best.append(point)
    return best


def _points_of(record: Row, titles: dict[str, str]) -> Iterator[Point]:
    found = record["found"]
    times: dict[Any, Row] = {}
    for row in sorted(found.get("latency", []), key=lambda row: row["p50_ms"] or float("inf"), reverse=True):
        if row["threads"] == 1 and row["p50_ms"]:
            times[row["data"], row["pair"], row["precision"]] = row
    sizes = {(row["data"], row["pair"]): row["graph_bytes"] for row in found.get("sizes", [])}
    groups: dict[Any, list[Row]] = {}
    for row in found.get("rows", []):
        groups.setdefault((row["data"], row["pair"], str(row["asked"])), []).append(row)
    for (data, pair, _), rows in groups.items():
        for variant in VARIANTS:
            time = times.get((data, pair, variant), {})
            if time or any(variant in row["test"] for row in rows):
                size = sizes.get((data, pair), {}).get(variant)
                yield Point(titles[data], pair, variant, rows, time, size)
