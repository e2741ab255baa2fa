"""ROC, PR and PRO curves and the histogram of scores, as the points of inline SVG."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_curve

from kd_train.evaluation.evaluate import Evaluation, Scored
from kd_train.evaluation.metrics import overlap_curve
from kdx.folders.data_folder import GOOD

# The plot's box in the SVG's coordinates, which are about the pixels in which it is shown.
LEFT, TOP, WIDTH, HEIGHT = 42, 10, 284, 230
_MOST_POINTS = 500
_BINS = 60
# Scores over more than this range are read on a logarithmic axis: a defect may score a hundred
# times as a good part.
_LARGEST_LINEAR_RATIO = 20.0
PRO_END = 0.3


@dataclass(frozen=True)
class Curve:
    """One curve.

    Attributes:
        key: ``roc``, ``pr`` or ``pro``.
        title: Title of the plot.
        x: What its horizontal axis shows.
        y: What its vertical axis shows.
        figure: The area under it, in words; empty where there is no curve.
        path: The curve as an SVG path; empty where there is none.
        missing: Why there is none.
        end: Where its horizontal axis ends.
    """

    key: str
    title: str
    x: str
    y: str
    figure: str = ""
    path: str = ""
    missing: str = ""
    end: float = 1.0

    @property
    def ticks(self) -> list[float]:
        """Values along the horizontal axis."""
        return [self.end * part for part in (0, 0.5, 1)]


@dataclass(frozen=True)
class Axis:
    """Where a score stands on the histogram's axis.

    Attributes:
        low: Left end of the axis, in the raw score.
        high: Right end of the axis.
        is_log: Whether it is logarithmic.
    """

    low: float
    high: float
    is_log: bool

    def position(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return 0 at the left end to 1 at the right one."""
        low, high = self._scaled(np.array([self.low, self.high]))
        found: NDArray[np.float64] = (self._scaled(scores) - low) / (high - low)
        return found

    def ticks(self) -> list[tuple[float, float]]:
        """Return round scores along the axis and where they stand."""
        if self.is_log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            many = math.log10(self.high / self.low) > 4
            values = [m * 10.0**decade for decade in decades for m in ((1,) if many else (1, 2, 5))]
        else:
            step = 10.0 ** math.floor(math.log10(self.high - self.low))
            step = next(step * part for part in (0.2, 0.5, 1.0, 2.0) if (self.high - self.low) / (step * part) <= 6)
            values = [step * i for i in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        placed = zip(values, self.position(np.array(values, dtype=np.float64)).tolist(), strict=True)
        # A label at the very edge would be cut off.
        return [(value, at) for value, at in placed if 0.03 <= at <= 0.97]

    def as_dict(self) -> dict[str, object]:
        """Return it for the page's script."""
        return asdict(self)

    def _scaled(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.log(values) if self.is_log else values


def axis_of(scores: NDArray[np.float64]) -> Axis:
    """Return an axis on which all these scores stand with some room at both ends."""
    low, high = float(scores.min()), float(scores.max())
    if low > 0 and high / low > _LARGEST_LINEAR_RATIO:
        room = (high / low) ** 0.04
        return Axis(low / room, high * room, is_log=True)
    room = 0.04 * (high - low) or max(abs(high), 1e-6) * 0.5
    return Axis(low - room, high + room, is_log=False)


def histogram(positions: NDArray[np.float64], is_defective: NDArray[np.bool_]) -> dict[str, str]:
    """Return the outlines of both histograms as SVG paths, in a box of 1000 × 200.

    Good ones stand upwards from the middle, defective ones hang down from it; each is a share of
    its own kind.
    """
    shares: dict[str, NDArray[np.float64]] = {}
    for name, chosen in (("good", positions[~is_defective]), ("defective", positions[is_defective])):
        counts = np.histogram(chosen, bins=_BINS, range=(0.0, 1.0))[0].astype(np.float64)
        shares[name] = counts / max(len(chosen), 1)
    tallest = max(float(each.max()) for each in shares.values()) or 1.0
    edges = np.linspace(0, 1000, _BINS + 1)
    paths = {}
    for name, sign in (("good", -1), ("defective", 1)):
        bars = [
            f"M{left:.1f} 100v{sign * max(95 * share / tallest, 1.5):.1f}h{right - left - 1.5:.1f}V100z"
            for left, right, share in zip(edges[:-1], edges[1:], shares[name], strict=True)
            if share > 0
        ]
        paths[name] = "".join(bars)
    return paths


def curves_of(scored: Scored, result: Evaluation, counted: NDArray[np.bool_] | None = None) -> list[Curve]:
    """Return the three curves, or reasons why there are none; only ``counted`` pixels count."""
    is_defective = scored.types != GOOD
    roc = Curve("roc", "ROC: good parts rejected, defects found", "good parts rejected", "defective parts rejected")
    pr = Curve("pr", "Precision and recall", "recall: defective parts rejected", "precision: defective of the rejected")
    title, x = "PRO: how much of each defect is covered", f"good pixels marked, up to {PRO_END:g}"
    pro = Curve("pro", title, x, "mean share of a defect marked", end=PRO_END)
    if not result.good or not result.defective:
        missing = f"There are no {'good' if not result.good else 'defective'} images to draw it from."
        return [_replace(curve, missing=missing) for curve in (roc, pr, pro)]
    false, true, _ = roc_curve(is_defective, scored.scores)
    precision, recall, _ = precision_recall_curve(is_defective, scored.scores)
    found = [
        _replace(roc, figure=f"AUROC {100 * result.image_auroc:.1f} %", path=_path(false, true, 1.0, "")),
        _replace(
            pr,
            figure=f"average precision {100 * average_precision_score(is_defective, scored.scores):.1f} %",
            path=_path(recall[::-1], precision[::-1], 1.0, "before"),
        ),
    ]
    curve = None
    if scored.masks is not None:
        indices = sorted(scored.masks)
        curve = overlap_curve([scored.masks[i] for i in indices], [scored.maps[i] for i in indices], counted)
    if curve is None:
        return [*found, _replace(pro, missing="There are no masks, so nothing can be said of pixels.")]
    figure = f"PRO {100 * result.pro:.1f} %, pixel AUROC {100 * result.pixel_auroc:.1f} %"
    return [*found, _replace(pro, figure=figure, path=_path(*curve, PRO_END, ""))]


def _replace(curve: Curve, **changes: str) -> Curve:
    return Curve(**{**asdict(curve), **changes})


def _path(x: NDArray[np.float64], y: NDArray[np.float64], end: float, steps: str) -> str:
    """Return an SVG path of a curve up to ``end``; with ``steps``, y changes before x does."""
    last = float(np.interp(end, x, y))
    inside = x <= end
    x, y = np.append(x[inside], end), np.append(y[inside], last)
    if len(x) > _MOST_POINTS:
        # Points at equal steps along the curve, so that its steep beginning keeps its shape.
        length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) / end + np.abs(np.diff(y)))])
        kept = np.unique(np.searchsorted(length, np.linspace(0, length[-1], _MOST_POINTS)))
        x, y = x[kept], y[kept]
    points = [(LEFT + WIDTH * a / end, TOP + HEIGHT * (1 - b)) for a, b in zip(x.tolist(), y.tolist(), strict=True)]
    drawn = [f"M{points[0][0]:.1f} {points[0][1]:.1f}"]
    for a, b in points[1:]:
        drawn.append(f"V{b:.1f}H{a:.1f}" if steps else f"L{a:.1f} {b:.1f}")
    return "".join(drawn)
