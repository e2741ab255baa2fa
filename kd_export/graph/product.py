"""The blurred product of enlarged maps, computed from the maps' own cells.

Along one axis, every row of a bilinear matrix ``U`` has at most two weights. So the product of two
enlarged maps, ``(U₁m₁)(U₂m₂)[r] = Σ U₁[r,i] U₂[r,j] m₁[i] m₂[j]``, has terms for the few pairs
``(i, j)`` of cells that some pixel lies between. With a row of ``S₁`` and of ``S₂`` for each pair,
which select ``m₁[i]`` and ``m₂[j]``, and a column of ``K`` for its weights ``U₁[r,i] U₂[r,j]``, the
product is ``K (S₁m₁ · S₂m₂)``, and its blur ``(GK) (S₁m₁ · S₂m₂)``. For two taps of strides 16 and
32 at 160² there are 26 pairs, and 0.8 million multiplications replace 8.6 million.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdx.imaging.resampling import Matrix

# Matrices of a product are replaced only where this share of their multiplications is left: with
# more taps, or taps of finer strides, there are more combinations of cells than pixels.
_WORTHWHILE = 0.5


@dataclass(frozen=True)
class AxisFactors:
    """The matrices along one axis: ``after @ Π (before[k] @ m[k])``.

    Attributes:
        before: The matrix of each map before the product, ``(inner, cells)``.
        after: The matrix after the product, ``(pixels, inner)``; None for the identity.
    """

    before: list[Matrix]
    after: Matrix | None


def product_factors(rows: AxisFactors, columns: AxisFactors) -> tuple[AxisFactors, AxisFactors]:
    """Return factors of the same product that need the fewest multiplications.

    Args:
        rows: The bilinear matrices of the maps' vertical axis, and the blur's.
        columns: The same for the horizontal axis.
    """
    selected = _selecting(rows), _selecting(columns)
    return selected if _multiplications(*selected) < _WORTHWHILE * _multiplications(rows, columns) else (rows, columns)


def _selecting(axis: AxisFactors) -> AxisFactors:
    """Return factors whose ``before`` select the cells of each combination."""
    weighted = [[np.flatnonzero(row) for row in matrix] for matrix in axis.before]
    cells = sorted({cells for row in zip(*weighted, strict=True) for cells in itertools.product(*row)})
    chosen = [list(each) for each in zip(*cells, strict=True)]
    weights = np.prod([matrix[:, each] for matrix, each in zip(axis.before, chosen, strict=True)], axis=0)
    before = [np.eye(matrix.shape[1])[each] for matrix, each in zip(axis.before, chosen, strict=True)]
    return AxisFactors(before, weights if axis.after is None else axis.after @ weights)


def _multiplications(rows: AxisFactors, columns: AxisFactors) -> int:
    """Return how many multiplications the matrices take, width first, for one image."""

    def of(left: Sequence[int], right: Sequence[int]) -> int:
        return left[1] * right[1] * right[0] + left[0] * left[1] * right[0]

    counts = [of(row.shape, column.shape) for row, column in zip(rows.before, columns.before, strict=True)]
    if rows.after is not None and columns.after is not None:
        counts.append(of(rows.after.shape, columns.after.shape))
    return sum(counts)
