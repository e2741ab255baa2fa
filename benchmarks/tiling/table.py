"""The README's table of large frames."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.commands import RESULTS

_NAMES = {"onnxruntime-cpu": "ONNX Runtime", "openvino": "OpenVINO"}


def tiling_table() -> str:
    """What a large frame costs in tiles, and how far its tiles show."""
    record = json.loads((RESULTS / "tiling.json").read_text(encoding="utf-8"))
    rows = record["rows"]
    batches = sorted({row["tile_batch"] for row in rows if row["tile_batch"]})
    ways = list(dict.fromkeys((row["backend"], row["precision"]) for row in rows if row["tile_batch"]))
    cells = {(row["backend"], row["precision"], row["tile_batch"]): row for row in rows}
    lines = [
        "| tiles at once | " + " | ".join(map(str, batches)) + " | no tiles |",
        "|---|" + "--:|" * (len(batches) + 1),
    ]
    for way in ways:
        shown = " | ".join(_cost(cells.get((*way, batch))) for batch in (*batches, None))
        lines.append(f"| {_NAMES[way[0]]} {way[1].upper()} | {shown} |")
    return "\n".join([*lines, "", _below(record)])


def _cost(row: dict[str, Any] | None) -> str:
    return "–" if row is None else f"{row['p50_ms'] / 1e3:.2f} s, {row['peak_memory_mb']:,} MB"


def _below(record: dict[str, Any]) -> str:
    agreed, sweep, plan, machine = (record[key] for key in ("agreement", "sweep", "plan", "machine"))
    frame, small = (" × ".join(map(str, size)) for size in (record["frame"], agreed["frame"]))
    return (
        f"Median time, and peak memory of the process, for a frame of {frame} in {len(plan['rows'])} × "
        f"{len(plan['columns'])} tiles of {record['tile']} that overlap by {plan['overlap']} pixels and more; STPM, "
        f"{record['backbone']} at {record['taps'].replace(',', ' and ')}, {machine['threads']} threads of "
        f"{machine['cpu']}. In frames of {small} the map differs from that of the whole frame by at most "
        f"{100 * agreed['map_max']:.2f} % of its range, the score by {100 * agreed['score_max']:.2f} %; "
        f"{sweep['defects']} real defects, pasted at {sweep['places']} places from the middle of a tile to the middle "
        f"of the next, score within {100 * sweep['score_max']:.2f} % of the same defect in the middle of one."
    )
