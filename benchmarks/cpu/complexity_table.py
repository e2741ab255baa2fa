"""What every method costs, as a table."""

from __future__ import annotations

from typing import Any

from benchmarks.cpu.table import name_of, rows_by_candidate
from benchmarks.markdown import table

_MEASURED = "onnxruntime-cpu fp32"

# What the papers print of their own systems; the rest do not say.
_PAPER_COSTS = {"dskd": "6.17 GFLOP, 39.3 M (Table 6)"}
PAPER_LATENCY = {
    "stpm": "10 (RTX 2080 Ti); 12 (anomalib)",
    "reduced-student": "9.2 (RTX 2080 Ti)",
    "mixed-teacher": "3 × reduced student",
    "dual-det": "12 (RTX 3080 Ti)",
    "dual-loc": "6 (RTX 3080 Ti)",
    "dskd": "217 (Intel i7, 2.3 GHz)",
    "reverse-distillation": "16 (RTX 3080 Ti)",
}
_HEADINGS = (
    "method", "teacher", "image", "parameters", "GFLOP", "graph", "peak memory", "paper", "paper's ms an image",
)  # fmt: skip


def complexity_table(record: dict[str, Any]) -> list[str]:
    """Return what every method costs at its paper's size, and how it was counted."""
    methods = [row for row in record["found"]["methods"] if row["name"] == row["method"]]  # the paper's teachers
    giga = {row["method"]: sum(row["multiply_adds"].values()) / 1e9 for row in methods}
    rows = [
        (
            row["method"],
            row["backbone"],
            f"{row['image_size']}²",
            f"{row['parameters'] / 1e6:.1f} M",
            f"{2 * giga[row['method']]:.2f}",
            f"{row['graph_bytes'] / 1e6:.1f} MB",
            f"{rows_by_candidate(row['rows'])[_MEASURED]['peak_memory_mb']:.0f} MB",
            _PAPER_COSTS.get(row["method"], ""),
            PAPER_LATENCY.get(row["method"], ""),
        )
        for row in methods
    ]
    dskd = (
        " What DSKD's paper calls 6.17 GFLOP are multiply-adds: the graph here has "
        f"{giga['dskd']:.2f} G of them; its parameters must count ResNet-18 beyond the last tap."
        if "dskd" in giga
        else ""
    )
    return [
        *table(_HEADINGS, rows, right=range(2, 7)),
        "",
        "Parameters of the deployed graph, nothing after the last tap; two FLOP a multiply-add, of "
        "convolutions and of the tail's constant matrices; peak memory of the whole process that loads the bundle and "
        f"judges images in {name_of(_MEASURED)}.{dskd}",
    ]
