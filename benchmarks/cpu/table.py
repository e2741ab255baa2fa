"""What ``cpu.py`` found, as a table and in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.commands import RESULTS

FILE = RESULTS / "cpu.json"
COLUMNS = ("onnxruntime-cpu fp32", "openvino fp32", "openvino bf16", "openvino int8")
NAMES = {
    "onnxruntime-cpu fp32": "ONNX Runtime FP32",
    "onnxruntime-cpu int8": "ONNX Runtime INT8",
    "openvino fp32": "OpenVINO FP32",
    "openvino bf16": "OpenVINO BF16",
    "openvino int8": "OpenVINO INT8",
    "auto": "auto",
}
SEPARATE, SHARED = "separate", "shared"  # as shared_teacher.py writes them
Row = dict[str, Any]


def cpu_table(file: Path = FILE) -> str:
    """Return the README's table of methods by backend, and how it was measured."""
    record = _read(file)
    lines = [
        "| method | teacher | eager | "
        + " | ".join(NAMES[column] for column in COLUMNS)
        + " | fastest against eager |",
        "|---|---|" + "--:|" * (len(COLUMNS) + 2),
    ]
    lines += [_method_line(model) for model in record["methods"]]
    machine = record["machine"]
    counts = {row["calls"] for model in record["methods"] for row in by_name(model["rows"]).values()}
    calls = " to ".join(map(str, sorted(counts)))
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in ("onnxruntime", "openvino", "torch"))
    lines += [
        "",
        f"Median milliseconds an image, from the uint8 array to the verdict; a camera of 256 × 256, batch 1, "
        f"{machine['threads']} threads of {machine['cpu']} ({versions}); {calls} calls of each in "
        f"its own process, in turns. Random teachers; a dash is a variant that its gate refused. A large FP32 matrix "
        f"product reaches {record['matrix_product_gflops']:.0f} GFLOP/s there.",
    ]
    return "\n".join(lines)


def scaling_text(file: Path = FILE) -> str:
    """Return what is said of stages, steadiness, memory, cold start and shared teachers."""
    record = _read(file)
    parts = {"stages": _stages, "steady": _steady, "cold": _cold, "shared": _shared}
    return "\n".join(f"- {say(record[name])}" for name, say in parts.items() if name in record)


def by_name(rows: list[Row]) -> dict[str, Row]:
    """Return the rows that ran, by candidate."""
    return {row["name"]: row for row in rows if not row["error"]}


def fastest(rows: dict[str, Row]) -> str:
    """Return the name of the fastest row that is no eager loop."""
    return min((name for name in rows if name != "eager"), key=lambda name: rows[name]["p50_ms"])


def _method_line(model: Row) -> str:
    rows = by_name(model["rows"])
    best = fastest(rows)
    cells = [f"{rows[column]['p50_ms']:.1f}" if column in rows else "–" for column in ("eager", *COLUMNS)]
    cells = [f"**{cell}**" if name == best else cell for name, cell in zip(("eager", *COLUMNS), cells, strict=True)]
    ratio = rows["eager"]["p50_ms"] / rows[best]["p50_ms"]
    return f"| `{model['method']}` | {model['backbone']} | {' | '.join(cells)} | {ratio:.2f}× |"


def _stages(record: Row) -> str:
    said = []
    for stages in record["stages"]:
        total = sum(stages[f"{part}_ms"] for part in ("input", "networks", "tail", "layout"))
        name = NAMES.get(stages["backend"] if " " in stages["backend"] else f"{stages['backend']} fp32")
        shares = (f"{100 * stages[f'{part}_ms'] / total:.1f}" for part in ("input", "tail"))
        said.append(f"{name} {' and '.join(shares)} %")
    return (
        f"STPM's input (cast, mean) and tail (distances, upsampling, blur, score), share of the run: {'; '.join(said)}."
    )


def _steady(row: Row) -> str:
    before, after = row["peak_memory_mb_after"]
    few, many = row["growth_calls"]
    return (
        f"{NAMES[row['name']]}, {row['calls']:,} calls: p50 {row['p50_ms']:.2f} ms, p99 {row['p99_ms']:.2f} "
        f"({row['p99_ms'] / row['p50_ms']:.2f} times), slowest {row['max_ms']:.1f}. Peak memory {before:.0f} MB after "
        f"{few:,} calls, {after:.0f} MB after {many:,}."
    )


def _cold(rows: list[Row]) -> str:
    said = [
        f"{NAMES[row['name']]} {row['first_ms'] / 1e3:.2f} s, then {row['cached_ms'] / 1e3:.2f}, of which "
        f"{row['golden_ms'] / 1e3:.2f}"
        for row in rows
    ]
    return (
        "From `import kdx` to the first verdict, the first time and with compiled models in the cache, of which the "
        f"comparison of {rows[0]['golden_images']} golden images: {'; '.join(said)}."
    )


def _shared(record: Row) -> str:
    memory, pairs = record["memory"], record["latency"]
    times = "; ".join(
        f"{pair['students']} students {pair[SEPARATE]['p50_ms']:.1f} ms apart, {pair[SHARED]['p50_ms']:.1f} together"
        for pair in pairs
        if pair["speed_up"] and pair["students"] > 1
    )
    return (
        f"{record['bundles']} products with one teacher, FP32 in OpenVINO: {memory[SEPARATE]['pss_mb']:.0f} MB loaded "
        f"apart, {memory[SHARED]['pss_mb']:.0f} MB with the teacher held once; {times}."
    )


def _read(file: Path) -> Row:
    record: Row = json.loads(file.read_text(encoding="utf-8"))
    return record
