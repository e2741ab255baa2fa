"""How well scores and maps separate defects from good parts: AUROC (scikit-learn) and PRO."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import roc_auc_score

# Defect regions are 8-connected, as in MVTec AD's own evaluation.
_EIGHT_CONNECTED = np.ones((3, 3), dtype=np.int64)


def auroc(is_defective: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    """Return the area under the ROC curve; NaN where only one class is present."""
    if is_defective.all() or not is_defective.any():
        return float("nan")
    return float(roc_auc_score(is_defective.ravel(), scores.ravel()))


def per_region_overlap(
    masks: Sequence[NDArray[np.bool_]],
    maps: Sequence[NDArray[np.float32]],
    *,
    max_false_positive_rate: float = 0.3,
    counted: NDArray[np.bool_] | None = None,
) -> float:
    """Return the normalised area under the per-region-overlap curve.

    The area under :func:`overlap_curve` up to ``max_false_positive_rate`` is divided by that rate
    (STPM §4.1, after Bergmann et al. 2020).

    Args:
        masks: The defect masks ``(h, w)``; all False for good images.
        maps: The anomaly maps, of the same sizes.
        max_false_positive_rate: The upper end of the integration, in (0, 1].
        counted: The pixels ``(h, w)`` that count; None for all.

    Returns:
        A value between 0 and 1; NaN without any region or any good pixel.
    """
    curve = overlap_curve(masks, maps, counted)
    if curve is None:
        return float("nan")
    return area_up_to(*curve, max_false_positive_rate)


def overlap_curve(
    masks: Sequence[NDArray[np.bool_]],
    maps: Sequence[NDArray[np.float32]],
    counted: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return false-positive rates, rising from 0, and the overlap at each.

    At each threshold, the false-positive rate is the share of good pixels above it, and the overlap
    is the share of a defect region's pixels above it, averaged over regions. The curve is exact:
    every distinct value of the maps is a threshold. Only pixels in ``counted`` count. The result is
    None without any region or any good pixel.
    """
    weights: list[NDArray[np.float64]] = []
    regions = 0
    if counted is not None:
        masks = [mask & counted for mask in masks]
    for mask in masks:
        labels, count = ndimage.label(mask, structure=_EIGHT_CONNECTED)
        sizes = np.bincount(labels.ravel(), minlength=count + 1).astype(np.float64)
        weights.append((1.0 / np.maximum(sizes, 1.0))[labels.ravel()] * mask.ravel())
        regions += count
    if not regions:
        return None
    good = ~np.concatenate([mask.ravel() for mask in masks])
    if counted is not None:
        good &= np.tile(counted.ravel(), len(masks))
    if not good.any():
        return None
    values = np.concatenate([map_.ravel() for map_ in maps])
    order = np.argsort(values, kind="stable")[::-1]
    # Equal values share a threshold: only the last of them is a point of the curve.
    last_of_value = np.append(np.diff(values[order]) != 0, True)
    overlap = np.cumsum(np.concatenate(weights)[order])[last_of_value] / regions
    false_positives = np.cumsum(good[order], dtype=np.float64)[last_of_value] / good.sum()
    return np.concatenate([[0.0], false_positives]), np.concatenate([[0.0], overlap])


def area_up_to(false_positives: NDArray[np.float64], overlap: NDArray[np.float64], end: float) -> float:
    """Return the normalised area under a curve up to a false-positive rate."""
    inside = false_positives < end
    first = int(inside.sum())
    # A vertical rise at the end is not under the curve: its lowest point counts, and interpolation
    # would take the highest.
    is_point = first < len(false_positives) and false_positives[first] == end
    x = np.append(false_positives[inside], end)
    y = np.append(overlap[inside], overlap[first] if is_point else np.interp(end, false_positives, overlap))
    return (
        float(np.trapezoid(y, x) / end)
        if hasattr(np, "trapezoid")
        else float(
            np.trapz(y, x) / end  # type: ignore[attr-defined]  # numpy 1.26
        )
    )
