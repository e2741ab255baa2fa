"""What a method declares of itself; everything behind the taps is built from this."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Distance(str, enum.Enum):
    """How a student's feature vector is held against the teacher's at one position."""

    HALF_SQUARED_L2 = "half_squared_l2"
    COSINE = "cosine"


class Combine(str, enum.Enum):
    """How the upsampled maps of the taps become one map."""

    SUM = "sum"
    PRODUCT = "product"


class ScoreRule(str, enum.Enum):
    """How a map becomes a score."""

    MAX = "max"
    SUM = "sum"


@dataclass(frozen=True)
class Tap:
    """One place where teacher and student are compared.

    Attributes:
        name: The module's name in timm's model, e.g. ``layer2`` or ``blocks.4``.
        distance: The distance used there.
        weight: Its weight in the loss (STPM Eq. 3) and in a summed map.
    """

    name: str
    distance: Distance = Distance.HALF_SQUARED_L2
    weight: float = 1.0


@dataclass(frozen=True)
class PairSpec:
    """The declaration of a pair.

    Attributes:
        taps: Where features are compared.
        combine: How the taps' maps become one.
        blur_sigma: Standard deviation of the map's Gaussian blur, in map pixels; 0 for none.
        score: How the map becomes a score.
    """

    taps: tuple[Tap, ...]
    combine: Combine
    blur_sigma: float = 0.0
    score: ScoreRule = ScoreRule.MAX
