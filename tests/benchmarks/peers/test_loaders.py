"""What workers load of anomalib."""

from __future__ import annotations

import numpy as np

from benchmarks.peers.loaders import as_floats


def test_exports_get_floats_as_anomalib_makes_them() -> None:
    images = np.random.default_rng(0).integers(0, 256, (1, 4, 5, 3), np.uint8)
    floats = as_floats(images)
    assert floats.shape == (1, 3, 4, 5)
    assert floats.dtype == np.float32
    assert floats.flags.c_contiguous
    np.testing.assert_allclose(floats[0, 2, 1, 3] * 255, images[0, 1, 3, 2], rtol=1e-6)
