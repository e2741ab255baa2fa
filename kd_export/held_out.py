"""Does a variant give held-out good images, and synthetic defects on them, the verdicts that FP32 gives them?

The order of a few golden images says little of the verdicts near a threshold, and a plain folder of good parts has no
defects at all. So the command that exports hands over good images that were held out of training, and draws synthetic
defects on them. FP32 and the variant each decide at the threshold that calibration would choose from their own scores.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, rankdata

from kdx.variants import HeldOutVerdicts

# The least evidence for writing BF16 or INT8. So few bound little, and what they bound is said.
LEAST_GOOD, LEAST_DEFECTS = 5, 15
# What kdx calibrate asks for unless it is told otherwise.
_FALSE_REJECT_RATE = 0.01
CONFIDENCE = 0.95


@dataclass(frozen=True)
class HeldOut:
    """Images to judge verdicts on, as the graph takes them: uint8 ``(H, W, C)`` each, the same in every loop.

    Attributes:
        good: Good images that were not trained on.
        defects: The same with a synthetic defect each: the i-th on the i-th good image, beginning again after the last.
    """

    good: Iterable[NDArray[np.uint8]]
    defects: Iterable[NDArray[np.uint8]]


@dataclass(frozen=True)
class HeldOutScores:
    """A graph's scores of them, ``(G,)`` and ``(D,)``."""

    good: NDArray[np.float64]
    defects: NDArray[np.float64]

    @property
    def missing(self) -> str:
        """Say what is missing to the least evidence; empty for nothing."""
        if len(self.good) >= LEAST_GOOD and len(self.defects) >= LEAST_DEFECTS:
            return ""
        return (
            f"{len(self.good)} held-out good images and {len(self.defects)} synthetic defects are too few, it takes "
            f"{LEAST_GOOD} and {LEAST_DEFECTS}; train with more good images, or a larger --validation-fraction"
        )


def compare_verdicts(reference: HeldOutScores, variant: HeldOutScores) -> HeldOutVerdicts:
    """Compare a variant's verdicts with FP32's, each at its own threshold."""
    count = len(reference.good)
    rate = max(_FALSE_REJECT_RATE, 1 / (count + 1))
    exact, own = (_threshold(each.good, rate) for each in (reference, variant))
    caught, still_caught = reference.defects > exact, variant.defects > own
    flips = np.concatenate([(reference.good > exact) != (variant.good > own), caught != still_caught])
    images = np.arange(len(flips) - count) % count
    flipped = np.unique(np.concatenate([np.arange(count), images])[flips])
    return HeldOutVerdicts(
        good=count,
        defects=len(reference.defects),
        false_reject_rate=rate,
        flips=int(flips.sum()),
        missed=int((caught & ~still_caught).sum()),
        flipped_images=len(flipped),
        rate_bound=rate_bound(len(flipped), count),
        auroc=_auroc(variant),
        auroc_reference=_auroc(reference),
    )


def rate_bound(events: int, trials: int) -> float:
    """Return the rate that is not exceeded with 95 % confidence after so many events (Clopper and Pearson 1934)."""
    return 1.0 if events >= trials else float(beta.ppf(CONFIDENCE, events + 1, trials - events))


def auroc(is_defective: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """Return the area under the ROC curve by ranks (Mann and Whitney); kd_train's metrics need scikit-learn."""
    positives = int(is_defective.sum())
    negatives = len(is_defective) - positives
    above = rankdata(scores)[is_defective].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def _auroc(scores: HeldOutScores) -> float:
    labels = np.arange(len(scores.good) + len(scores.defects)) >= len(scores.good)
    return auroc(labels, np.concatenate([scores.good, scores.defects]))


def _threshold(good: NDArray[np.float64], rate: float) -> float:
    """Return the score that a further good image exceeds at most at that rate, as ``kdx calibrate`` chooses it."""
    rank = math.ceil((len(good) + 1) * (1 - rate) - 1e-9)
    return float(np.sort(good)[rank - 1])
