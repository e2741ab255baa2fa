"""The operations between the graph and the decision: level map, then region of interest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdx.bundle.bundle import Bundle
from kdx.decision.level_map import Level, level_of
from kdx.decision.roi import Roi, roi_of


@dataclass(frozen=True)
class PostProcessing:
    """The operations after the graph, in this order; without them, nothing changes.

    Attributes:
        level: The level map by which maps are divided, or None.
        roi: The region of interest, outside of which maps become 0, or None.
    """

    level: Level | None = None
    roi: Roi | None = None

    def apply(
        self, maps: NDArray[np.float32], scores: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return maps ``(..., h, w)`` and scores ``(..., 1)`` as they are decided upon."""
        for step in (self.level, self.roi):
            if step is not None:
                maps, scores = step.apply(maps, scores)
        return maps, scores


def golden_post_processing(bundle: Bundle) -> PostProcessing:
    """Return the post-processing of a bundle's golden images.

    There is none on tiles: level map and region of interest belong to whole frames.

    Raises:
        BundleError: The stored level map or region of interest is invalid.
    """
    return PostProcessing() if bundle.manifest.tiling else PostProcessing(level_of(bundle), roi_of(bundle))
