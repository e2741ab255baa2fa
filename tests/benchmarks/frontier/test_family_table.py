"""What compact pairs cost and reach, as a table."""

from __future__ import annotations

from benchmarks.frontier.family_table import family_table


def test_times_are_compared_with_the_leader_in_fp32_in_the_same_run() -> None:
    machine = {"cpu": "A CPU", "features": ["avx2"], "versions": {"openvino": "2026.4"}}

    def latency(pair: str, precision: str, threads: int, p50: float | None) -> dict[str, object]:
        about = {"data": "tiles", "pair": pair, "precision": precision, "backend": "openvino", "threads": threads}
        return {**about, "p50_ms": p50, "calls": 300, "timed_on": machine}

    facts = {"parameters": 490_000, "bundle_bytes": 6_300_000, "images": [160, 160]}
    large = {**facts, "graph_bytes": {"fp32": 18e6}, "memory_mb": {"fp32": 80.0}}
    small = {**facts, "graph_bytes": {"fp32": 4e6, "int8": 1e6}, "memory_mb": {"fp32": 20.0, "int8": 15.4}}
    times = [latency("leader", "fp32", 1, 9.0), latency("leader", "fp32", 2, 8.0), latency("small", "fp32", 1, 3.0)]
    times += [latency("small", "fp32", 2, None), latency("small", "int8", 1, 1.5), latency("small", "int8", 2, 1.6)]
    sizes = [
        {"data": "tiles", "pair": "leader", **large},
        {"data": "tiles", "pair": "small", **small},
    ]
    elsewhere = {**latency("small", "fp32", 2, 1.0), "timed_on": {**machine, "features": []}}
    timed = {"sizes": sizes, "latency": [elsewhere, *times]}
    rows = [
        _tested("tiles", "small", 0.90, 0.6),
        _tested("tiles", "small", 0.96, 0.8),
        _tested("cells", "small", 0.5, None),
    ]
    rows.append({"data": "tiles", "pair": "leader", "asked": {}, "test": {"fp32": {"image_auroc": 0.7, "pro": 0.4}}})
    sets = {"tiles": {"title": "Tiles"}, "cells": {"title": "Cells"}}
    lines = family_table({"found": {**timed, "rows": rows}, "data_sets": sets})
    assert lines[0] == (
        "| pair | precision | parameters | graph | memory | OpenVINO, 1 thread | OpenVINO, 2 threads | Tiles | Cells |"
    )
    assert lines[2:6] == [
        "| `leader` | FP32 | 0.49 M | 18.0 MB | 80 MB | 9.00 (1.0×) | 8.00 (1.0×) | 70.0 / 40.0 | – |",
        "| `leader` | INT8: none |  |  |  | – | – | – | – |",
        "| `small` | FP32 | 0.49 M | 4.0 MB | 20 MB | 3.00 (3.0×) | – | 93.0 ± 4.2 / 70.0 ± 14.1 | 50.0 |",
        "| `small` | INT8 | 0.49 M | 1.0 MB | 15 MB | 1.50 (6.0×) | 1.60 (5.0×) | 93.0 ± 4.2 / 70.0 ± 14.1 | 50.0 |",
    ]
    assert "A CPU with avx2 (openvino 2026.4), 1 latency of other machines left out; 300 calls" in lines[-1]
    rows[0]["asked"], rows[1]["asked"] = {"epochs": 1, "taps": "a"}, {"taps": "a", "epochs": 1}
    assert family_table({"found": {**timed, "rows": rows}, "data_sets": sets}) == lines
    rows[1]["asked"] = {"epochs": 1}
    lines = family_table({"found": {**timed, "rows": rows}, "data_sets": sets})
    assert lines[4].endswith("| several options | 50.0 |")


def _tested(data: str, pair: str, auroc: float, pro: float | None) -> dict[str, object]:
    figures = {"image_auroc": auroc, "pro": pro}
    return {"data": data, "pair": pair, "asked": {}, "test": {"fp32": figures, "int8": figures}}


def test_without_latency_nothing_is_claimed() -> None:
    assert family_table({"found": {"rows": []}, "data_sets": {"tiles": {}}})[0].startswith("Not measured yet: ")
