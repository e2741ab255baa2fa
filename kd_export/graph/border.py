"""Weights by the distance from the image's border, for maps that are noisier there.

Near the border the networks see less of the part, and what they see includes their own padding: a
student imitates its teacher worse there, on good parts too. Maps of good circuit boards (DeepPCB, a
compact pair) are three times as high at the border as usual, and their highest thousandth is
seventeen times as high. So most false rejects lie there.

So the map that makes the score is multiplied by a weight for each distance from the border. The
weight is 1 where good maps are as low as they usually are, and smaller where they are higher. A
defect at the border is still found, if it exceeds what good parts show there.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from torch import Tensor, nn

from kdx.bundle.pair_spec import Join, PairSpec

# Smoothing of the level over distances, in pixels of the map: a level comes from few positions.
_SMOOTHING = 2.0


def scoring_maps(spec: PairSpec) -> tuple[bool, ...]:
    """Return for each map that a pair's tail computes whether the score is made of it."""
    return {
        Join.SINGLE: (True,),
        Join.CONFIRMED: (True,),  # both maps become one before
        Join.SCORE_FIRST: (True, False),
        Join.SCORE_SECOND: (False, True),
        Join.SCORE_BOTH: (True, True),
    }[spec.join]


def border_distances(size: tuple[int, int]) -> NDArray[np.intp]:
    """Return the distance of each pixel from the nearest border, ``(H, W)``; 0 at the border."""
    rows, columns = (np.minimum(np.arange(side), np.arange(side)[::-1]) for side in size)
    distances: NDArray[np.intp] = np.minimum(rows[:, None], columns[None, :])
    return distances


def weights_of_level(squares: NDArray[np.float64]) -> tuple[float, ...]:
    """Return the weight at each distance from the border, from the border inwards.

    The level at a distance is the root mean square of the maps there. High values decide it, as
    they decide false rejects. A mean is too low; higher powers and quantiles find as much, and
    depend on single images.

    Args:
        squares: The mean over maps of good images of their squares, ``(H, W)``.

    Returns:
        Weights in (0, 1], one for each distance: half of the shorter side, rounded up. All are 1
        where most levels are 0.
    """
    height, width = squares.shape
    distances = border_distances((height, width)).ravel()
    means = np.bincount(distances, weights=squares.ravel()) / np.bincount(distances)
    level = gaussian_filter1d(np.sqrt(means), _SMOOTHING, mode="nearest")
    usual = float(np.median(level))
    if not usual > 0:
        return (1.0,) * len(level)
    return tuple((usual / np.maximum(level, usual)).tolist())


class BorderWeights(nn.Module):
    """Multiplies maps by a weight for each distance from the border.

    Args:
        weights: The weights, from the border inwards, as :func:`weights_of_level` returns them.
        size: Height and width of the maps.
    """

    weight: Tensor

    def __init__(self, weights: tuple[float, ...], size: tuple[int, int]) -> None:
        super().__init__()
        by_pixel = np.array(weights, np.float32)[border_distances(size)]
        self.register_buffer("weight", torch.from_numpy(by_pixel), persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Take ``(N, H, W)`` and return ``(N, H, W)``."""
        return maps * self.weight
