"""The plot of the CPU benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.cpu.table import COLUMNS, name_of, rows_by_candidate

# Distinct in print, and for the colour-blind.
_COLOURS = {
    "onnxruntime-cpu fp32": "#d9a441",
    "openvino fp32": "#8fc1d4",
    "openvino bf16": "#3f93b5",
    "openvino int8": "#0b4f6c",
}
_MARKERS = {"onnxruntime-cpu fp32": "s", "openvino fp32": "o", "openvino bf16": "^", "openvino int8": "D"}
# Of each part what varies, and what it is called.
_AXES = {
    "sizes": ("side", "image side, pixels"),
    "batches": ("batch", "images a call"),
    "threads": ("threads", "threads"),
    "taps": ("taps", "taps of the teacher"),
}


def plot_scaling(found: dict[str, Any], path: Path) -> None:
    """Draw what STPM costs by size, batch, threads and taps, as far as measured.

    Writes ``path.png`` and ``.svg``.
    """
    import matplotlib

    matplotlib.use("Agg")  # without a screen
    from matplotlib import pyplot

    parts = [part for part in _AXES if part in found]
    figure, panels = pyplot.subplots(1, len(parts), figsize=(2.9 * len(parts), 3.2), facecolor="white", squeeze=False)
    for axes, part in zip(panels[0], parts, strict=True):
        varied, title = _AXES[part]
        values = [entry[varied] for entry in found[part]]
        xs = [value if isinstance(value, int) else value.count(",") + 1 for value in values]  # how many taps are named
        for name in COLUMNS:
            rows = [rows_by_candidate(entry["rows"]).get(name) for entry in found[part]]
            images = [entry.get("batch", 1) for entry in found[part]]
            points = [(x, row["p50_ms"] / each) for x, row, each in zip(xs, rows, images, strict=True) if row]
            axes.plot(*zip(*points, strict=True), marker=_MARKERS[name], markersize=4, linewidth=1.2,
                      color=_COLOURS[name], label=name_of(name))  # fmt: skip
        axes.set_xlabel(title, fontsize=8)
        if part in {"sizes", "batches"}:
            axes.set_xscale("log", base=2)
        if part == "sizes":  # from 128 to 1024 pixels it is a factor of 64
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.set_xticks(xs, xs)
        axes.minorticks_off()
        axes.tick_params(labelsize=7)
        axes.grid(color="#e6e6e6", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("ms an image", fontsize=8)
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="upper center", ncols=4, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.93))
    for suffix in (".png", ".svg"):
        figure.savefig(path.with_suffix(suffix), dpi=110, facecolor="white")
    pyplot.close(figure)
