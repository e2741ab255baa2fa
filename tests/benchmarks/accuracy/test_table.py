"""Accuracy on real parts, as a table."""

from __future__ import annotations

from typing import Any

from benchmarks.accuracy.table import accuracy_table

FIGURES = {"image_auroc": 0.9, "pixel_auroc": None, "pro": None, "false_reject_rate": 0.02, "detection_rate": 0.5}


def row(seed: int, auroc: float, epochs: int = 60) -> dict[str, Any]:
    exact = {**FIGURES, "image_auroc": auroc}
    int8 = {**exact, "image_auroc": auroc - 0.01, "differ": 3, "kept": 2}
    students = {**exact, "image_auroc": auroc - 0.002, "differ": 1, "kept": 0}
    return {
        "data": "cells", "pair": "small", "seed": seed, "asked": {"epochs": epochs}, "epochs": [12, epochs],
        "test": {"fp32": exact, "int8": int8, "students": students},
        "drawn": {"fp32": FIGURES, "int8": FIGURES, "students": FIGURES}, "refused": {},
        "seconds": {"teacher": 60.0, "students": 120.0, "whole": 240.0, "quantize": 90.0}, "cpu": "A CPU", "threads": 2,
    }  # fmt: skip


def record(*rows: dict[str, Any], latency: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    return {
        "benchmark": "compact",
        "settings": {"precisions": ["fp32", "int8", "students"]},
        "data_sets": {"cells": {"title": "Cells", "goals": {"image_auroc": 0.955}}},
        "pairs": ["large", "small"],
        "found": {"rows": list(rows), "latency": list(latency)},
    }


def timed(precision: str, p50: float) -> dict[str, Any]:
    return {
        "data": "cells", "pair": "small", "precision": precision, "backend": "openvino", "threads": 1, "p50_ms": p50
    }  # fmt: skip


def test_mean_and_spread_over_the_seeds_stand_beside_the_goal() -> None:
    lines = accuracy_table(record(row(0, 0.9), row(1, 0.94)))
    assert lines[2:6] == [
        "| Cells | `small` | FP32 | 2 | 12 + 60 |  | 92.0 ± 2.8 | – | – | 50.0 ± 0.0 | 2.0 ± 0.0 |  | 90.0 ± 0.0 / – "
        "| 4.0 (1.0 + 2.0) |",
        "| Cells | `small` | INT8 after training | 2 | 12 + 60 | passed, 2 in FP32 | 91.0 ± 2.8 (-1.0) | – | – "
        "| 50.0 ± 0.0 (+0.0) | 2.0 ± 0.0 (+0.0) | 3 | 90.0 ± 0.0 / – |  |",
        "| Cells | `small` | INT8 students | 2 | 12 + 60 | passed | 91.8 ± 2.8 (-0.2) | – | – | 50.0 ± 0.0 (+0.0) "
        "| 2.0 ± 0.0 (+0.0) | 1 | 90.0 ± 0.0 / – | 1.5 |",
        "| Cells | goal |  |  |  |  | 95.5 |  |  |  |  |  |  |  |",
    ]
    assert lines[-1].startswith("2 threads of A CPU. 2 of 2 trainings have INT8 students. ")
    assert lines[-1].endswith("As far as measured, none misses the goal.")


def test_latency_stands_beside_its_share_of_the_speed_with_everything_in_int8() -> None:
    latency = (timed("fp32", 9.0), timed("int8", 4.0), timed("students", 3.2), timed("ceiling", 3.0))
    lines = accuracy_table(record(row(0, 0.9), latency=latency))
    assert lines[0].endswith("| OpenVINO, 1 thread | training, minutes |")
    assert [line.split(" | ")[-2] for line in lines[2:5]] == ["9.00 (33%)", "4.00 (75%)", "3.20 (94%)"]
    assert lines[-1].endswith("These miss the goal: `small` on cells (94% of the speed).")


def test_students_that_are_worse_miss_the_goal() -> None:
    worse = row(0, 0.9)
    worse["test"]["students"]["image_auroc"] = 0.89
    assert "`small` on cells (1.0 points of image AUROC)" in accuracy_table(record(worse))[-1]


def test_seeds_with_other_options_have_lines_of_their_own() -> None:
    lines = accuracy_table(record(row(0, 0.9), row(1, 0.94, epochs=30)))
    assert [line.split(" | ")[3:5] for line in lines[2:8]] == [["1", "12 + 60"]] * 3 + [["1", "12 + 30"]] * 3


def test_what_the_gate_refused_says_why_and_what_is_not_measured_has_no_line() -> None:
    refused = row(0, 0.7)
    del refused["test"]["int8"], refused["test"]["students"]
    refused["refused"] = {"int8": "openvino: a golden map moved by 60% of its range; another reason"}
    lines = accuracy_table(record(refused))
    assert "| refused: openvino: a golden map moved by 60% of its range | – |" in lines[3]
    assert lines[4].startswith("| Cells | goal |")


def test_without_rows_nothing_is_claimed() -> None:
    assert accuracy_table(record()) == ["Not measured yet: `python -m benchmarks compact` writes this table."]
