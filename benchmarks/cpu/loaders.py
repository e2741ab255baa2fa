"""What the workers of ``cpu.py`` load: a bundle as line software does, through ``kdx.load``."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Predict = Callable[[NDArray[np.uint8]], Any]


def bundle(arguments: dict[str, Any]) -> Predict:
    """Load a bundle; arguments: ``bundle``, ``backend``, ``precision``, ``threads`` and, where given, ``cache``.

    Single images go through the detector's call for one image, as a line's do.
    """
    if "cache" in arguments:
        os.environ["KDX_CACHE_DIR"] = arguments["cache"]
    import kdx

    detector = kdx.load(
        arguments["bundle"], arguments["backend"], arguments["threads"], precision=arguments.get("precision")
    )

    def predict(images: NDArray[np.uint8]) -> Any:
        return detector(images[0]).score if len(images) == 1 else [verdict.score for verdict in detector.batch(images)]

    return predict
