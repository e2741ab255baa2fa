"""The peers benchmark as points: the median, with a whisker to the 99th percentile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.peers.table import TITLES, fastest_of_each_runtime, is_ours, ordered_rows, row_name
from benchmarks.plots import pyplot, save, tidy_axes

# Distinct in grey print, and for the colour-blind.
_COLOURS = {"kdx": "#0b6e99", "anomalib": "#b4b4b4", "eager loop": "#e0a83c"}
_INK = "#333333"
_GAP, _HEADING = 0.45, 1.05  # in rows
_INCHES_A_ROW, _WIDTH, _AROUND = 0.225, 8.4, 1.0


def plot(found: dict[str, Any], path: Path) -> None:
    """Draw ``path.png`` and ``.svg``: all rows of kdx's methods that ran, the fastest of others."""
    ran = {method: [row for row in rows if not row["error"]] for method, rows in ordered_rows(found).items()}
    groups = {method: rows if is_ours(rows) else fastest_of_each_runtime(rows) for method, rows in ran.items() if rows}
    height = sum(len(rows) + _HEADING + _GAP for rows in groups.values())
    figure, axes = pyplot().subplots(figsize=(_WIDTH, _AROUND + max(height, 1) * _INCHES_A_ROW), facecolor="white")
    y, ticks, names = 0.0, [], []
    for method, rows in groups.items():
        axes.text(0.006, y, TITLES[method], transform=axes.get_yaxis_transform(), va="center", fontsize=9,
                  fontweight="bold", color=_INK)  # fmt: skip
        y += _HEADING
        for row in rows:
            axes.plot([row["p50_ms"], row["p99_ms"]], [y, y], color=_INK, linewidth=0.8)
            axes.plot(row["p50_ms"], y, marker="o", markersize=7, color=_COLOURS[row["system"]])
            axes.annotate(f"{row['p50_ms']:.1f}", (row["p99_ms"], y), xytext=(4, 0), textcoords="offset points",
                          va="center", fontsize=7.5, color=_INK)  # fmt: skip
            ticks.append(y)
            names.append(row_name(row))
            y += 1
        y += _GAP
    axes.set_yticks(ticks, names, fontsize=8)
    axes.set_ylim(y - _GAP, -0.8)
    axes.set_xscale("log")  # eager PyTorch is so slow that it would squeeze all others
    axes.set_xlabel("ms an image, from array to score: median, whisker to the 99th percentile", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    tidy_axes(axes, grid="x", without=("top", "right", "left"))
    handles = [pyplot().Rectangle((0, 0), 1, 1, color=colour) for colour in _COLOURS.values()]
    figure.legend(handles, list(_COLOURS), fontsize=8, loc="upper right", ncols=3, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.25 / figure.get_figheight()))  # below the legend
    save(figure, path)
