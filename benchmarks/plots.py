"""What the plots share: a canvas without a screen, thin lines, and both file formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_DPI = 110


def pyplot() -> Any:
    """Return Matplotlib's pyplot, which draws without a screen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as module

    return module


def tidy_axes(axes: Any, *, grid: str, without: tuple[str, ...] = ("top", "right")) -> None:
    """Draw a light grid below everything, and remove some sides of the frame."""
    axes.grid(axis=grid, color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in without:
        axes.spines[side].set_visible(False)


def save(figure: Any, path: Path) -> None:
    """Write a figure as ``.png`` and ``.svg``, and release it."""
    for suffix in (".png", ".svg"):
        figure.savefig(path.with_suffix(suffix), dpi=_DPI, facecolor="white")
    pyplot().close(figure)
