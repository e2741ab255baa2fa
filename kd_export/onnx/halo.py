"""How much of a tile's edge differs from the map of a frame that extends beyond the tile.

In theory a map's pixel sees the whole receptive field, more than half of a tile for the usual taps;
the weight that it gives to what is far away is tiny (Luo et al., Understanding the Effective
Receptive Field, NeurIPS 2016). So the halo is measured: on the pair that was trained, on real
images.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kd_export.graph import FusedDetector, Join, PairSpec, ScoreRule
from kdx.errors import OptionError
from kdx.imaging.tiling import SEAM_TOLERANCE

# More of a tile's side is never thrown away: a quarter at each end makes four times as many tiles
# already.
_MOST = 4
# A map without any range would divide by zero.
_LEAST_RANGE = 1e-12


def require_tileable(
    spec: PairSpec, tile: tuple[int, int], size: tuple[int, int], resize_to: tuple[int, int] | None
) -> None:
    """Check that a pair can judge tiles.

    Args:
        spec: The pair's declaration.
        tile: Height and width of a tile in the camera's pixels.
        size: Height and width at which the networks run.
        resize_to: As for :class:`FusedDetector`.

    Raises:
        OptionError: The maps of tiles do not make the frame's map, or the score is not the map's
            maximum.
    """
    if spec.score is not ScoreRule.MAX or spec.join not in {Join.SINGLE, Join.SCORE_FIRST}:
        raise OptionError(
            "this pair cannot judge tiles: each image's map or score depends on the whole of it",
            expected="a score that is the map's maximum, as of stpm, reduced-student, dskd, dual-det, dual-loc and "
            "reverse-distillation",
            received=spec.describe(),
        )
    if resize_to is not None:
        raise OptionError(
            "this pair cuts its input from the centre, and tiles would have gaps",
            fix="train without a crop: kdx train DATA --crop-from 0",
        )
    if any(side % small for side, small in zip(tile, size, strict=True)):
        raise OptionError(
            "the tile does not fit the networks' input",
            expected=f"a multiple of {size[0]} × {size[1]}",
            received=f"{tile[0]} × {tile[1]}",
            fix="choose another `tile`, or train at another size: kdx train DATA --image-size SIDE",
        )


def choose_halo(errors: NDArray[np.float64], step: int) -> int:
    """Return the smallest halo inside which maps agree, or the largest that is worth its cost."""
    largest = len(errors) * 2 // _MOST // step * step
    return next((halo for halo in range(0, largest, step) if errors[halo] <= SEAM_TOLERANCE), largest)


def edge_errors(
    pair: nn.Module,
    detector: FusedDetector,
    images: Sequence[NDArray[np.uint8]],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> NDArray[np.float64]:
    """Return the largest relative error of tiles' maps from each distance to the edge inwards.

    Each image is judged as a tile and, mirrored at its edges, as the middle of a frame about twice
    as large.

    Args:
        pair: The pair that the detector was made of.
        detector: The detector of tiles.
        images: uint8 ``(H, W, C)`` of the detector's size.
        mean: As for :class:`FusedDetector`.
        std: As for :class:`FusedDetector`.

    Returns:
        The largest difference at each distance, in pixels of the map, or further inside; up to the
        middle.
    """
    tile, size = detector.input_spec, detector.size
    # Frames are cut at multiples of the deepest stride, so that all tiles lie on the same grid.
    step = max(detector.strides)
    before = [-(-side // (2 * step)) * step for side in size]
    sides = zip(before, (tile.height, tile.width), size, strict=True)
    pads = [margin * length // side for margin, length, side in sides]
    larger = msgspec.structs.replace(tile, height=tile.height + 2 * pads[0], width=tile.width + 2 * pads[1])
    whole = (size[0] + 2 * before[0], size[1] + 2 * before[1])
    around = FusedDetector(pair, detector.spec, larger, whole, mean, std)
    worst = np.zeros(min(size) // 2)
    rows, columns = (np.minimum(np.arange(side), np.arange(side)[::-1]) for side in size)
    edge = np.minimum(rows[:, None], columns[None, :])
    inside = tuple(slice(margin, margin + side) for margin, side in zip(before, size, strict=True))
    with torch.inference_mode():
        for image in images:
            wider = np.pad(image, [(pad, pad) for pad in (*pads, 0)], mode="symmetric")
            alone = detector(torch.from_numpy(image[None].copy()))[0][0].numpy()
            within = around(torch.from_numpy(wider[None]))[0][0].numpy()[inside]
            difference = np.abs(alone - within) / max(float(np.ptp(within)), _LEAST_RANGE)
            worst = np.maximum(worst, [difference[edge >= d].max() for d in range(len(worst))])
    return worst
