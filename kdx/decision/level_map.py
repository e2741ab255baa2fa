"""Normalisation per position: of parts that always lie at the same place, some places are naturally hotter than others.

The map is divided by a level: how hot good parts get there. 1 is as hot as they get, so that a faint defect in a calm
place counts as much as a strong one on an edge. Like the region of interest, and before it, this is applied behind the
graph, and the score is taken anew by the bundle's own rule. ``embed/src/position.cpp`` has the same definition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kdx.bundle.bundle import Bundle
from kdx.bundle.manifest import LEVEL, Manifest, Threshold
from kdx.bundle.pair_spec import ScoreRule
from kdx.bundle.store import with_file
from kdx.bundle.stored_level import read_level
from kdx.errors import DataError, InputError
from kdx.imaging.frame_faults import FrameLimits
from kdx.storage.files import sha256_bytes
from kdx.storage.npy import encode_array

# A level is widened by this share of the map's shorter side: parts lie a little differently each time.
RADIUS = 0.02
# Of the median: calm places are not divided by nearly nothing.
FLOOR = 0.25


@dataclass(frozen=True, eq=False)
class Level:
    """How hot good parts get, by pixel of the map.

    Attributes:
        values: float32 ``(h, w)``, above 0.
        rule: How the map becomes the score: ``max`` or ``sum``.
    """

    values: NDArray[np.float32] = field(repr=False)
    rule: ScoreRule

    def apply(
        self, maps: NDArray[np.float32], scores: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return normalised maps and their scores; a score that is not finite stays.

        Args:
            maps: float32 ``(..., h, w)``.
            scores: float32 ``(..., 1)``.
        """
        maps = maps / self.values
        if self.rule == "max":
            own = maps.max(axis=(-2, -1))[..., None]
        else:
            own = maps.sum(axis=(-2, -1), dtype=np.float64).astype(np.float32)[..., None]
        return maps, np.where(np.isfinite(scores), own, scores)

    @property
    def encoded(self) -> bytes:
        """The file's content."""
        return encode_array(self.values)

    @property
    def sha256(self) -> str:
        """The file's hash."""
        return sha256_bytes(self.encoded)


def rule_of(manifest: Manifest) -> ScoreRule:
    """Return how a bundle's map becomes its score; raise ``InputError`` where its score is not of the map alone."""
    if manifest.map_rule is None:
        raise InputError(
            "this method takes no normalisation per position: its score does not come from the returned map alone",
            expected="a method whose score is the maximum or the sum of one map, for example stpm",
            fix="calibrate without --per-position",
        )
    return manifest.map_rule


def level_from(hottest: NDArray[np.float32], rule: ScoreRule, counted: NDArray[np.bool_] | None = None) -> Level:
    """Return the level of good parts: widened by :data:`RADIUS`, and nowhere below :data:`FLOOR` of its median.

    Args:
        hottest: float32 ``(h, w)``, the maximum over maps of good images.
        rule: As for :class:`Level`.
        counted: bool ``(h, w)``, of whose pixels the median is; None for all.

    Raises:
        DataError: The maps are not finite, or 0 nearly everywhere.
    """
    from scipy.ndimage import maximum_filter

    radius = max(1, round(RADIUS * min(hottest.shape)))
    level = maximum_filter(hottest, size=2 * radius + 1, mode="nearest")
    least = np.float32(FLOOR * np.median(level if counted is None else level[counted]))
    if not (np.isfinite(hottest).all() and least > 0):
        raise DataError(
            "the maps of these good images give no level", expected="finite, and above 0 in most places",
            received=f"{hottest.min():.3g} to {hottest.max():.3g}", fix="run kdx verify",
        )  # fmt: skip
    return Level(np.maximum(level, least).astype(np.float32), rule)


def level_of(bundle: Bundle) -> Level | None:
    """Return a bundle's level, or None.

    Raises:
        BundleError: The stored level map is not valid.
    """
    values = read_level(bundle)
    return None if values is None else Level(values, rule_of(bundle.manifest))


def store_calibration(
    bundle: Bundle,
    threshold: Threshold,
    own: Mapping[str, Mapping[str, Threshold]],
    level: Level | None,
    frame_limits: FrameLimits | None = None,
) -> Bundle:
    """Store thresholds and the level map, or none, in one step.

    Thresholds are stored as by :meth:`kdx.bundle.bundle.Bundle.with_thresholds`.

    Raises:
        BundleError: The bundle on disk is another one by now.
        OutputError: The folder around it cannot be written.
    """
    if (level and level.sha256) == bundle.manifest.level_sha256:
        return bundle.with_thresholds(threshold, own, frame_limits)
    return with_file(bundle, LEVEL, level.encoded if level else None, (threshold, own, frame_limits))
