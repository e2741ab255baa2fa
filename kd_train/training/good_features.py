"""Features of good images as a detector: how far is the nearest one?

This is PatchCore (Roth et al., CVPR 2022, sections 3.1 to 3.3, equation 6) without its aggregation
of neighbours and with a random subset in place of a coreset: cheap, and without any training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

# At most about so many positions are kept of each tap: small feature maps have fewer.
POSITIONS = 6400
# The number of positions that are compared at once, which bounds the memory.
_AT_ONCE = 1024


class GoodFeatures:
    """Unit vectors of the features of good images at some positions of each tap.

    At every position of another image, the distance is half the squared distance of unit vectors
    to the nearest of them. The distances of the taps are enlarged to the size of the largest tap
    and added up, and the image's score is the maximum.

    Args:
        taps: The number of taps.
        images: The number of good images that are added. Of each, as many positions are kept.
        seed: The seed that decides which positions.
    """

    def __init__(self, taps: int, images: int, seed: int) -> None:
        self._kept: list[list[Tensor]] = [[] for _ in range(taps)]
        self._each = math.ceil(POSITIONS / images)
        self._seed = seed

    def add(self, features: Sequence[Tensor]) -> None:
        """Keep positions of a good image; features are ``(1, C, h, w)``, one for each tap."""
        for tap, (feature, kept) in enumerate(zip(features, self._kept, strict=True)):
            vectors = _unit_vectors(feature)
            order = np.random.default_rng([self._seed, len(kept), tap]).permutation(len(vectors))
            kept.append(vectors[order[: self._each].copy()])

    def score(self, features: Sequence[Tensor]) -> float:
        """Return the score of an image, whose features are ``(1, C, h, w)``, one for each tap."""
        height, width = (max(sizes) for sizes in zip(*(feature.shape[2:] for feature in features), strict=True))
        total = torch.zeros(1, 1, height, width)
        for tap, feature in enumerate(features):
            kept = self._joined(tap)
            parts = torch.split(_unit_vectors(feature), _AT_ONCE)
            nearest = torch.cat([(part @ kept.T).amax(1) for part in parts])
            distance = (1 - nearest).reshape(1, 1, *feature.shape[2:])
            total += functional.interpolate(distance, (height, width), mode="bilinear", align_corners=False)
        return float(total.max())

    def _joined(self, tap: int) -> Tensor:
        """Return what is kept of a tap as one tensor ``(P, C)``, which replaces its parts."""
        if len(self._kept[tap]) > 1:
            self._kept[tap] = [torch.cat(self._kept[tap])]
        return self._kept[tap][0]


def _unit_vectors(feature: Tensor) -> Tensor:
    """Return ``(h * w, C)`` of a feature ``(1, C, h, w)``."""
    return functional.normalize(feature[0].flatten(1).T, dim=1)
