"""What ``robustness.py`` found, as a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.commands import RESULTS

FILE = RESULTS / "robustness.json"
_NAMES = {"onnxruntime-cpu": "ONNX Runtime", "openvino": "OpenVINO"}
Row = dict[str, Any]


def robustness_table(file: Path = FILE) -> str:
    """Return the README's table of what was tried, and what of it went wrong."""
    record = json.loads(file.read_text(encoding="utf-8"))
    found, machine = record["summary"], record["machine"]
    kills, races, soaked = record["kill"]["kills"], record["kill"]["races"], record["soak"]
    differing = sum(each["differing"] for each in soaked)
    growth = max(0.0, *(each["growth_mb"] for each in soaked))
    threads = record["threads"][0]["one detector"]["threads"]
    rows = [
        (
            f"frames on one detector, in {_ways(soaked)}; wrong frames among them, loaded again now and then",
            f"{found['frames']:,} in {found['hours']:.1f} h",
            f"{sum(each['crashes'] for each in soaked)} crashes, {found['leaks']} leaks (memory grew by at most "
            f"{growth:.1f} MB), {differing} answers that differ",
        ),
        (
            f"calls of {threads} threads on one detector, some while it was loaded and closed",
            f"{found['calls_of_threads']:,}",
            f"{found['differing'] - differing} answers that differ from one thread's",
        ),
        (
            f"damaged files: {', '.join(each['target'] for each in record['fuzz'])}",
            f"{found['inputs_tried']:,}",
            f"{sum(len(each['faults']) for each in record['fuzz'])} other than refused or answered as ever",
        ),
        (
            f"SIGKILL at every change of a file, and at random: {', '.join(each['name'] for each in kills)}",
            f"{found['kills']:,}",
            f"{sum(len(each['lost']) for each in kills)} bundles lost: {sum(each['old'] for each in kills)} times the "
            f"old one, {sum(each['new'] for each in kills)} times the new one, whole",
        ),
        (
            f"commands on one bundle at once: {', '.join(each['name'] for each in races)}",
            f"{found['races']:,}",
            f"{sum(len(each['lost']) for each in races)} bundles lost",
        ),
    ]
    lines = ["| what was done to it | how often | what went wrong |", "|---|--:|---|"]
    lines += [f"| {what} | {how_often} | {outcome} |" for what, how_often, outcome in rows]
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in ("onnxruntime", "openvino", "pillow"))
    lines += ["", f"{machine['threads']} threads of {machine['cpu']}, {machine['system'].split()[0]} ({versions})."]
    return "\n".join(lines)


def _ways(rows: list[Row]) -> str:
    return ", ".join(f"{_NAMES.get(row['backend'], row['backend'])} {row['precision'].upper()}" for row in rows)
