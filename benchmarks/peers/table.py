"""The peers benchmark as a table and in words."""

from __future__ import annotations

import re
from typing import Any

from benchmarks.markdown import machine_text, table
from benchmarks.peers.anomalib_exports import PEERS

Row = dict[str, Any]

TITLES = {**{method: peer.title for method, peer in PEERS.items()}, "stpm": "STPM / STFPM"}
# OpenVINO's errors begin with where in its own sources they were raised.
_OPENVINO_SOURCES = re.compile(r"Exception from \S+:\s*|(?<=failed) at \S+:\d+(?=:)")
_KDX, _ANOMALIB, _EAGER = "kdx", "anomalib", "eager loop"
_HEADINGS = ("method", "", "precision", "p50 ms", "p99 ms", "first result after s", "peak MB", "against the eager loop")


def peers_table(record: Row) -> list[str]:
    """Return the table, a comparison in words, how it was measured, and what did not run.

    All rows of kdx's methods have a line; of anomalib's other models the fastest row.
    """
    cells = []
    for method, rows in ordered_rows(record["found"]).items():
        measured = [row for row in rows if not row["error"]]
        cells += [_cells(method, row) for row in (measured if is_ours(rows) else measured[:1])]
    below = (_verdicts(record["found"]), _settings(record), _left_out(record["found"]))
    return [*table(_HEADINGS, cells, right=range(3, 8)), "", *filter(None, below)]


def ordered_rows(found: Row) -> dict[str, list[Row]]:
    """Return each method's rows, fastest first, without the eager loops of other methods."""
    methods = list(dict.fromkeys(row["method"] for row in found["rows"]))
    return {
        method: sorted(
            (
                row
                for row in found["rows"]
                if row["method"] == method and not (row["system"] == _EAGER and row["title"] != method)
            ),
            key=lambda row: float("inf") if row["p50_ms"] is None else row["p50_ms"],
        )
        for method in methods
    }


def row_name(row: Row) -> str:
    """Say who runs it, how and in which precision."""
    return f"{_system(row)}, {_precision(row)}"


def fastest_row(rows: list[Row], system: str) -> Row | None:
    """Return the fastest row of one system; of kdx's rows only those that passed the gate."""
    mine = [row for row in rows if row["system"] == system and not row["error"] and row["gated"] is not False]
    return min(mine, key=lambda row: row["p50_ms"], default=None)


def is_ours(rows: list[Row]) -> bool:
    """Whether kdx has the method and ran it."""
    return any(row["system"] == _KDX and not row["error"] for row in rows)


def _cells(method: str, row: Row) -> list[str]:
    return [
        TITLES[method],
        _system(row),
        _precision(row),
        f"{row['p50_ms']:.1f}",
        f"{row['p99_ms']:.1f}",
        f"{row['load_ms'] / 1e3:.1f}",
        f"{row['peak_memory_mb']:.0f}",
        "–" if row["eager_ms"] is None else f"{row['eager_ms'] / row['p50_ms']:.2f}×",
    ]


def _system(row: Row) -> str:
    if row["system"] == _EAGER:
        return _EAGER
    return f"{row['system']}, {row['runs_in']}" if row["runs_in"] else row["system"]


def _precision(row: Row) -> str:
    said = row["precision"].upper() + ("" if row["asked"] else " as it comes")
    return said + (" (not gated)" if row["gated"] is False else "")


def _verdicts(found: Row) -> str:
    """Say how kdx's fastest variant stands to anomalib's fastest of the same method."""
    said = []
    for method, rows in ordered_rows(found).items():
        ours, theirs = fastest_row(rows, _KDX), fastest_row(rows, _ANOMALIB)
        if ours is None or theirs is None:
            continue
        alike = [row for row in rows if row["precision"] == "fp32"]
        own, other = fastest_row(alike, _KDX), fastest_row(alike, _ANOMALIB)
        in_fp32 = "" if own is None or other is None else f"; in FP32 {_times(own, other)}"
        said.append(
            f"{TITLES[method]}: {row_name(ours)}, is {_times(ours, theirs)} as fast as the fastest of anomalib "
            f"({row_name(theirs)}){in_fp32}"
        )
    return f"{'. '.join(said)}." if said else ""


def _times(ours: Row, theirs: Row) -> str:
    return f"{theirs['p50_ms'] / ours['p50_ms']:.2f} times"


def _settings(record: Row) -> str:
    settings, found = record["settings"], record["found"]
    machine = machine_text(record, "anomalib", "onnxruntime", "openvino", "torch")
    bank = found["models"].get("PatchCore", {}).get("memory_bank")
    patchcore = f" PatchCore's bank: {bank[0]:,} patches from {settings['fitted_on_images']} images." if bank else ""
    calls = " to ".join(map(str, sorted({row["calls"] for row in found["rows"] if not row["error"]})))
    return (
        f"{settings['size']} × {settings['size']} RGB, batch {settings['batch']}, ResNet-18 (EfficientAD has its own "
        f"network), random weights, {machine}; {calls} calls of each in its own process, in turns.{patchcore}"
    )


def _left_out(found: Row) -> str:
    """Say what did not run, each reason once."""
    reasons: dict[str, list[str]] = {}
    for method, rows in ordered_rows(found).items():
        for row in rows:
            if row["error"]:
                reasons.setdefault(_short(row["error"]), []).append(f"{TITLES[method]}, {row_name(row)}")
    said = [f"{', '.join(rows)} ({why})" for why, rows in reasons.items()]
    return f"Did not run: {'; '.join(said)}." if said else ""


def _short(reason: str) -> str:
    words = " ".join(_OPENVINO_SOURCES.sub("", reason).split()).replace("|", "/")
    return words if len(words) <= 160 else f"{words[:157]}…"
