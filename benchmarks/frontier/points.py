"""The points of the frontier: what a detector reaches on a data set, and what it costs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from statistics import mean
from typing import Any

from benchmarks.results import Result, result_file

Row = dict[str, Any]
Training = tuple[str, str, str]
# The results that have kdx's own points, beside those of the frontier itself.
SOURCES = ("frontier", "compact", "accuracy")
VARIANTS = {"fp32": "FP32", "bf16": "BF16", "int8": "INT8", "students": "INT8 students"}


@dataclass(frozen=True)
class Point:
    """One detector in one precision on one data set, of which ``data`` is the title.

    ``rows`` are its trainings, which differ in their seed. ``time`` is its latency with one thread,
    in the runtime that gave its accuracy, or the faster one if it has none; empty if it was not
    timed. ``bytes`` is its graph's size.
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
    def machine(self) -> str:
        """Where it was timed: latency of another machine says nothing beside it."""
        return json.dumps(self.time.get("timed_on"), sort_keys=True)

    @property
    def auroc(self) -> float | None:
        """The mean image AUROC."""
        return self.mean_of("image_auroc")

    def mean_of(self, name: str) -> float | None:
        """Return the mean of a figure over the seeds; None where it is not defined."""
        known = [each[name] for each in self.figures if each[name] is not None]
        return mean(known) if known else None


def all_points(records: Sequence[Row] | None = None) -> list[Point]:
    """Return the points of some results, by default all that are there, most accurate first.

    A training that is in several results is one point, with all its seeds and the latency of the
    first result that has one: two results may come from two machines.
    """
    if records is None:
        files = [file for file in map(result_file, SOURCES) if file.is_file()]
        records = [Result.load(file).record for file in files]
    titles = {data: about["title"] for record in records for data, about in record["data_sets"].items()}
    found: dict[str, dict[Training, list[Row]]] = {"rows": {}, "latency": {}, "sizes": {}}
    for record, (part, known) in product(records, found.items()):
        drawn = [row for row in record["found"].get(part, []) if part != "latency" or row["threads"] == 1]
        for about, rows in _by_training(row for row in drawn if row.get("p50_ms", 1.0)).items():
            seeds = {row.get("seed") for row in known.get(about, [])}
            known.setdefault(about, []).extend(row for row in rows if row.get("seed") not in seeds)
    order = list(titles.values())
    return sorted(_points_of(found, titles), key=lambda each: (order.index(each.data), -(each.auroc or 0), each.pair))


def frontier_of(points: Sequence[Point]) -> list[Point]:
    """Return the points of one machine than which no faster one is as accurate, fastest first."""
    best: list[Point] = []
    for point in sorted((each for each in points if each.time and each.auroc), key=lambda each: each.time["p50_ms"]):
        if not best or (point.auroc or 0) > (best[-1].auroc or 0):
            best.append(point)
    return best


def _points_of(found: dict[str, dict[Training, list[Row]]], titles: dict[str, str]) -> Iterator[Point]:
    for about, rows in found["rows"].items():
        sizes, timed = (found[part].get(about, []) for part in ("sizes", "latency"))
        size = {variant: size for row in sizes for variant, size in row["graph_bytes"].items()}
        for variant in VARIANTS:
            judged = [row["test"][variant].get("backend", "openvino") for row in rows if variant in row["test"]]
            mine = [row for row in timed if row["precision"] == variant]
            mine = [row for row in mine if not judged or row["backend"] in judged]
            if mine or judged:
                time = min(mine, key=lambda row: row["p50_ms"], default={})
                yield Point(titles[rows[0]["data"]], rows[0]["pair"], variant, rows, time, size.get(variant))


def _by_training(rows: Iterable[Row]) -> dict[Training, list[Row]]:
    """Group rows by their training; that of other options is another one."""
    groups: dict[Training, list[Row]] = {}
    for row in rows:
        groups.setdefault(training_of(row), []).append(row)
    return groups


def training_of(row: Row) -> Training:
    """Return data set, pair and options, STPM being the method where none is named."""
    return row["data"], row["pair"], json.dumps({"method": "stpm", **row.get("asked", {})}, sort_keys=True)
