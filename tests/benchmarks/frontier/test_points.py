"""The points of the frontier, their table and their picture."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from benchmarks.frontier.points import Point, all_points, frontier_of
from benchmarks.frontier.table import frontier_table

FIGURES = {
    "good": 100, "defective": 50, "image_auroc": 0.9, "pixel_auroc": None, "pro": None, "false_reject_rate": 0.02,
    "detection_rate": 0.5,
}  # fmt: skip


def row(pair: str, auroc: float, seed: int = 0, **asked: Any) -> dict[str, Any]:
    exact = {**FIGURES, "image_auroc": auroc}
    return {
        "data": "cells", "pair": pair, "seed": seed, "asked": asked, "epochs": [12, 60], "cpu": "A CPU", "threads": 2,
        "test": {"fp32": exact, "int8": {**exact, "image_auroc": auroc - 0.01, "kept": 2}},
        "drawn": {"fp32": FIGURES}, "refused": {}, "seconds": {"whole": 240.0},
    }  # fmt: skip


def timed(pair: str, precision: str, p50: float | None, backend: str = "openvino", threads: int = 1) -> dict[str, Any]:
    return {
        "data": "cells", "pair": pair, "precision": precision, "backend": backend, "threads": threads, "p50_ms": p50,
        "p99_ms": 9.0, "load_ms": 1234.0, "peak_memory_mb": 99.6,
    }  # fmt: skip


def record(rows: list[dict[str, Any]], latency: list[dict[str, Any]] = []) -> dict[str, Any]:  # noqa: B006
    sizes = [{"data": "cells", "pair": "small", "graph_bytes": {"fp32": 4_300_000}}]
    return {"data_sets": {"cells": {"title": "Cells"}}, "found": {"rows": rows, "latency": latency, "sizes": sizes}}


@pytest.fixture
def points() -> list[Point]:
    latency = [
        timed("small", "fp32", 4.0), timed("small", "fp32", 3.0, "onnxruntime-cpu"),
        timed("small", "fp32", 1.0, threads=2), timed("small", "int8", 1.5), timed("anomalib-padim", "fp32", 20.0),
        timed("anomalib-random", "fp32", 2.0), timed("anomalib-padim", "int8", None),
    ]  # fmt: skip
    random = {**row("anomalib-random", 0.9, peer="anomalib"), "test": {}, "refused": {"fp32": "random weights; more"}}
    peers = record([row("anomalib-padim", 0.95, peer="anomalib"), random], latency)
    return all_points(
        [peers, record([row("small", 0.94), row("small", 0.96, 1), row("small", 0.8, epochs=9)], latency)]
    )


def test_seeds_are_one_point_and_other_options_are_another(points: list[Point]) -> None:
    found = [(point.pair, point.variant, len(point.rows), point.is_kdx) for point in points]
    assert found == [
        ("anomalib-padim", "fp32", 1, False),
        ("small", "fp32", 2, True),
        ("anomalib-padim", "int8", 1, False),
        ("small", "int8", 2, True),
        ("small", "fp32", 1, True),
        ("small", "int8", 1, True),
        ("anomalib-random", "fp32", 1, False),
    ]


def test_a_point_has_the_latency_of_its_faster_runtime_with_one_thread(points: list[Point]) -> None:
    small = next(point for point in points if point.pair == "small")
    assert (small.time["p50_ms"], small.time["backend"], small.bytes) == (3.0, "onnxruntime-cpu", 4_300_000)


def test_no_point_of_the_frontier_is_slower_and_less_accurate_than_another(points: list[Point]) -> None:
    best = frontier_of(points)
    assert [(point.pair, point.variant) for point in best] == [("small", "int8"), ("small", "fp32")]
    assert [point.auroc for point in best] == pytest.approx([0.94, 0.95])


def test_the_table_has_intervals_of_one_seed_and_the_spread_of_several(
    points: list[Point], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.frontier.table.RESULTS", tmp_path)
    (tmp_path / "frontier_cells.png").touch()
    lines = frontier_table({}, points)
    assert lines[2] == (
        "| Cells | `anomalib-padim` | FP32 | 1 | 95.0 | – | – | 50.0 (35.5–64.5) | 2.0 (0.2–7.0) | 90.0 / – "
        "| 20.00 (OpenVINO) | 9.00 | 1.2 | 100 | – | 4.0 |"
    )
    assert "| `small` | FP32 | 2 | 95.0 ± 1.4 | – | – | 50.0 ± 0.0 | 2.0 ± 0.0 |" in lines[3]
    assert "| INT8, 2 operations in FP32 | 1 | 94.0 |" in lines[4]
    assert "| `anomalib-random` | FP32 | timed alone | – |" in lines[8]
    assert {line.count("|") for line in lines if line.startswith("|")} == {17}
    assert lines[-4:] == [
        "Accuracy and training: 2 threads of A CPU. 1 of 7 lines have no latency yet.",
        "Without: `anomalib-random` FP32 on cells (random weights).",
        "",
        "![Cells](../benchmarks/results/frontier_cells.png)",
    ]


def test_points_that_are_timed_are_drawn(points: list[Point], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'kdx[fit]'")
    from benchmarks.frontier.plot import plot_frontiers

    plot_frontiers([point for point in points if not point.time or point.is_kdx], tmp_path)
    assert not list(tmp_path.iterdir())
    plot_frontiers(points, tmp_path)
    png = (tmp_path / "frontier_cells.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert min(struct.unpack(">II", png[16:24])) > 150
    assert (tmp_path / "frontier_cells.svg").read_text(encoding="utf-8").rstrip().endswith("</svg>")
