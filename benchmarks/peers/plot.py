"""The peers benchmark as bars: the median, with a whisker to the 99th percentile."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.table import TITLES, fastest_of_each_runtime, is_ours, ordered_rows, row_name
from benchmarks.plots import pyplot, save, tidy_axes

# Distinct in grey print, and for the colour-blind.
_COLOURS = {"kdx": "#0b6e99", "anomalib": "#b4b4b4", "eager loop": "#e0a83c"}
_INK = "#333333"
_INSIDE = {"kdx": "white"}  # a number's colour within a bar; ink in the light ones
_BAR, _GAP, _HEADING = 0.74, 0.45, 1.05  # in rows
_INCHES_A_ROW, _WIDTH, _AROUND = 0.225, 8.4, 1.0
# Eager PyTorch is so slow that it would squeeze all others; bars that are longer than the rest are
# cut.
_CUT = "PyTorch", "TorchInferencer"


def plot(found: dict[str, Any], path: Path) -> None:
    """Draw what ran, grouped by method, and write ``.png`` and ``.svg``.

    All rows of kdx's methods; of the others the fastest in each runtime.

    Args:
        found: The part ``found`` of the result.
        path: The path of the files without its suffix.
    """
    groups = _groups(found)
    height = sum(len(rows) + _HEADING + _GAP for _, rows in groups)
    figure, axes = pyplot().subplots(figsize=(_WIDTH, _AROUND + max(height, 1) * _INCHES_A_ROW), facecolor="white")
    limit = _limit([rows for _, rows in groups])
    y, ticks, names = 0.0, [], []
    for method, rows in groups:
        axes.text(0.006, y, TITLES[method], transform=axes.get_yaxis_transform(), va="center", fontsize=9,
                  fontweight="bold", color=_INK)  # fmt: skip
        y += _HEADING
        for row in rows:
            _bar(axes, row, y, limit)
            ticks.append(y)
            names.append(row_name(row))
            y += 1
        y += _GAP
    axes.set_yticks(ticks, names, fontsize=8)
    axes.set_ylim(y - _GAP, -0.8)
    axes.set_xlim(0, limit)
    axes.set_xlabel("ms an image, from array to score: median, whisker to the 99th percentile (» cut)", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    tidy_axes(axes, grid="x", without=("top", "right", "left"))
    handles = [pyplot().Rectangle((0, 0), 1, 1, color=colour) for colour in _COLOURS.values()]
    figure.legend(handles, list(_COLOURS), fontsize=8, loc="upper right", ncols=3, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.25 / figure.get_figheight()))  # below the legend
    save(figure, path)


def _groups(found: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    ran = {method: [row for row in rows if not row["error"]] for method, rows in ordered_rows(found).items()}
    drawn = {method: rows if is_ours(rows) else fastest_of_each_runtime(rows) for method, rows in ran.items()}
    return [(method, rows) for method, rows in drawn.items() if rows]


def _limit(groups: Sequence[list[dict[str, Any]]]) -> float:
    """Return where the axis ends: past every bar of kdx's methods except those of eager PyTorch."""
    groups = [rows for rows in groups if is_ours(rows)] or groups
    every = [row for rows in groups for row in rows]
    shown = [row for row in every if row["runs_in"] not in _CUT] or every
    return 1.25 * max((row["p50_ms"] for row in shown), default=1.0)


def _bar(axes: Any, row: dict[str, Any], y: float, limit: float) -> None:
    """Draw one bar with its whisker and its number; a bar that does not fit is cut."""
    p50, p99 = row["p50_ms"], row["p99_ms"]
    axes.barh(y, min(p50, limit), height=_BAR, color=_COLOURS[row["system"]])
    room = 0.09 * limit  # a number's
    inside = _INSIDE.get(row["system"], _INK)
    if p50 + room > limit:
        cut = p50 > limit
        axes.annotate(f"{p50:.1f}" + (" »" if cut else ""), (min(p50, limit), y), xytext=(-4, 0),
                      textcoords="offset points", va="center", ha="right", fontsize=7.5, color=inside)  # fmt: skip
        return
    end = min(p99, limit)
    axes.plot([p50, end], [y, y], color=_INK, linewidth=0.8)
    if p99 < limit:
        axes.plot([p99, p99], [y - 0.2, y + 0.2], color=_INK, linewidth=0.8)
    fits = end + room < limit
    axes.annotate(f"{p50:.1f}", (end if fits else p50, y), xytext=(4 if fits else -4, 0), textcoords="offset points",
                  va="center", ha="left" if fits else "right", fontsize=7.5,
                  color=_INK if fits else inside)  # fmt: skip
