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
    """Bilinear interpolation, pixel centres aligned as areas (align_corners=False), edges
    repeated."""
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


Features = Sequence[tuple[Array, Array]]


def stpm(features: Features, size: tuple[int, int], sigma: float) -> tuple[Array, float]:
    """STPM Eq. 1, 4: the product of the upsampled distances; the score its maximum."""
    omega = anomaly_map(features, size, product=True, sigma=sigma)
    return omega, float(omega.max())


def summed(features: Features, size: tuple[int, int], sigma: float) -> tuple[Array, float]:
    """Reduced student and dual-loc Eq. 6: the sum of the upsampled half squared distances."""
    total = anomaly_map(features, size, product=False, sigma=sigma)
    return total, float(total.max())


def dual_det(features: Features, size: tuple[int, int], sigma: float) -> tuple[Array, float]:
    """Dual model Eq. 4, 5: the maximum of the product of the upsampled cosine distances."""
    product = np.ones(size)
    for t, s in features:
        product = product * upsample(cosine(t, s), *size)
    product = gaussian_filter(product, sigma) if sigma else product
    return product, float(product.max())


def mixed_teacher(resnet: Features, efficientnet: Features, size: tuple[int, int], sigma: float) -> tuple[Array, float]:
    """MixedTeacher Eq. 9 to 12; norm: the map divided by its L2 norm."""
    a_resnet, a_effnet = np.zeros(size), np.zeros(size)
    for t, s in resnet:
        a_resnet += upsample(half_squared_l2(t, s), *size)
    for t, s in efficientnet:
        a_effnet += upsample(half_squared_l2(t, s), *size)
    extent = a_effnet.max() - a_effnet.min()
    m = a_resnet * extent * (a_effnet / np.sqrt((a_effnet**2).sum()))
    m = gaussian_filter(m, sigma) if sigma else m
    return m, float(m.sum())


def dskd(features: Features, size: tuple[int, int], sigma: float, lam: float = 0.1) -> tuple[Array, float]:
    """DSKD Eq. 4 to 10: each position's lambda times half the squared distance, plus the cosine
    distance."""
    m = np.zeros(size)
    for t, d in features:
        m += upsample(lam * half_squared_l2(t, d) + cosine(t, d), *size)
    m = gaussian_filter(m, sigma) if sigma else m
    return m, float(m.max())


def reverse_distillation(features: Features, size: tuple[int, int], sigma: float) -> tuple[Array, float]:
    """Deng and Li, section 3.4: the sum of the upsampled cosine distances, smoothed."""
    m = sum(upsample(cosine(t, s), *size) for t, s in features)
    m = gaussian_filter(m, sigma) if sigma else m
    return m, float(np.max(m))
