"""How well a detector repeats itself on one part: a type-1 study of its scores.

A type-1 study measures one part many times with one gauge. For a length it states the repeatability
and the bias. A score has no reference value, so that a bias is not defined, and with it ``Cgk``;
the repeatability is. The tolerance of a score reaches from 0, its natural lower limit, to the
threshold.

- ``Cg = 0.2 T / (6 s)``, with the tolerance ``T`` and the standard deviation ``s``: how often 20 %
  of the tolerance hold the spread of 6 standard deviations. 20 %, 6 and the usual demand of at
  least 1.33 are those of Minitab ("Methods and formulas for Type 1 Gage Study"), which also lets a
  tolerance begin at a natural limit of 0.
- ``|threshold - mean| / (3 s)``: whether this part's verdict repeats. It is ``Cpu``, the capability
  index of one limit (NIST/SEMATECH e-Handbook of Statistical Methods, section 6.1.6), and 1.33
  means that the threshold is 4 standard deviations away.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from kdx.calibration.rates import CONFIDENCE
from kdx.decision.verdict import Decision
from kdx.errors import DataError

# The share of the tolerance, and the number of standard deviations, in Cg.
TOLERANCE_SHARE = 0.2
SPREAD = 6.0
CAPABLE = 1.33
# The two ends of the interval of ``sigma`` differ by a factor of 2.6; of fewer images, by more.
FEWEST_IMAGES = 10
# Type-1 studies ask for 50 measurements, and for no fewer than 25.
USUAL_IMAGES = 25
# An image whose score is so many robust standard deviations from the median lies apart.
_APART = 5.0
# The standard deviation of a normal distribution by its median absolute deviation.
_TO_SIGMA = 1.4826


class Repeatability(msgspec.Struct, frozen=True, kw_only=True):
    """The scores of one part that was photographed many times.

    Attributes:
        images: The number of images.
        mean: The mean of their scores.
        sigma: The standard deviation of their scores, with n - 1 degrees of freedom: the
            repeatability.
        sigma_interval: The 95 % confidence interval of ``sigma``, for scores that are normally
            distributed.
        range: The largest minus the smallest score.
        smallest: The smallest score.
        largest: The largest score.
        threshold: The score above which a part is defective.
        margin: ``threshold - mean``: negative for a defective part.
        margin_in_sigmas: ``|margin| / sigma``; None where no score differs.
        decision_capability: ``|margin| / (3 sigma)``; None where no score differs.
        cg: ``0.2 threshold / (6 sigma)``; None where no score differs, and for a threshold that is
            not above 0.
        verdicts: The number of images with each verdict.
        changed: The number of images whose verdict is not the most frequent one.
        sigma_of_good: The standard deviation of the held-out good images of the calibration, which
            show different parts; None if the bundle keeps fewer than two scores.
    """

    images: int
    mean: float
    sigma: float
    sigma_interval: tuple[float, float]
    range: float
    smallest: float
    largest: float
    threshold: float
    margin: float
    margin_in_sigmas: float | None
    decision_capability: float | None
    cg: float | None
    verdicts: dict[str, int]
    changed: int
    sigma_of_good: float | None

    @property
    def is_mixed(self) -> bool:
        """Whether the scores do not spread clearly less than those of different good parts.

        That is so if the interval of ``sigma`` reaches ``sigma_of_good``.
        """
        return self.sigma_of_good is not None and self.sigma_interval[1] >= self.sigma_of_good > 0


def repeatability(
    scores: NDArray[np.float64],
    decisions: Sequence[Decision],
    threshold: float,
    good: Sequence[float] = (),
    left_out: str = "",
) -> Repeatability:
    """Return the repeatability of the scores of one part.

    Args:
        scores: The scores, ``(n,)``, all finite.
        decisions: The decisions on the images, and on images that have no score.
        threshold: The score above which a part is defective.
        good: The scores of different good parts.
        left_out: The images that have no score, in words, for the message.

    Raises:
        DataError: Fewer than 10 scores.
    """
    n = len(scores)
    if n < FEWEST_IMAGES:
        raise DataError(
            "too few images of the part",
            expected=f"at least {FEWEST_IMAGES} different images; a type-1 study has 50",
            received=f"{n}, without {left_out}" if left_out else str(n),
            fix="photograph the part more often, and take it out and put it back where the line does",
        )
    from scipy.stats import chi2  # its import takes longer than most commands

    # The mean of equal scores may differ from them by rounding, and with it their deviation from 0.
    mean, sigma = float(scores.mean()), float(scores.std(ddof=1)) if np.ptp(scores) else 0.0
    tail = (1 - CONFIDENCE) / 2
    low, high = (sigma * math.sqrt((n - 1) / float(chi2.ppf(share, n - 1))) for share in (1 - tail, tail))
    counted = Counter(each.value for each in decisions)
    margin = threshold - mean
    return Repeatability(
        images=n,
        mean=mean,
        sigma=sigma,
        sigma_interval=(low, high),
        range=float(np.ptp(scores)),
        smallest=float(scores.min()),
        largest=float(scores.max()),
        threshold=threshold,
        margin=margin,
        margin_in_sigmas=abs(margin) / sigma if sigma else None,
        decision_capability=abs(margin) / (3 * sigma) if sigma else None,
        cg=TOLERANCE_SHARE * threshold / (SPREAD * sigma) if sigma and threshold > 0 else None,
        verdicts=dict(counted.most_common()),
        changed=len(decisions) - counted.most_common(1)[0][1],
        sigma_of_good=float(np.std(good, ddof=1)) if len(good) > 1 else None,
    )


def apart(scores: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which scores lie apart from the others, as those of another part would.

    Args:
        scores: The scores, ``(n,)``.
    """
    distance = np.abs(scores - np.median(scores))
    # Half of the scores may be equal: then the mean deviation stands in for the median one.
    spread = _TO_SIGMA * float(np.median(distance)) or float(distance.mean())
    return distance > _APART * spread if spread else np.zeros(len(scores), bool)
