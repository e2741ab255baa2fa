"""The CPU benchmark as a table and in words."""

from __future__ import annotations

from typing import Any

from benchmarks.markdown import machine_text, runtime_name, table

COLUMNS = ("onnxruntime-cpu fp32", "openvino fp32", "openvino bf16", "openvino int8")
# Of each part what varies, and what it is called.
_PARTS = {
    "sizes": ("side", "image side, pixels"), "taps": ("taps", "taps of the teacher"),
    "batches": ("batch", "images a call"), "threads": ("threads", "threads"),
}  # fmt: skip
_HEADINGS = ("method", "teacher", "image", "parameters", "GFLOP", "graph", "peak memory", "eager")
# Milliseconds an image, as the papers print them.
PAPER_LATENCY = {
    "stpm": "10 (RTX 2080 Ti); 12 (anomalib)", "reduced-student": "9.2 (RTX 2080 Ti)",
    "mixed-teacher": "3 × reduced student", "dual-det": "12 (RTX 3080 Ti)", "dual-loc": "6 (RTX 3080 Ti)",
    "dskd": "217 (Intel i7, 2.3 GHz)", "reverse-distillation": "16 (RTX 3080 Ti)",
}  # fmt: skip
Row = dict[str, Any]


def cpu_table(record: Row) -> list[str]:
    """Return the table of methods by backend, and how it was measured."""
    found = record["found"]
    headings = (*_HEADINGS, *map(name_of, COLUMNS), "fastest against eager", "paper's ms an image")
    counts = {row["calls"] for model in found["methods"] for row in rows_by_candidate(model["rows"]).values()}
    calls = " to ".join(map(str, sorted(counts)))
    return [
        *table(headings, map(_method_cells, found["methods"]), right=range(2, len(headings) - 1)),
        "",
        f"Median milliseconds an image, from the uint8 array to the verdict; a camera of 256 × 256, batch 1, "
        f"{machine_text(record, 'onnxruntime', 'openvino', 'torch')}; {calls} calls of each in its own process, in "
        f"turns. Random teachers; a dash is a variant that its gate refused. Parameters of the deployed "
        "graph, nothing after the last tap; two FLOP a multiply-add, of convolutions and of the tail's matrices; peak "
        f"memory of the whole process that loads the bundle and judges images in {name_of(COLUMNS[0])}.",
    ]


def scaling_table(record: Row) -> list[str]:
    """Return what STPM costs by image size, taps, batch and threads, as far as measured."""
    found = record["found"]
    rows = [
        [title, f"`{entry[key]}`" if key == "taps" else str(entry[key]), *_scaled(entry)]
        for part, (key, title) in _PARTS.items()
        for entry in found.get(part, [])
    ]
    return table(("", "", *map(name_of, COLUMNS)), rows, right=range(1, 2 + len(COLUMNS)))


def _scaled(entry: Row) -> list[str]:
    rows, images = rows_by_candidate(entry["rows"]), entry.get("batch", 1)
    return [f"{rows[name]['p50_ms'] / images:.1f}" if name in rows else "–" for name in COLUMNS]


def scaling_text(record: Row) -> list[str]:
    """Return what there is to say of stages, steadiness, memory, cold start and shared teachers."""
    parts = {"stages": _stages, "steady": _steady, "cold": _cold, "shared": _shared}
    return [f"- {say(record['found'][name])}" for name, say in parts.items() if name in record["found"]]


def name_of(candidate: str) -> str:
    """Return the usual name of a candidate: of ``openvino int8``, OpenVINO INT8."""
    return runtime_name(*candidate.split())


def rows_by_candidate(rows: list[Row]) -> dict[str, Row]:
    """Return the rows that ran, by candidate."""
    return {row["name"]: row for row in rows if not row["error"]}


def _method_cells(model: Row) -> list[str]:
    rows = rows_by_candidate(model["rows"])
    best = min((name for name in rows if name != "eager"), key=lambda name: rows[name]["p50_ms"])
    cells = [f"{rows[column]['p50_ms']:.1f}" if column in rows else "–" for column in ("eager", *COLUMNS)]
    cells = [f"**{cell}**" if name == best else cell for name, cell in zip(("eager", *COLUMNS), cells, strict=True)]
    ratio = rows["eager"]["p50_ms"] / rows[best]["p50_ms"]
    cost, paper = ["–"] * 5, ""
    if "multiply_adds" in model:  # older results lack it for other teachers than the paper's
        flop, peak = 2 * sum(model["multiply_adds"].values()) / 1e9, rows[COLUMNS[0]]["peak_memory_mb"]
        size = (f"{model['parameters'] / 1e6:.1f} M", f"{flop:.2f}", f"{model['graph_bytes'] / 1e6:.1f} MB")
        cost = [f"{model['image_size']}²", *size, f"{peak:.0f} MB"]
        paper = PAPER_LATENCY.get(model["method"], "")
    return [f"`{model['method']}`", model["backbone"], *cost, *cells, f"{ratio:.2f}×", paper]


def _stages(record: Row) -> str:
    said = []
    for stages in record["stages"]:
        total = sum(stages[f"{part}_ms"] for part in ("input", "networks", "tail", "layout"))
        name = name_of(stages["backend"] if " " in stages["backend"] else f"{stages['backend']} fp32")
        shares = (f"{100 * stages[f'{part}_ms'] / total:.1f}" for part in ("input", "tail"))
        said.append(f"{name} {' and '.join(shares)} %")
    return (
        f"STPM's input (cast, mean) and tail (distances, upsampling, blur, score), share of the run: {'; '.join(said)}."
    )


def _steady(row: Row) -> str:
    before, after = row["peak_memory_mb_after"]
    few, many = row["growth_calls"]
    return (
        f"{name_of(row['name'])}, {row['calls']:,} calls: p50 {row['p50_ms']:.2f} ms, p99 {row['p99_ms']:.2f} "
        f"({row['p99_ms'] / row['p50_ms']:.2f} times), slowest {row['max_ms']:.1f}. Peak memory {before:.0f} MB after "
        f"{few:,} calls, {after:.0f} MB after {many:,}."
    )


def _cold(rows: list[Row]) -> str:
    said = [
        f"{name_of(row['name'])} {row['first_ms'] / 1e3:.2f} s, then {row['cached_ms'] / 1e3:.2f}, of which "
        f"{row['golden_ms'] / 1e3:.2f}"
        for row in rows
    ]
    return (
        "From `import kdx` to the first verdict, the first time and with compiled models in the cache, of which the "
        f"comparison of {rows[0]['golden_images']} golden images: {'; '.join(said)}."
    )


def _shared(record: Row) -> str:
    apart, together = (record["memory"][name]["pss_mb"] for name in ("separate", "shared"))
    times = [
        f"{pair['students']} students {pair['separate']['p50_ms']:.1f} ms apart, "
        f"{pair['shared']['p50_ms']:.1f} together"
        for pair in record["latency"]
        if pair["speed_up"] and pair["students"] > 1
    ]
    return (
        f"{record['bundles']} products with one teacher, FP32 in OpenVINO: {apart:.0f} MB loaded apart, "
        f"{together:.0f} MB with the teacher held once; {'; '.join(times)}."
    )
