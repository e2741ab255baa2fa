"""How unusual a score is among those of good parts: the conformal p-value."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

from kdx.bundle.stored_threshold import Threshold
from kdx.bundle.threshold_checks import kept_ranks


@dataclass(frozen=True)
class GoodScores:
    """The scores of the held-out good images of a calibration, as a bundle keeps them.

    Attributes:
        kept: Their scores, ascending; of more than 1,000 images, as many quantiles.
        images: The number of those images.
        ranks: The rank of each score that is kept among all, from 1.
    """

    kept: tuple[float, ...] = field(repr=False)
    images: int
    ranks: tuple[int, ...] = field(repr=False)

    @classmethod
    def of(cls, threshold: Threshold) -> GoodScores | None:
        """Return the scores of a calibration; None if an older kdx kept none."""
        return cls.of_kept(threshold.scores, threshold.images)

    @classmethod
    def of_kept(cls, scores: Sequence[float], images: int) -> GoodScores | None:
        """Return scores that were kept of so many images; None if they cannot be of so many."""
        if not 0 < len(scores) <= images:
            return None
        return cls(tuple(scores), images, tuple(kept_ranks(images, len(scores))))

    def p_value(self, score: float) -> float | None:
        """Return the conformal p-value of a score; None for a score that is not finite.

        ``(1 + k) / (1 + n)``, with ``k`` of ``n`` held-out good images that score at least as high
        (Vovk, Gammerman and Shafer 2005, section 2.2). A further good part from the same process
        has a p-value of at most ``a`` with probability at most ``a``. Where the bundle keeps
        quantiles, ``k`` is the largest number that they allow, and that still holds.
        """
        if not math.isfinite(score):
            return None
        below = bisect_left(self.kept, score)
        rank = self.ranks[below - 1] if below else 0
        return (1 + self.images - rank) / (1 + self.images)
