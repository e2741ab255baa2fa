"""The declaration of a pair, from which everything after the taps is built."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec


class Distance(str, enum.Enum):
    """How a student's feature vector is compared with the teacher's at one position.

    Both are 0 for vectors of the same direction and at most 2. ``HALF_SQUARED_L2``: half the
    squared Euclidean distance of the unit vectors (STPM Eq. 1). ``COSINE``: 1 minus the cosine.
    """

    HALF_SQUARED_L2 = "half_squared_l2"
    COSINE = "cosine"


class Combine(str, enum.Enum):
    """How the upsampled maps of the taps become one map: as a weighted sum, or as a product."""

    SUM = "sum"
    PRODUCT = "product"


class ScoreRule(str, enum.Enum):
    """How a map becomes a score: its maximum, or the sum of its values."""

    MAX = "max"
    SUM = "sum"


class Join(str, enum.Enum):
    """How a pair's maps become its anomaly map and its score.

    ``SINGLE``: there is one map. ``CONFIRMED``: the first map is multiplied by the second one,
    which is normalised and weighted by its extent (MixedTeacher Eq. 11); the first map's blur is
    applied last. The other three use the first map as the anomaly map, and the score of the first
    map, of the second, or the product of both.
    """

    SINGLE = "single"
    CONFIRMED = "confirmed"
    SCORE_FIRST = "score_first"
    SCORE_SECOND = "score_second"
    SCORE_BOTH = "score_both"


@dataclass(frozen=True)
class Tap:
    """One comparison of two features.

    Attributes:
        name: The module's name in timm's model, for example ``layer2`` or ``blocks.4``. A method
            with several students adds the student: ``blocks.4 autoencoder``.
        distance: The distance between both features.
        weight: The weight of the tap in a summed map.
        loss_weight: The weight of the tap in the loss (STPM Eq. 3).
    """

    name: str
    distance: Distance = Distance.HALF_SQUARED_L2
    weight: float = 1.0
    loss_weight: float = 1.0


@dataclass(frozen=True)
class MapSpec:
    """One map: its taps, and how their maps are combined.

    Attributes:
        taps: The taps at which features are compared.
        combine: How the maps of the taps are combined.
        blur_sigma: The standard deviation of the map's Gaussian blur, in map pixels; 0 for no blur.
    """

    taps: Annotated[tuple[Tap, ...], msgspec.Meta(min_length=1)]
    combine: Combine
    blur_sigma: float = 0.0


@dataclass(frozen=True)
class PairSpec:
    """The declaration of a pair.

    Attributes:
        maps: One map, or two that are joined.
        join: How the maps become the anomaly map and the score.
        score: How a map becomes a score.
        trained: The taps that are trained but are not part of a map.
    """

    maps: Annotated[tuple[MapSpec, ...], msgspec.Meta(min_length=1, max_length=2)]
    join: Join = Join.SINGLE
    score: ScoreRule = ScoreRule.MAX
    trained: tuple[Tap, ...] = ()

    @property
    def taps(self) -> tuple[Tap, ...]:
        """The taps of every map, in order."""
        return tuple(tap for map_spec in self.maps for tap in map_spec.taps)

    @property
    def loss_taps(self) -> tuple[Tap, ...]:
        """All taps that are trained: those of the maps, then the others."""
        return self.taps + self.trained

    @property
    def map_rule(self) -> ScoreRule | None:
        """How the returned map becomes the score; None if the score needs more than that map."""
        return _map_rule(self.join, self.score)

    def describe(self) -> str:
        """Return a text that says how features become a score."""
        parts = [
            f"{m.combine.value} over {', '.join(tap.name for tap in m.taps)}"
            + (f", blur sigma {m.blur_sigma:g}" if m.blur_sigma else "")
            for m in self.maps
        ]
        joined = "" if self.join is Join.SINGLE else f"; {self.join.value.replace('_', ' ')}"
        return f"{' | '.join(parts)}{joined}; score: {self.score.value}"


def encode_pair_spec(spec: PairSpec) -> dict[str, Any]:
    """Return a declaration as bundles store it."""
    encoded: dict[str, Any] = msgspec.to_builtins(spec)
    return encoded


def decode_pair_spec(stored: Mapping[str, object]) -> PairSpec | None:
    """Return the declaration that a bundle stores; None if this kdx does not know it."""
    try:
        return msgspec.convert(stored, PairSpec)
    except msgspec.ValidationError:
        return None


def decode_map_rule(stored: Mapping[str, object]) -> ScoreRule | None:
    """Return :attr:`PairSpec.map_rule` of a declaration that a bundle stores.

    Join and score are enough for it: maps and trained taps may be unknown to this kdx.
    """
    try:
        scoring = msgspec.convert(stored, _Scoring)
    except msgspec.ValidationError:
        return None
    return _map_rule(scoring.join, scoring.score)


@dataclass(frozen=True)
class _Scoring:
    join: Join = PairSpec.join
    score: ScoreRule = PairSpec.score


def _map_rule(join: Join, score: ScoreRule) -> ScoreRule | None:
    # The other joins multiply two maps, or score a map that is not returned.
    return score if join in (Join.SINGLE, Join.SCORE_FIRST) else None
