"""Regions of a map that is computed in bands of rows; see :mod:`kdx.decision.regions`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kdx.decision.regions import NEIGHBOURS, Patch
from kdx.decision.verdict import above


class BandRegions:
    """Finds the connected parts of a map above a threshold, band by band, from the top down.

    It holds one entry for each part that was found, however large the map is.

    Args:
        threshold: The value that all values of a region exceed.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._patches: list[Patch] = []
        self._parents: list[int] = []
        self._above: NDArray[np.intp] | None = None  # the numbers in the last row; -1 where there is none

    def add(self, first_row: int, band: NDArray[np.float32]) -> None:
        """Add the next rows ``(h, w)`` of the map."""
        # To import SciPy takes as long as the rest of a process that scores; most need no regions.
        from scipy.ndimage import find_objects, label

        labels, count = label(above(band, self._threshold), NEIGHBOURS)
        start = len(self._patches)
        for number, (rows, columns) in enumerate(find_objects(labels), start=1):
            inside = labels[rows, columns] == number
            self._patches.append(Patch.of(inside, band[rows, columns], first_row + rows.start, columns.start))
        self._parents += range(start, start + count)
        numbers = labels.astype(np.intp) + (start - 1)
        numbers[labels == 0] = -1
        if self._above is not None:
            self._join(self._above, numbers[0])
        self._above = numbers[-1]

    def _join(self, above: NDArray[np.intp], below: NDArray[np.intp]) -> None:
        """Join what touches across two rows, diagonally too."""
        width = len(above)
        for shift in (-1, 0, 1):
            upper = above[max(0, -shift) : width - max(0, shift)]
            lower = below[max(0, shift) : width - max(0, -shift)]
            both = (upper >= 0) & (lower >= 0)
            for one, other in np.unique(np.stack([upper[both], lower[both]], axis=1), axis=0).tolist():
                first, second = sorted((self._root(one), self._root(other)))
                if first != second:
                    self._parents[second] = first
                    self._patches[first] = self._patches[first].joined(self._patches[second])

    def _root(self, number: int) -> int:
        while self._parents[number] != number:
            self._parents[number] = self._parents[self._parents[number]]
            number = self._parents[number]
        return number

    @property
    def patches(self) -> list[Patch]:
        """The connected parts that were found, the first in rows and columns first."""
        return [patch for number, patch in enumerate(self._patches) if self._parents[number] == number]
