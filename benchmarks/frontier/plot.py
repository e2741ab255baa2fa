"""The frontier of each data set, as a picture."""

from __future__ import annotations

from pathlib import Path

from benchmarks.frontier.points import VARIANTS, Point, frontier_of
from benchmarks.markdown import machine_text

# Distinct in print, and for the colour-blind.
_KDX, _PEER, _LINE = "#0b4f6c", "#d9a441", "#444444"
_MARKERS = {"fp32": "o", "bf16": "^", "int8": "D", "students": "s"}


def plot_frontiers(points: list[Point], folder: Path) -> None:
    """Draw latency against image AUROC for each data set of which both kdx and a peer have both.

    Writes ``frontier_NAME.png`` and ``.svg``. Of several machines, the one that timed most.
    """
    for data in dict.fromkeys(point.rows[0]["data"] for point in points):
        known = [each for each in points if each.rows[0]["data"] == data and each.time and each.auroc]
        groups = [[each for each in known if each.machine == one] for one in {each.machine for each in known}]
        both = [some for some in groups if len({point.is_kdx for point in some}) == 2]
        if drawn := max(both, key=len, default=None):
            _plot(drawn, folder / f"frontier_{data}")
            print(f"{data}: drew {len(drawn)} points of one machine, left out {len(known) - len(drawn)} of others")


def _plot(points: list[Point], path: Path) -> None:
    from matplotlib.figure import Figure  # needs no screen, unlike pyplot
    from matplotlib.ticker import LogLocator

    axes = (figure := Figure(figsize=(7.5, 4.5), facecolor="white", layout="tight")).subplots()
    best = frontier_of(points)
    labelled = {each.pair: each for each in reversed(points) if each in best or not each.is_kdx}  # one name a pair
    slowest = max(points, key=lambda each: each.time["p50_ms"])  # up to which nothing is better than the best
    axes.plot(
        [each.time["p50_ms"] for each in [*best, slowest]], [100 * (each.auroc or 0) for each in [*best, best[-1]]],
        color=_LINE, linewidth=1, drawstyle="steps-post", label="frontier", zorder=2,
    )  # fmt: skip
    for point in points:
        place = (point.time["p50_ms"], 100 * (point.auroc or 0))
        axes.scatter(*place, color=_KDX if point.is_kdx else _PEER, marker=_MARKERS[point.variant], s=30, zorder=3)
        if labelled.get(point.pair) is point:
            axes.annotate(point.pair, place, xytext=(0, 5), textcoords="offset points", fontsize=6, ha="center")
    precisions = [("#777777", marker, VARIANTS[variant]) for variant, marker in _MARKERS.items()]
    for colour, marker, name in [(_KDX, "o", "kdx"), (_PEER, "o", "peers"), *precisions]:
        axes.scatter([], [], color=colour, marker=marker, label=name)
    axes.set(xscale="log", xmargin=0.12, xlabel="ms, array to verdict, p50, one thread", ylabel="image AUROC, %")
    machine = machine_text({"machine": points[0].time["timed_on"]}, "onnxruntime", "openvino")
    axes.set_title(f"{points[0].data}\n{machine}", fontsize=8)
    axes.tick_params(which="both", labelsize=7)
    axes.xaxis.set(major_formatter="{x:g}", minor_formatter="{x:g}", minor_locator=LogLocator(subs=(2, 5)))
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.legend(fontsize=7, frameon=False, loc="best")
    for suffix in (".png", ".svg"):
        figure.savefig(path.with_suffix(suffix), dpi=110, facecolor="white")
