"""What ``gpu.py`` found, as a table and in words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# On one data-centre GPU, batch 1, 256 × 256, compute only, by the best backend.
TARGETS_MS = {"stpm": 0.25, "reduced-student": 0.20, "mixed-teacher": 0.50, "dual-det": 0.60, "dskd": 0.60}
TARGET_RATIO = 8.0  # to the eager FP32 baseline of the same method
TARGET_THROUGHPUT = ("stpm", 32, 20_000.0)
_HEADINGS = (
    "method", "backend", "precision", "compute p50 ms", "p99 ms", "end to end p50 ms", "eager p50 ms", "ratio",
    "images/s at best batch", "paper's ms an image",
)  # fmt: skip
_KERNELS, _EAGER = "kernels", "torch-fp32"


def gpu_text(results: Path, papers: Mapping[str, str]) -> str:
    """Return the README's part: one table for each GPU that ran, or that none did.

    Args:
        results: The folder with ``gpu-*.json``.
        papers: What each method's paper says of its latency.
    """
    files = sorted(results.glob("gpu*.json"))
    if not files:
        return _nothing_yet()
    records = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return "\n\n".join("\n".join(gpu_lines(record, papers)) for record in records)


def gpu_lines(record: dict[str, Any], papers: Mapping[str, str], *, every: bool = False) -> list[str]:
    """Return one GPU's table, the machine, the targets, and what did not run.

    Args:
        record: A result file.
        papers: What each method's paper says of its latency.
        every: Whether every candidate has a line; else the fastest of each method.
    """
    rows = [row for row in record["rows"] if row["candidate"] != _KERNELS]
    measured = [row for row in rows if row["status"] == "ok" and row["batch"] == 1]
    measured.sort(key=lambda row: (row["method"], row["compute"]["p50_ms"]))
    lines = [f"| {' | '.join(_HEADINGS)} |", "|---|---|---|" + "--:|" * 6 + "---|"]
    seen = set()
    for row in measured:
        if every or row["method"] not in seen:
            lines.append(_line(row, rows, papers))
        seen.add(row["method"])
    lines += ["", _machine(record, rows)]
    lines += [text for text in (_targets(record, rows), _kernels(record), _left_out(record, rows)) if text]
    return lines


def _line(row: dict[str, Any], rows: list[dict[str, Any]], papers: Mapping[str, str]) -> str:
    mine = [
        other
        for other in rows
        if other["status"] == "ok" and (other["method"], other["candidate"]) == (row["method"], row["candidate"])
    ]
    best = max(mine, key=lambda other: other["images_per_second"])
    eager = "–" if row["eager_ms"] is None else f"{row['eager_ms']:.3f}"
    ratio = "–" if row["ratio"] is None else f"{row['ratio']:.1f}×"
    compute, end_to_end = row["compute"], row["end_to_end"]
    return (
        f"| {row['method']} | {row['backend']} | {row['precision'].upper()} | {compute['p50_ms']:.3f} | "
        f"{compute['p99_ms']:.3f} | {end_to_end['p50_ms']:.3f} | {eager} | {ratio} | "
        f"{best['images_per_second']:,.0f} ({best['batch']}) | {papers.get(row['method'], '')} |"
    )


def _machine(record: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    host, runs = record["machine"], record["settings"]["runs"]
    smi = host["nvidia_smi"]
    names = ("torch", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "tensorrt-rtx-cu13")
    versions = ", ".join(f"{name} {host['versions'][name]}" for name in names if name in host["versions"])
    sampled = [row["clocks"]["clocks.sm"] for row in rows if row.get("clocks", {}).get("clocks.sm")]
    clocks = f", SM clock {min(sampled, key=_number)} to {max(sampled, key=_number)}" if sampled else ""
    driver = f", driver {smi['driver_version']}" if "driver_version" in smi else ""
    return (
        f"{host['gpu'] or 'No GPU'}{driver}{clocks}; {host['cpu']}; {versions}. Batch 1, 256 × 256, {runs} calls after "
        f"{runs} to warm up; compute alone unless said; images a second by compute, best batch in brackets. Eager: the "
        "fused detector in eager FP32 PyTorch on the same GPU, TensorFloat-32 off. Random weights; every row passed "
        "parity with FP32 first."
    )


def _targets(record: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Say which targets were reached; they are for data-centre GPUs alone."""
    gpu = record["machine"]["gpu"] or ""
    if not any(name in gpu for name in ("H100", "H200")):
        return ""
    said = []
    for method, target in TARGETS_MS.items():
        mine = [r for r in rows if (r["method"], r["batch"], r["status"]) == (method, 1, "ok")]
        if not mine:
            said.append(f"{method} not measured (target {target:.2f} ms)")
            continue
        best = min(mine, key=lambda r: r["compute"]["p50_ms"])
        ratio = best["ratio"]
        reached = best["compute"]["p50_ms"] <= target and (ratio or 0) >= TARGET_RATIO
        said.append(
            f"{method} {'reached' if reached else 'missed'}: {best['compute']['p50_ms']:.3f} of {target:.2f} ms, "
            f"{'–' if ratio is None else f'{ratio:.1f}'} of {TARGET_RATIO:g} times eager"
        )
    method, batch, target = TARGET_THROUGHPUT
    rates = [
        r["images_per_second"] for r in rows if (r["method"], r["batch"], r["status"]) == (method, batch, "ok")
    ] or [0.0]
    reached = "reached" if max(rates) >= target else "missed" if max(rates) else "not measured"
    said.append(f"{method} at batch {batch} {reached}: {max(rates):,.0f} of {target:,.0f} images/s")
    return f"Targets: {'; '.join(said)}."


