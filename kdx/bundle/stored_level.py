"""The level map that a bundle stores, checked; see :mod:`kdx.decision.level_map`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kdx.bundle.bundle import Bundle
from kdx.bundle.manifest import LEVEL
from kdx.errors import BundleError
from kdx.storage.npy import decode_array

_FIX = "calibrate again: kdx calibrate BUNDLE DATA --per-position"


def read_level(bundle: Bundle) -> NDArray[np.float32] | None:
    """Return the bundle's level map, float32 ``(h, w)``, or None if it stores none.

    Raises:
        BundleError: The stored level map does not fit the map, has invalid values, or the method
            takes none.
    """
    manifest = bundle.manifest
    if LEVEL not in manifest.files:
        return None
    if manifest.map_rule is None:
        raise BundleError(
            f"'{bundle.path}' stores a level map, but its method takes none: its score does not come from the "
            "returned map alone",
            expected="a method whose score is the maximum or the sum of one map, for example stpm",
            fix="export the bundle again",
        )
    values = decode_array(bundle.read(LEVEL), bundle.path / LEVEL)
    if values.shape != manifest.camera_map_size:
        raise BundleError(
            f"'{LEVEL}' of '{bundle.path}' does not fit the map",
            expected=f"float32 {manifest.camera_map_size}",
            received=f"float32 {values.shape}",
            fix=_FIX,
        )
    invalid = int((~(np.isfinite(values) & (values > 0))).sum())
    if invalid:
        raise BundleError(
            f"'{LEVEL}' of '{bundle.path}' has invalid values",
            expected="finite values above 0",
            received=f"{invalid} other values",
            fix=_FIX,
        )
    return values
