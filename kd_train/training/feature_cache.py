"""The teacher's features of a set of images, kept in memory or on the device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from kd_train.data.on_device import on_device


class FeatureCache:
    """The frozen teacher's features, which never change without augmentation.

    Args:
        features: The features of each tap, ``(n, C, h, w)``.
    """

    def __init__(self, features: list[Tensor]) -> None:
        self.features = features

    def __getitem__(self, indices: Sequence[int]) -> list[Tensor]:
        index = on_device(np.array(indices, np.int64), self.features[0].device)
        return [feature.index_select(0, index) for feature in self.features]


def in_order(count: int, size: int) -> list[list[int]]:
    """Return batches of indices in order, none with a single image if there are more.

    Convolutions of a single image may round differently from those of several, and an image's
    features must not depend on whether they were cached.
    """
    batches = [list(range(start, min(start + size, count))) for start in range(0, count, size)]
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [[*batches[-2], *batches[-1]]]
    return batches
