"""The README's table of archives."""

from __future__ import annotations

import json

from benchmarks.commands import RESULTS

_NAMES = {"loop": "a plain loop over `kdx.load`", "local": "`--engine local`", "ray": "`--engine ray`"}


def archive_table() -> str:
    """How quickly an archive is scored by one worker and by two."""
    record = json.loads((RESULTS / "archive.json").read_text(encoding="utf-8"))
    lines = [
        "| | workers | images a second | of a core | times one worker | of a worker at work |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for row in record["rows"]:
        growth = "" if row["engine"] == "loop" else f"{row['times_one_worker']:.2f}×"
        lines.append(
            f"| {_NAMES[row['engine']]} | {row['workers']} | {row['frames_per_second']:.1f} | {row['per_core']:.1f} | "
            f"{growth} | {row['per_worker_at_work']:.1f} |"
        )
    machine, (height, width) = record["machine"], record["image"]
    versions = machine["versions"]
    runtime = {"onnxruntime-cpu": "onnxruntime"}.get(record["backend"], record["backend"])
    lines += [
        "",
        f"{record['frames']:,} files, from the file to its line in the Parquet file, every process's start included; "
        f"{record['method']}, {record['backbone']}, {height} × {width}, {record['backend']} {record['precision']}, one "
        f"thread a worker, shards of {record['shard_size']}; medians of {record['rounds']} rounds, in turns, on "
        f"{machine['cores']} cores of {machine['cpu']} (ray {versions['ray']}, {runtime} {versions[runtime]}). "
        "The loop neither hashes nor records.",
    ]
    return "\n".join(lines)
