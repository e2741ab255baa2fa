"""How quickly an archive is scored, as a table."""

from __future__ import annotations

from typing import Any

from benchmarks.markdown import table, versions_text

_NAMES = {"loop": "a plain loop over `kdx.load`", "local": "`--engine local`", "ray": "`--engine ray`"}
_HEADINGS = ("engine", "workers", "images a second", "per core", "times one worker", "per worker at work")


def archive_table(record: dict[str, Any]) -> list[str]:
    """Return images a second by one worker and by two."""
    settings, budget = record["settings"], record["budget"]
    rows = [
        (
            _NAMES[row["engine"]],
            str(row["workers"]),
            f"{row['frames_per_second']:.1f}",
            f"{row['per_core']:.1f}",
            "" if row["engine"] == "loop" else f"{row['times_one_worker']:.2f}×",
            f"{row['per_worker_at_work']:.1f}",
        )
        for row in record["found"]["rows"]
    ]
    runtime = {"onnxruntime-cpu": "onnxruntime"}.get(settings["backend"], settings["backend"])
    height, width = settings["image"]
    return [
        *table(_HEADINGS, rows, right=range(1, 6)),
        "",
        f"{budget['frames']:,} files, from the file to its line in the Parquet file, every process's start included; "
        f"{settings['method']}, {settings['backbone']}, {height} × {width}, {settings['backend']} "
        f"{settings['precision']}, one thread a worker, shards of {settings['shard_size']}; medians of "
        f"{budget['rounds']} rounds, in turns, on {record['machine']['cores']} cores of {record['machine']['cpu']} "
        f"({versions_text(record, 'ray', runtime)}). The loop neither hashes nor records.",
    ]
