"""What workers load of kdx: a bundle as line software loads it, and the eager loop of the papers.

Imports are inside, so that a worker holds what it runs and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Predict = Callable[[NDArray[np.uint8]], Any]


def bundle(arguments: dict[str, Any]) -> Predict:
    """Load a bundle; arguments: ``bundle``, ``backend``, ``precision``, ``threads``, ``cache``."""
    if "cache" in arguments:
        os.environ["KDX_CACHE_DIR"] = arguments["cache"]
    import kdx

    detector = kdx.load(
        arguments["bundle"], arguments["backend"], arguments["threads"], precision=arguments.get("precision")
    )

    def predict(images: NDArray[np.uint8]) -> Any:
        return detector(images[0]).score if len(images) == 1 else [verdict.score for verdict in detector.batch(images)]

    return predict


def eager_loop(arguments: dict[str, Any]) -> Predict:
    """Load the papers' eager PyTorch loop; arguments: ``run``, ``bundle``, ``threads``."""
    from kd_train.evaluation.baseline import eager_candidates
    from kd_train.training.run_folder import Run
    from kdx.bundle.open import open_bundle

    manifest = open_bundle(arguments["bundle"]).manifest
    baseline = eager_candidates(Run(Path(arguments["run"])), manifest, arguments["threads"])[0]
    return lambda images: baseline.run(images).scores


def graph(arguments: dict[str, Any]) -> Predict:
    """Load a graph in the place of a bundle's, unchecked; arguments: ``graph``, and as above."""
    from kdx.bundle.checked_files import Graph
    from kdx.bundle.open import open_bundle
    from kdx.loading.bundle_detector import detector_on
    from kdx.runtime.backend_table import find_backend

    opened = Graph.of(Path(arguments["graph"]))
    backend = find_backend(arguments["backend"]).open(opened, arguments["threads"], "int8")
    detector = detector_on(open_bundle(arguments["bundle"]), backend, "fp32")
    return lambda images: detector(images[0]).score