def _kernels(record: dict[str, Any]) -> str:
    """Say what the fused tail and the grouped networks bring, measured in whole detectors."""
    rows = [row for row in record["rows"] if row["candidate"] == _KERNELS and row["status"] == "ok"]
    if not rows:
        return ""
    tails = ", ".join(f"{row['method']} {row['found']['speedup']:.2f}" for row in rows)
    grouped = ", ".join(
        f"{row['method']} {row['found']['grouped_speedup']:.2f}" for row in rows if row["found"]["grouped_speedup"]
    )
    enough = [row["method"] for row in rows if row["found"]["is_fast_enough"]]
    verdict = f"reached by {', '.join(enough)}" if enough else "not reached, so there is no `--tail fused`"
    return (
        f"Fused tail (`kernels/`) against the faster of the in-graph and the compiled tail, end to end in CUDA graphs: "
        f"{tails} times; 1.5 are required: {verdict}."
        + (f" Grouped networks against two: {grouped} times." if grouped else "")
    )


def _left_out(record: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Say what is not in the table."""
    absent = {name: reason for name, reason in record["backends"].items() if reason != "here"}
    said = [f"{name} ({reason.split(':')[0]})" for name, reason in absent.items()]
    gone: dict[tuple[str, str, str], list[str]] = {}
    for row in record["rows"]:
        if row["status"] != "ok":
            gone.setdefault((row["candidate"], row["status"], row["reason"]), []).append(
                f"{row['method']} at batch {row['batch']}"
            )
    said += [f"{name} {status} for {', '.join(of)} ({reason})" for (name, status, reason), of in gone.items()]
    return f"Without: {'; '.join(said)}." if said else ""


def _nothing_yet() -> str:
    targets = ", ".join(f"{method} {target:.2f}" for method, target in TARGETS_MS.items())
    method, batch, rate = TARGET_THROUGHPUT
    return (
        "No GPU has run this yet: there is no GPU figure of kdx's own to show, and none is claimed. "
        "`python -m benchmarks gpu` measures every method by every backend that is installed, in eight minutes a call, "
        "and this becomes its table. Its targets on one H100 or H200, compute alone at batch 1 and "
        "256 × 256, in ms: "
        f"{targets}, each at least {TARGET_RATIO:g} times as fast as eager FP32 PyTorch on that GPU; and "
        f"{rate:,.0f} images a second for {method} at batch {batch}."
    )


def _number(text: str) -> float:
    return float(text.split()[0])
