"""The GPU benchmark as a table and in words."""

from __future__ import annotations

from typing import Any

from benchmarks.cpu.table import PAPER_LATENCY
from benchmarks.gpu.candidates import KERNELS
from benchmarks.markdown import table, versions_text

Row = dict[str, Any]

_HEADINGS = (
    "method", "backend", "precision", "compute p50 ms", "p99 ms", "end to end p50 ms", "eager p50 ms", "ratio",
    "images/s at best batch", "paper's ms an image",
)  # fmt: skip
_TIMES = (("compute", "p50_ms"), ("compute", "p99_ms"), ("end_to_end", "p50_ms"))


def gpu_table(records: list[Row]) -> list[str]:
    """Return a table for each GPU that was measured, or say that none was."""
    if not records:
        return [
            "No GPU has run this yet: there is no GPU figure of kdx's own to show, and none is claimed. "
            "`python -m benchmarks gpu` measures every method by every backend that is installed, in five minutes a "
            "call, and this becomes its table."
        ]
    return "\n\n".join("\n".join(gpu_lines(record)) for record in records).split("\n")


def gpu_lines(record: Row, *, every: bool = False) -> list[str]:
    """Return a GPU's table: each method's fastest candidate, or ``every`` one."""
    rows = [row for row in record["found"]["rows"] if row["candidate"] != KERNELS]
    ran = [row for row in rows if row["status"] == "ok"]
    measured = sorted(
        (row for row in ran if row["batch"] == 1), key=lambda row: (row["method"], row["compute"]["p50_ms"])
    )
    first = {row["method"]: row for row in reversed(measured)}
    shown = measured if every else [row for row in measured if first[row["method"]] is row]
    below = (_machine(record, rows), _kernels(record), _left_out(record))
    return [*table(_HEADINGS, (_cells(row, ran) for row in shown), right=range(3, 9)), "", *filter(None, below)]


def _cells(row: Row, ran: list[Row]) -> list[str]:
    mine = [other for other in ran if (other["method"], other["candidate"]) == (row["method"], row["candidate"])]
    best = max(mine, key=lambda other: other["images_per_second"])
    return [
        row["method"], row["backend"], row["precision"].upper(),
        *(f"{row[part][name]:.3f}" for part, name in _TIMES),
        "–" if row["eager_ms"] is None else f"{row['eager_ms']:.3f}",
        "–" if row["ratio"] is None else f"{row['ratio']:.1f}×",
        f"{best['images_per_second']:,.0f} ({best['batch']})", PAPER_LATENCY.get(row["method"], ""),
    ]  # fmt: skip


def _machine(record: Row, rows: list[Row]) -> str:
    host, runs = record["machine"], record["settings"]["runs"]
    smi = host["nvidia_smi"]
    names = ("torch", "onnxruntime-gpu", "tensorrt", "tensorrt-cu13", "tensorrt-rtx-cu13")
    # An engine's interpreter may be another one.
    found = {name: version for row in rows for name, version in row.get("versions", {}).items()}
    versions = versions_text({"machine": {"versions": {**found, **host["versions"]}}}, *names)
    sampled = [row["clocks"]["clocks.sm"] for row in rows if row.get("clocks", {}).get("clocks.sm")]
    sampled.sort(key=lambda text: float(text.split()[0]))
    clocks = f", SM clock {sampled[0]} to {sampled[-1]}" if sampled else ""
    driver = f", driver {smi['driver_version']}" if "driver_version" in smi else ""
    return (
        f"{host['gpu'] or 'No GPU'}{driver}{clocks}; {host['cpu']}; {versions}. Batch 1, papers' sizes, {runs} calls "
        f"after {runs} to warm up; compute alone unless said; images a second by compute, best batch in brackets. "
        "Eager: the fused detector in eager FP32 PyTorch on the same GPU, TensorFloat-32 off. Real images, random "
        "weights; every row passed parity with FP32 first."
    )


def _kernels(record: Row) -> str:
    """Say what the fused tail and the grouped networks bring, measured in whole detectors."""
    rows = [row for row in record["found"]["rows"] if row["candidate"] == KERNELS and row["status"] == "ok"]
    if not rows:
        return ""
    tails = ", ".join(f"{row['method']} {row['found']['speedup']:.2f}" for row in rows)
    known = {row["method"]: row["found"]["grouped_speedup"] for row in rows}
    grouped = ", ".join(f"{method} {gain:.2f}" for method, gain in known.items() if gain)
    enough = [row["method"] for row in rows if row["found"]["is_fast_enough"]]
    verdict = f"reached by {', '.join(enough)}" if enough else "not reached, so there is no `--tail fused`"
    return (
        f"Fused tail (`kernels/`) against the faster of the in-graph and the compiled tail, end to end in CUDA graphs: "
        f"{tails} times; 1.5 are required: {verdict}."
        + (f" Grouped networks against two: {grouped} times." if grouped else "")
    )


def _left_out(record: Row) -> str:
    """Say what is not in the table."""
    absent = {name: reason for name, reason in record["found"].get("backends", {}).items() if reason != "here"}
    said = [f"{name} ({reason.split(':')[0]})" for name, reason in absent.items()]
    gone: dict[tuple[str, str, str], list[str]] = {}
    for row in record["found"]["rows"]:
        if row["status"] not in {"ok", "compared"}:
            where = f"{row['method']} at batch {row['batch']}"
            gone.setdefault((row["candidate"], row["status"], row["reason"]), []).append(where)
    said += [f"{name} {status} for {', '.join(of)} ({reason})" for (name, status, reason), of in gone.items()]
    return f"Without: {'; '.join(said)}." if said else ""
