"""Accuracy on real parts, as a table."""

from __future__ import annotations

from typing import Any

from benchmarks.accuracy.table import accuracy_table

FIGURES = {"image_auroc": 0.9, "pixel_auroc": None, "pro": None, "false_reject_rate": 0.02, "detection_rate": 0.5}


def row(seed: int, auroc: float, epochs: int = 60) -> dict[str, Any]:
    test = {"fp32": {**FIGURES, "image_auroc": auroc}, "int8": {**FIGURES, "image_auroc": auroc - 0.01}}
    return {
        "data": "cells", "pair": "small", "seed": seed, "asked": {"epochs": epochs}, "epochs": [12, epochs],
        "test": test, "drawn": {"fp32": FIGURES}, "seconds": {"teacher": 60.0, "students": 120.0, "whole": 240.0},
        "cpu": "A CPU", "threads": 2,
    }  # fmt: skip


def record(*rows: dict[str, Any]) -> dict[str, Any]:
    return {
        "benchmark": "compact",
        "settings": {"false_reject_rate": 0.01},
        "data_sets": {"cells": {"title": "Cells", "goals": {"image_auroc": 0.955}}},
        "pairs": ["large", "small"],
        "found": {"rows": list(rows)},
    }


def test_mean_and_spread_over_the_seeds_stand_beside_the_goal() -> None:
    lines = accuracy_table(record(row(0, 0.9), row(1, 0.94)))
    assert lines[2:5] == [
        "| Cells | `small` | 2 | 12 + 60 | test | 92.0 ± 2.8 | – | – | 50.0 ± 0.0 | 2.0 ± 0.0 | 91.0 ± 2.8 | – "
        "| 4.0 (1.0 + 2.0) |",
        "| Cells | `small` | 2 | 12 + 60 | held out, drawn defects | 90.0 ± 0.0 | – | – | 50.0 ± 0.0 |  | – | – "
        "| 4.0 (1.0 + 2.0) |",
        "| Cells | goal |  |  | test | 95.5 |  |  |  |  |  |  |  |",
    ]
    assert "1 % false rejects" in lines[-1]
    assert "2 threads of A CPU" in lines[-1]


def test_seeds_with_other_options_have_lines_of_their_own() -> None:
    lines = accuracy_table(record(row(0, 0.9), row(1, 0.94, epochs=30)))
    assert [line.split(" | ")[2:4] for line in lines[2:6]] == [["1", "12 + 60"]] * 2 + [["1", "12 + 30"]] * 2


def test_a_mean_over_fewer_seeds_says_so() -> None:
    refused = row(1, 0.7)
    del refused["test"]["int8"]
    lines = accuracy_table(record(row(0, 0.9), refused))
    assert "| 89.0 (1 of 2 seeds) |" in lines[2]


def test_without_rows_nothing_is_claimed() -> None:
    assert accuracy_table(record()) == ["Not measured yet: `python -m benchmarks compact` writes this table."]
