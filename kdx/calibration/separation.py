"""Whether a detector distinguishes defective images from good ones at all."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from kdx.remarks import Remark

SIGNIFICANCE = 0.05


def separation_remarks(good: NDArray[np.float64], defective: NDArray[np.float64]) -> list[Remark]:
    """Return a remark if defective images do not score significantly higher than good ones.

    The test is that of Mann and Whitney (Annals of Mathematical Statistics 1947), one-sided. There
    is no remark on so few images that no scores could pass it.

    Args:
        good: Scores of good images, ``(G,)``.
        defective: Scores of defective images, ``(D,)``.
    """
    if not len(good) or not len(defective) or 1 / math.comb(len(good) + len(defective), len(good)) > SIGNIFICANCE:
        return []
    from scipy.stats import mannwhitneyu  # its import takes longer than most commands

    p = float(mannwhitneyu(defective, good, alternative="greater").pvalue)
    if p <= SIGNIFICANCE:
        return []
    text = (
        f"defective images do not score significantly higher than {len(good):,} good ones (p = {p:.2g}): nothing "
        "shows that this detector finds these defects. Add test images, or train with more good images, longer, or at "
        "an image size that shows the defects"
    )
    return [Remark(kind="not_separated", text=text, count=len(defective), first=())]
