"""Does a variant give held-out images and synthetic defects the verdicts that FP32 gives?

The order of a few golden images says little about verdicts near a threshold, and a plain folder of
good parts has no defects at all. So the export passes good images that were held out of training,
and draws synthetic defects on them. FP32 and the variant each decide at the threshold that
calibration would choose from their own scores.

An image must not choose the threshold that judges it: of few images the threshold is the largest
score, which none of them exceeds. So each image, with the defects drawn on it, is judged at
thresholds from the scores of all other images.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdx.bundle.threshold_checks import rank_of
from kdx.bundle.variants import HeldOutVerdicts

# The least evidence for writing BF16 or INT8. Without a flip, 6 images bound the share of images
# that flip to 39 %; 5 bound it to 45 %, which is more than the limit rate_bound in tolerances.py
# allows. Three defects are drawn on each.
LEAST_GOOD, LEAST_DEFECTS = 6, 18
# The default of kdx calibrate.
_FALSE_REJECT_RATE = 0.01
CONFIDENCE = 0.95


@dataclass(frozen=True)
class HeldOut:
    """Images to judge verdicts on, uint8 ``(H, W, C)`` each, the same in every loop.

    Attributes:
        good: Good images that were not trained on.
        defects: The good images with a synthetic defect each: the i-th on the i-th good image,
            starting again after the last.
        frames: Number of frames that the good images are tiles of, which repeat in this order; None
            for whole images.
    """

    good: Iterable[NDArray[np.uint8]]
    defects: Iterable[NDArray[np.uint8]]
    frames: int | None = None


@dataclass(frozen=True)
class HeldOutScores:
    """A graph's scores of held-out images.

    Attributes:
        good: Scores of the good images, ``(G,)``.
        defects: Scores of the defects, ``(D,)``.
        frames: Number of frames that the good images are tiles of; None for whole images.
    """

    good: NDArray[np.float64]
    defects: NDArray[np.float64]
    frames: int | None = None

    @property
    def count(self) -> int:
        """Number of images that are independent of each other: tiles of one frame are not."""
        return len(self.good) if self.frames is None else self.frames

    @property
    def frame_of_good(self) -> NDArray[np.intp]:
        """Index of the frame of each good image, ``(G,)``."""
        return np.arange(len(self.good)) % max(1, self.count)

    @property
    def frame_of_defects(self) -> NDArray[np.intp]:
        """Index of the frame of each defect, ``(D,)``."""
        return self.frame_of_good[np.arange(len(self.defects)) % max(1, len(self.good))]

    @property
    def missing(self) -> str:
        """What is missing for the least evidence, in words; empty if nothing is."""
        if self.count >= LEAST_GOOD and len(self.defects) >= LEAST_DEFECTS:
            return ""
        return (
            f"{self.count} held-out good images and {len(self.defects)} synthetic defects are too few, the least is "
            f"{LEAST_GOOD} and {LEAST_DEFECTS}; train with more good images, or hold more of them out: "
            "kdx train DATA --validation-fraction SHARE"
        )

    @property
    def false_reject_rate(self) -> float:
        """The rate at which thresholds are chosen: 1 %, or the lowest of so few images."""
        return max(_FALSE_REJECT_RATE, 1 / self.count)

    @property
    def of_frames(self) -> NDArray[np.float64]:
        """The score of each frame, which is that of its hottest tile, ``(count,)``."""
        frames = np.full(self.count, -np.inf)
        np.maximum.at(frames, self.frame_of_good, self.good)
        return frames

    @property
    def above(self) -> int:
        """How many of all frames exceed the threshold that ``kdx calibrate`` chooses from them."""
        return self.count - rank_of(self.count, self.false_reject_rate)

    @property
    def above_others(self) -> int:
        """How many of all frames but one exceed the threshold that is chosen from them."""
        return self.count - 1 - rank_of(self.count - 1, self.false_reject_rate)

    @property
    def threshold(self) -> float:
        """The threshold that ``kdx calibrate`` chooses from the good images."""
        return float(np.sort(self.of_frames)[-1 - self.above])

    @property
    def auroc(self) -> float:
        """The image AUROC, defects against good images."""
        return auroc_of(self.good, self.defects)

    def rejected(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which good images ``(G,)`` and defects ``(D,)`` are rejected.

        Each is judged at the threshold that all other frames give.
        """
        thresholds = _thresholds_without(self.of_frames, self.false_reject_rate)
        return self.good > thresholds[self.frame_of_good], self.defects > thresholds[self.frame_of_defects]


def compare_verdicts(reference: HeldOutScores, variant: HeldOutScores) -> HeldOutVerdicts:
    """Compare a variant's verdicts with FP32's, each at thresholds from other images' scores."""
    count, rate = reference.count, reference.false_reject_rate
    rejected, caught = reference.rejected()
    still_rejected, still_caught = variant.rejected()
    good_flips, defect_flips = rejected != still_rejected, caught != still_caught
    flipped = np.union1d(reference.frame_of_good[good_flips], reference.frame_of_defects[defect_flips])
    return HeldOutVerdicts(
        good=len(reference.good),
        frames=count,
        defects=len(reference.defects),
        false_reject_rate=rate,
        flips=int(good_flips.sum() + defect_flips.sum()),
        caught=int(caught.sum()),
        missed=int((caught & ~still_caught).sum()),
        flipped_images=len(flipped),
        rate_bound=rate_bound(len(flipped), count),
        auroc=variant.auroc,
        auroc_reference=reference.auroc,
    )


def rate_bound(events: int, trials: int) -> float:
    """Return the upper 95 % bound of a rate after this many events (Clopper and Pearson 1934)."""
    from scipy.stats import beta  # its import takes longer than most commands

    return 1.0 if events >= trials else float(beta.ppf(CONFIDENCE, events + 1, trials - events))


def auroc(is_defective: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """Return the area under the ROC curve by ranks (Mann and Whitney), without scikit-learn."""
    from scipy.stats import rankdata

    positives = int(is_defective.sum())
    negatives = len(is_defective) - positives
    above = rankdata(scores)[is_defective].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def auroc_of(good: NDArray[np.float64], defects: NDArray[np.float64]) -> float:
    """Return the area under the ROC curve of scores of good and of defective images."""
    return auroc(np.arange(len(good) + len(defects)) >= len(good), np.concatenate([good, defects]))


def _thresholds_without(good: NDArray[np.float64], rate: float) -> NDArray[np.float64]:
    """Return for each score ``(N,)`` the threshold that the others give in ``kdx calibrate``.

    N is at least 2. A further good image exceeds it at most at that rate, which is at least ``1 /
    N``.
    """
    order = np.argsort(good, kind="stable")
    position = rank_of(len(good) - 1, rate) - 1  # among the N - 1 others, from 0
    places = np.empty(len(good), np.intp)
    places[order] = np.arange(len(good))
    # Leaving a score out moves the scores after it one place forward.
    without: NDArray[np.float64] = good[order[position + (places <= position)]]
    return without
