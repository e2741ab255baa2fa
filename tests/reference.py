"""The detector once more, in numpy and scipy, written from the papers and not from the modules."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Array = NDArray[np.float64]


def half_squared_l2(teacher: Array, student: Array) -> Array:
    """STPM Eq. 1 at every position of ``(C, h, w)`` features."""
    height, width = teacher.shape[1:]
    distance = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            t, s = teacher[:, i, j], student[:, i, j]
            t_hat = t / np.linalg.norm(t) if np.linalg.norm(t) > 0 else t
            s_hat = s / np.linalg.norm(s) if np.linalg.norm(s) > 0 else s
            distance[i, j] = 0.5 * np.linalg.norm(t_hat - s_hat) ** 2
    return distance


def cosine(teacher: Array, student: Array) -> Array:
    """``1 - cos`` at every position."""
    dot = (teacher * student).sum(axis=0)
    return 1 - dot / (np.linalg.norm(teacher, axis=0) * np.linalg.norm(student, axis=0))


def upsample(small: Array, height: int, width: int) -> Array:
    """Bilinear interpolation, pixel centres aligned as areas (align_corners=False), edges repeated."""
    out = np.zeros((height, width))
    for y in range(height):
        source_y = max((y + 0.5) * small.shape[0] / height - 0.5, 0.0)
        y0 = int(source_y)
        y1 = min(y0 + 1, small.shape[0] - 1)
        for x in range(width):
            source_x = max((x + 0.5) * small.shape[1] / width - 0.5, 0.0)
            x0 = int(source_x)
            x1 = min(x0 + 1, small.shape[1] - 1)
            a, b = source_y - y0, source_x - x0
            top = small[y0, x0] * (1 - b) + small[y0, x1] * b
            bottom = small[y1, x0] * (1 - b) + small[y1, x1] * b
            out[y, x] = top * (1 - a) + bottom * a
    return out


def anomaly_map(
    features: Sequence[tuple[Array, Array]],
    size: tuple[int, int],
    *,
    product: bool,
    sigma: float,
    weights: Sequence[float] | None = None,
    distance=half_squared_l2,
) -> Array:
    """STPM Eq. 4 (product) or a weighted sum, then a Gaussian."""
    parts = [upsample(distance(t, s), *size) for t, s in features]
    if product:
        combined = np.prod(parts, axis=0)
    else:
        combined = sum(w * p for w, p in zip(weights or [1.0] * len(parts), parts, strict=True))
    return gaussian_filter(combined, sigma, mode="reflect", truncate=4.0) if sigma else combined
