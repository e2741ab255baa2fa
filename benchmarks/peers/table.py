"""What ``peers.py`` found, as a table and in words."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.commands import RESULTS

_FILE = RESULTS / "peers.json"
_TITLES = {
    "stpm": "STPM / STFPM",
    "reverse-distillation": "Reverse Distillation",
    "efficientad": "EfficientAD-S",
    "patchcore": "PatchCore",
    "fastflow": "FastFlow",
    "padim": "PaDiM",
}
# OpenVINO's errors begin with where in its own sources they were raised.
_OPENVINO_SOURCES = re.compile(r"Exception from \S+:\s*|(?<=failed) at \S+:\d+(?=:)")
_KDX, _ANOMALIB, _EAGER = "kdx", "anomalib", "eager loop"
_HEADINGS = ("method", "", "precision", "p50 ms", "p99 ms", "first result after s", "peak MB", "against the eager loop")


def peers_table(file: Path = _FILE) -> str:
    """Return the README's part: kdx's methods with every row, and the fastest way to run each of anomalib's others.

    Args:
        file: What ``peers.py`` wrote.
    """
    if not file.is_file():
        return "Not measured yet: `python -m benchmarks peers DATA` writes this table."
    return "\n".join(peers_lines(json.loads(file.read_text(encoding="utf-8"))))


def peers_lines(record: dict[str, Any], *, every: bool = False) -> list[str]:
    """Return the table, what it says of kdx against anomalib, how it was measured, and what could not run.

    Args:
        record: What ``peers.py`` writes.
        every: Whether every row of every method has a line.
    """
    lines = [f"| {' | '.join(_HEADINGS)} |", "|---|---|---|" + "--:|" * 5]
    for method, rows in ordered_rows(record).items():
        measured = [row for row in rows if not row["error"]]
        lines += [_line(method, row) for row in (measured if every or is_ours(rows) else measured[:1])]
    return [*lines, "", *[text for text in (_verdicts(record), _settings(record), _left_out(record)) if text]]


def ordered_rows(record: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return each method's rows, fastest first, those that did not run last; without loops of other methods."""
    methods = list(dict.fromkeys(row["method"] for row in record["rows"]))
    return {
        method: sorted(
            (
                row
                for row in record["rows"]
                if row["method"] == method and not (row["system"] == _EAGER and row["title"] != method)
            ),
            key=lambda row: float("inf") if row["p50_ms"] is None else row["p50_ms"],
        )
        for method in methods
    }


def title_of(method: str) -> str:
    """Return a method's name as people know it."""
    return _TITLES.get(method, method)


def row_name(row: dict[str, Any]) -> str:
    """Say who runs it, how and in which precision."""
    return f"{_system(row)}, {_precision(row)}"


def fastest(rows: list[dict[str, Any]], system: str) -> dict[str, Any] | None:
    """Return the fastest row of one system; of kdx's only those that were held against FP32."""
    mine = [row for row in rows if row["system"] == system and not row["error"] and row["gated"] is not False]
    return min(mine, key=lambda row: row["p50_ms"], default=None)


def is_ours(rows: list[dict[str, Any]]) -> bool:
    """Whether kdx has the method and ran it."""
    return any(row["system"] == _KDX and not row["error"] for row in rows)


def fastest_of_each_runtime(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the first row of each runtime, of rows that are ordered."""
    first: dict[str, dict[str, Any]] = {}
    for row in rows:
        first.setdefault(row["runs_in"].split(",")[0], row)
    return list(first.values())


def _line(method: str, row: dict[str, Any]) -> str:
    ratio = "–" if row["eager_ms"] is None else f"{row['eager_ms'] / row['p50_ms']:.2f}×"
    return (
        f"| {title_of(method)} | {_system(row)} | {_precision(row)} | {row['p50_ms']:.1f} | {row['p99_ms']:.1f} | "
        f"{row['load_ms'] / 1e3:.1f} | {row['peak_memory_mb']:.0f} | {ratio} |"
    )


def _system(row: dict[str, Any]) -> str:
    if row["system"] == _EAGER:
        return _EAGER
    return f"{row['system']}, {row['runs_in']}" if row["runs_in"] else row["system"]


def _precision(row: dict[str, Any]) -> str:
    said = row["precision"].upper() + ("" if row["asked"] else " as it comes")
    return said + (" (not gated)" if row["gated"] is False else "")


def _verdicts(record: dict[str, Any]) -> str:
    """Say how kdx's fastest variant stands to anomalib's fastest of the same method."""
    said = []
    for method, rows in ordered_rows(record).items():
        ours, theirs = fastest(rows, _KDX), fastest(rows, _ANOMALIB)
        if ours is None or theirs is None:
            continue
        alike = [row for row in rows if row["precision"] == "fp32"]
        own, other = fastest(alike, _KDX), fastest(alike, _ANOMALIB)
        in_fp32 = "" if own is None or other is None else f"; in FP32 {_times(own, other)}"
        said.append(
            f"{title_of(method)}: {row_name(ours)}, is {_times(ours, theirs)} as fast as the fastest of anomalib "
            f"({row_name(theirs)}){in_fp32}"
        )
    return f"{'. '.join(said)}." if said else ""


def _times(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    return f"{theirs['p50_ms'] / ours['p50_ms']:.2f} times"


def _settings(record: dict[str, Any]) -> str:
    machine, settings, models = record["machine"], record["settings"], record["models"]
    names = ("anomalib", "onnxruntime", "openvino", "torch")
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in names if name in machine["versions"])
    bank = models.get("PatchCore", {}).get("memory_bank")
    patchcore = f" PatchCore's bank: {bank[0]:,} patches from {settings['fitted_on_images']} images." if bank else ""
    return (
        f"{settings['size']} × {settings['size']} RGB, batch {settings['batch']}, ResNet-18 (EfficientAD has its own "
        f"network), random weights, {machine['threads']} threads of {machine['cpu']} ({versions}); {settings['runs']} "
        f"calls of each in its own process, in turns.{patchcore}"
    )


def _left_out(record: dict[str, Any]) -> str:
    """Say what did not run, each reason once."""
    reasons: dict[str, list[str]] = {}
    for method, rows in ordered_rows(record).items():
        for row in rows:
            if row["error"]:
                reasons.setdefault(_short(row["error"]), []).append(f"{title_of(method)}, {row_name(row)}")
    said = [f"{', '.join(rows)} ({why})" for why, rows in reasons.items()]
    return f"Did not run: {'; '.join(said)}." if said else ""


def _short(reason: str) -> str:
    words = " ".join(_OPENVINO_SOURCES.sub("", reason).split()).replace("|", "/")
    return words if len(words) <= 160 else f"{words[:157]}…"
