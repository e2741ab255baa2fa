"""The points of the frontier, their table and their picture."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.commands import ROOT
from benchmarks.frontier.points import Point, all_points, frontier_of, training_of
from benchmarks.frontier.table import frontier_table

FIGURES = {
    "good": 100, "defective": 50, "image_auroc": 0.9, "pixel_auroc": None, "pro": None, "false_reject_rate": 0.02,
    "detection_rate": 0.5,
}  # fmt: skip
MACHINE = {"cpu": "A CPU", "features": ["avx2"], "system": "Linux 6", "versions": {"openvino": "2026.4"}}


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
        "p99_ms": 9.0, "load_ms": 1234.0, "peak_memory_mb": 99.6, "timed_on": MACHINE,
        "asked": {} if pair == "small" else {"peer": "anomalib"},
    }  # fmt: skip


def record(rows: list[dict[str, Any]], latency: list[dict[str, Any]] = []) -> dict[str, Any]:  # noqa: B006
    sizes = [{"data": "cells", "pair": "small", "asked": {}, "graph_bytes": {"fp32": 4_300_000}}]
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


def test_a_point_has_the_latency_of_the_runtime_that_was_judged_with_one_thread(points: list[Point]) -> None:
    small = next(point for point in points if point.pair == "small")
    assert (small.time["p50_ms"], small.time["backend"], small.bytes) == (4.0, "openvino", 4_300_000)
    judged = row("small", 0.9)
    judged["test"]["fp32"]["backend"] = "onnxruntime-cpu"
    latency = [timed("small", "fp32", 4.0), timed("small", "fp32", 5.0, "onnxruntime-cpu")]
    assert all_points([record([judged], latency)])[0].time["p50_ms"] == 5.0


def test_latency_and_size_belong_to_the_options_they_were_measured_with(points: list[Point]) -> None:
    other = [point for point in points if point.pair == "small" and point.rows[0]["asked"]]
    assert [(point.variant, point.time, point.bytes) for point in other] == [("fp32", {}, None), ("int8", {}, None)]


def test_a_training_of_two_results_is_one_point_with_the_first_latency() -> None:
    unusable = [timed("small", "fp32", 1.0, threads=2), timed("small", "fp32", None)]
    first = record([row("small", 0.94)], unusable)
    second = record([row("small", 0.9), row("small", 0.96, 1)], [timed("small", "fp32", 1.0)])
    assert all_points([first, second])[0].time["p50_ms"] == 1.0
    first = record([row("small", 0.94)], [*unusable, timed("small", "fp32", 4.0)])
    point = all_points([first, second])[0]
    assert [each["image_auroc"] for each in point.figures] == [0.94, 0.96]
    assert (point.time["p50_ms"], point.bytes) == (4.0, 4_300_000)


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
        "Accuracy and training: 2 threads of A CPU. Latency of `anomalib-padim`, `anomalib-random`, `small`: A CPU "
        "with avx2 (openvino 2026.4), Linux 6. 3 of 7 lines have no latency yet.",
        "Without: `anomalib-random` FP32 on cells (random weights).",
        "",
        "![Cells](../benchmarks/results/frontier_cells.png)",
    ]


def test_goals_and_who_meets_them_are_said() -> None:
    exact = row("small", 0.94)
    exact["test"]["students"] = {**FIGURES, "image_auroc": 0.936}
    given = record([exact, row("large", 0.96)])
    given["data_sets"]["cells"]["goals"] = {"image_auroc": 0.95, "pro": 0.7}
    lines = frontier_table(given, all_points([given]))
    assert (
        "Goals, in the mean of the seeds, are met by the pairs named and by no other: image AUROC 95 on Cells by "
        "`large` FP32, `large` INT8; PRO 70 on Cells by none."
    ) in lines
    assert (
        "INT8 students may lose 0.3 points of image AUROC and 1 of PRO against FP32. Of 1 that were trained, these "
        "lose more: `small` on Cells (0.40 of image AUROC)."
    ) in lines


def test_what_a_cpu_cannot_run_is_said_with_the_cpu() -> None:
    unable = {"bf16": {"reason": "no BF16", "on": {"cpu": "A CPU", "features": ["avx2"]}}}
    given = record([{**row("small", 0.94), "unable": unable}])
    assert "Without: `small` BF16 on cells (no BF16 on A CPU with avx2)." in frontier_table(given, all_points([given]))


def test_the_text_below_the_table_says_what_the_results_do_not() -> None:
    page = " ".join((ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8").split())
    below = page.split("<!-- table frontier -->")[1].split("<!-- end -->")[1].split("## Compact pairs")[0]
    points, twice = all_points(), {}
    for point in points:
        twice.setdefault(training_of({**point.rows[0], "pair": ""}), set()).add(point.pair)
        if "scored-by" in point.rows[0]["asked"].get("method_options", {}):  # chosen on test images
            assert "`scored-by = deepest-squared`" in below
            assert f"`{point.pair}`" in below
    assert [pairs for pairs in twice.values() if len(pairs) > 1]
    for pairs in twice.values():
        assert (
            len(pairs) == 1 or {pair for pair in pairs if f"`{pair}`" in below.split("The same training")[1]} == pairs
        )


def test_latency_of_two_machines_is_neither_joined_nor_drawn_together(tmp_path: Path, monkeypatch) -> None:
    from benchmarks.frontier import plot

    drawn: list[list[str]] = []
    monkeypatch.setattr(plot, "_plot", lambda some, path: drawn.append([each.pair for each in some]))
    elsewhere = {**timed("small", "fp32", 1.0), "timed_on": {**MACHINE, "features": ["avx2", "avx512_vnni"]}}
    rows = [row("anomalib-padim", 0.95, peer="anomalib"), row("small", 0.94)]
    apart = all_points([record(rows, [timed("anomalib-padim", "fp32", 20.0), elsewhere])])
    plot.plot_frontiers(apart, tmp_path)
    assert not drawn
    text = " ".join(frontier_table({}, apart))
    assert "Latency of `small`: A CPU with avx2, avx512_vnni (openvino 2026.4)" in text
    assert "Latency of `anomalib-padim`: A CPU with avx2 (openvino 2026.4)" in text
    latency = [timed("anomalib-padim", "fp32", 20.0), timed("small", "int8", 2.0), elsewhere]
    plot.plot_frontiers(all_points([record(rows, latency)]), tmp_path)
    assert drawn == [["anomalib-padim", "small"]]


def test_points_that_are_timed_are_drawn(points: list[Point], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'kdx[fit]'")
    from benchmarks.frontier.plot import plot_frontiers

    plot_frontiers([point for point in points if not point.time or point.is_kdx], tmp_path)
    assert not list(tmp_path.iterdir())
    (padim,) = (each for each in points if each.pair == "anomalib-padim" and each.time)
    also_int8 = replace(padim, variant="int8", rows=[{**padim.rows[0], "test": {"int8": padim.figures[0]}}])
    plot_frontiers([*points, also_int8], tmp_path)
    png = (tmp_path / "frontier_cells.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert min(struct.unpack(">II", png[16:24])) > 150
    svg = (tmp_path / "frontier_cells.svg").read_text(encoding="utf-8")
    assert svg.rstrip().endswith("</svg>")
    assert svg.count("<!-- anomalib-padim -->") == 1
