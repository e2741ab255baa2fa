"""What compact pairs cost and reach beside the leader, as tables."""

from __future__ import annotations

from typing import Any

from benchmarks.frontier.table import spread
from benchmarks.markdown import machine_text, runtime_name, table
from kdx.text import number_of

Row = dict[str, Any]


def family_table(record: Row) -> list[str]:
    """Return a line for each pair and precision, and how they were measured.

    The pairs timed are those of the first data set; the first is compared with the others.
    """
    found, sets = record["found"], record.get("data_sets", {})
    sizes = {row["pair"]: row for row in found.get("sizes", []) if row["data"] == next(iter(sets))}
    if not sizes:
        return ["Not measured yet: `python -m benchmarks compact` writes this table."]
    timed = [row for row in found["latency"] if row["data"] == next(iter(sets))]
    where = timed[-1]["timed_on"]  # ratios of two machines would mean nothing
    left_out = len(timed) - len(timed := [row for row in timed if row["timed_on"] == where])
    times = {(row["pair"], row["precision"], row["backend"], row["threads"]): row["p50_ms"] for row in timed}
    runs = list(dict.fromkeys((backend, threads) for _, _, backend, threads in times))
    leader = next(iter(sizes))
    cells = []
    for pair, facts in sizes.items():
        rows = [[row for row in found.get("rows", []) if (row["data"], row["pair"]) == (s, pair)] for s in sets]
        for precision in ("fp32", "int8"):
            if precision not in facts["graph_bytes"]:
                cells.append([f"`{pair}`", f"{precision.upper()}: none", *[""] * 3, *["–"] * (len(runs) + len(sets))])
                continue
            measures = [
                f"{facts['parameters'] / 1e6:.2f} M",
                f"{facts['graph_bytes'][precision] / 1e6:.1f} MB",
                f"{facts['memory_mb'][precision]:.0f} MB",
            ]
            cost = [_times(times.get((pair, precision, *run)), times.get((leader, "fp32", *run))) for run in runs]
            reached = [_reached(mine, precision) for mine in rows]
            cells.append([f"`{pair}`", precision.upper(), *measures, *cost, *reached])
    headings = ["pair", "precision", "parameters", "graph", "memory"]
    headings += [f"{runtime_name(backend)}, {threads} thread{'s'[: threads > 1]}" for backend, threads in runs]
    headings += [about["title"] for about in sets.values()]
    height, width = sizes[leader]["images"]
    bundles = ", ".join(f"{pair} {facts['bundle_bytes'] / 1e6:.1f} MB" for pair, facts in sizes.items())
    machine = machine_text({"machine": where}, "onnxruntime", "openvino")
    machine += f", {number_of(left_out, '[latency|latencies] of other machines left out')}" if left_out else ""
    return [
        *table(headings, cells, right=range(2, len(headings))),
        "",
        f"Median milliseconds from the uint8 array to the verdict, in brackets how many times as fast as the FP32 pair "
        f"of {leader} in the same run; {height} × {width}, batch 1, {machine}; "
        f"{timed[0]['calls']} calls of each in its own process, in turns. None: the bundle has no "
        "such graph. Memory: what a loaded detector holds in "
        f"OpenVINO beyond the runtime itself, one thread. Whole bundles: {bundles}. Data sets: image AUROC / PRO on "
        "their test images in percent (mean and standard deviation over seeds, or one seed; cells have no masks).",
    ]


def _times(p50: float | None, leader: float | None) -> str:
    return "–" if p50 is None or leader is None else f"{p50:.2f} ({leader / p50:.1f}×)"


def _reached(rows: list[Row], precision: str) -> str:
    if any(row["asked"] != rows[0]["asked"] for row in rows):
        return "several options"
    known = [row["test"][precision] for row in rows if precision in row["test"]]
    figures = (spread([each[name] for each in known]) for name in ("image_auroc", "pro"))
    return " / ".join(figure for figure in figures if figure != "–") or "–"
