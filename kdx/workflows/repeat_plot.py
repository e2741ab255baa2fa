"""The picture of a repeatability study: each score in turn, and how they are distributed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kdx.calibration.repeatability import TOLERANCE_SHARE
from kdx.errors import OptionError
from kdx.storage.files import write_atomic
from kdx.text import number, number_of
from kdx.workflows.repeat import RepeatStudy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which most colour-blind readers tell apart, and a marker for each.
_LOOKS = {
    "good": ("#0072B2", "o"),
    "review": ("#E69F00", "^"),
    "defective": ("#D55E00", "s"),
    "undecided": ("#7F7F7F", "X"),
}
_LIMIT = "#B00020"


def require_png(file: Path) -> None:
    """Raise ``OptionError`` unless a file's name is that of a PNG.

    Raises:
        OptionError: The name has another suffix.
        ImportError: matplotlib is not installed.
    """
    import matplotlib  # noqa: F401  # missed now, and not after all images were judged

    if file.suffix.lower() != ".png":
        raise OptionError("the picture is a PNG file", expected="NAME.png", received=file.name)


def write_plot(study: RepeatStudy, title: str, file: Path) -> None:
    """Write the picture as PNG, in one step."""
    content = io.BytesIO()
    draw(study, title).savefig(content, format="png", dpi=150, metadata={"Software": None})
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, content.getvalue())


def draw(study: RepeatStudy, title: str) -> Figure:
    """Return the figure of a study."""
    # Not pyplot: it keeps figures for the process, and may look for a screen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    run, distribution = figure.subplots(1, 2, sharey=True, width_ratios=(4, 1))
    _run_chart(run, study)
    # By the number of images alone: "auto" of NumPy 1 makes a million bars of a tight cluster and
    # one far score.
    distribution.hist(_scores(study), bins="rice", orientation="horizontal", color="#BBBBBB")
    distribution.axhline(study.found.threshold, color=_LIMIT, linestyle="--", linewidth=1.2)
    distribution.set_xlabel("images")
    for axes in (run, distribution):
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)
    found = study.found
    figure.suptitle(
        f"{title}: {number_of(found.images, '[image|images]')} of one part, standard deviation {number(found.sigma)}, "
        f"Cg {number(found.cg)}, margin {number(found.margin_in_sigmas)} standard deviations",
        fontsize=10,
    )
    figure.legend(loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    return figure


def _run_chart(axes: Axes, study: RepeatStudy) -> None:
    """Draw the scores in the order of the files' names."""
    values = np.array(_scores(study))
    turn = np.arange(1, len(values) + 1)
    decided = np.array([each.verdict for each in study.repetitions if each.score is not None])
    axes.plot(turn, values, color="#AAAAAA", linewidth=0.8, zorder=2)
    for verdict, (colour, marker) in _LOOKS.items():
        if (chosen := decided == verdict).any():
            label = f"{verdict}: {int(chosen.sum())}"
            axes.scatter(turn[chosen], values[chosen], s=22, color=colour, marker=marker, zorder=3, label=label)
    found, share = study.found, TOLERANCE_SHARE / 2
    low, high = found.mean - share * found.threshold, found.mean + share * found.threshold
    axes.axhspan(low, high, color="#009E73", alpha=0.12, label=f"mean ± {100 * share:g} % of the threshold")
    axes.axhline(found.mean, color="#444444", linewidth=1, label="mean")
    for edge in (found.mean - 3 * found.sigma, found.mean + 3 * found.sigma):
        axes.axhline(edge, color="#444444", linewidth=0.8, linestyle=":")
    axes.plot([], [], color="#444444", linewidth=0.8, linestyle=":", label="mean ± 3 standard deviations")
    axes.axhline(found.threshold, color=_LIMIT, linestyle="--", linewidth=1.2, label="threshold")
    axes.set_xlabel("image, in the order of the names")
    axes.set_ylabel("score")


def _scores(study: RepeatStudy) -> list[float]:
    return [each.score for each in study.repetitions if each.score is not None]
