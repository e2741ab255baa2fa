"""Normalisation per position, for parts that always lie in the same place.

Good parts have higher map values in some places, such as edges, than in others. Dividing the map by
the level map, the highest values of good parts at each position, lets a faint defect in a uniform
area count as much as a strong one on an edge: 1 is the highest value that good parts reach. The
division is part of the post-processing after the graph, before the region of interest, and the
score is computed again from the divided map by the bundle's own rule. ``embed/src/level_map.cpp``
has the same definition.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kdx.bundle.bundle import Bundle
from kdx.bundle.manifest import LEVEL, Manifest
from kdx.bundle.pair_spec import ScoreRule
from kdx.bundle.store import with_file
from kdx.bundle.stored_level import read_level
from kdx.bundle.stored_threshold import Threshold
from kdx.errors import DataError, InputError
from kdx.imaging.frame_faults import FrameLimits
from kdx.storage.files import sha256_bytes
from kdx.storage.npy import encode_array

# Maxima are widened by this share of the map's shorter side, because the position of parts varies a
# little.
RADIUS = 0.02
# The lowest level, as a share of the median: nothing is divided by a value near zero.
FLOOR = 0.25


@dataclass(frozen=True, eq=False)
class Level:
    """A level map: the highest map values of good parts, by pixel of the map.

    Attributes:
        values: The level of each pixel, float32 ``(h, w)``, above 0.
        rule: How the map becomes the score: its maximum or its sum.
    """

    values: NDArray[np.float32] = field(repr=False)
    rule: ScoreRule

    def apply(
        self, maps: NDArray[np.float32], scores: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return normalised maps and their scores; a score that is not finite stays as it is.

        Args:
            maps: Anomaly maps, float32 ``(..., h, w)``.
            scores: Their scores, float32 ``(..., 1)``.
        """
        maps = maps / self.values
        if self.rule == "max":
            own = maps.max(axis=(-2, -1))[..., None]
        else:
            own = maps.sum(axis=(-2, -1), dtype=np.float64).astype(np.float32)[..., None]
        return maps, np.where(np.isfinite(scores), own, scores)

    @property
    def encoded(self) -> bytes:
        """The content of the level map's file."""
        return encode_array(self.values)

    @property
    def sha256(self) -> str:
        """The SHA-256 of the level map's file."""
        return sha256_bytes(self.encoded)


def rule_of(manifest: Manifest) -> ScoreRule:
    """Return how a bundle's map becomes its score.

    Raises:
        InputError: The score is not computed from the returned map alone.
    """
    if manifest.map_rule is None:
        raise InputError(
            "this method takes no normalisation per position: its score does not come from the returned map alone",
            expected="a method whose score is the maximum or the sum of one map, for example stpm",
            fix="calibrate without `per_position`",
        )
    return manifest.map_rule


def level_from(hottest: NDArray[np.float32], rule: ScoreRule, counted: NDArray[np.bool_] | None = None) -> Level:
    """Return the level map of good parts.

    Maxima are widened by :data:`RADIUS`. No level is below :data:`FLOOR` of their median.

    Args:
        hottest: The maximum over the maps of good images, float32 ``(h, w)``.
        rule: How the map becomes the score.
        counted: The pixels of which the median is taken, bool ``(h, w)``; None for all.

    Raises:
        DataError: The maps are not finite, or 0 nearly everywhere.
    """
    from scipy.ndimage import maximum_filter

    radius = max(1, round(RADIUS * min(hottest.shape)))
    level = maximum_filter(hottest, size=2 * radius + 1, mode="nearest")
    least = np.float32(FLOOR * np.median(level if counted is None else level[counted]))
    if not (np.isfinite(hottest).all() and least > 0):
        raise DataError(
            "the maps of these good images yield no level map", expected="finite, and above 0 in most places",
            received=f"{hottest.min():.3g} to {hottest.max():.3g}", fix="run kdx verify",
        )  # fmt: skip
    return Level(np.maximum(level, least).astype(np.float32), rule)


def level_of(bundle: Bundle) -> Level | None:
    """Return a bundle's level map, or None.

    Raises:
        BundleError: The stored level map is invalid.
    """
    values = read_level(bundle)
    return None if values is None else Level(values, rule_of(bundle.manifest))


def store_calibration(
    bundle: Bundle,
    threshold: Threshold,
    own: Mapping[str, Mapping[str, Threshold]],
    level: Level | None,
    frame_limits: FrameLimits | None = None,
    images: Collection[str] | None = None,
) -> Bundle:
    """Store thresholds and the level map in one step.

    Args:
        bundle: The bundle.
        threshold: FP32's threshold; see :meth:`kdx.bundle.bundle.Bundle.with_thresholds`.
        own: The other precisions' thresholds, by precision and runtime.
        level: The level map; None removes a stored one.
        frame_limits: What frames that show a part look like; None for no change.
        images: The keys of the images of the calibration; None if they are not known.

    Raises:
        BundleError: The bundle on disk was replaced meanwhile.
        OutputError: The folder that contains it is not writable.
    """
    if (level and level.sha256) == bundle.manifest.level_sha256:
        return bundle.with_thresholds(threshold, own, frame_limits, images)

    def calibrated(current: Manifest) -> Manifest:
        return current.with_thresholds(threshold, own, frame_limits, images)

    return with_file(bundle, LEVEL, level.encoded if level else None, calibrated)
