"""What workers load: a bundle as line software loads it, the papers' eager loop, large frames.

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


def tiled(arguments: dict[str, Any]) -> Predict:
    """Load a bundle of tiles; arguments: ``work``, ``batch``, and as above."""
    from msgspec.structs import replace

    from kdx.bundle.open import open_bundle
    from kdx.runtime.backend_table import find_backend
    from kdx.runtime.tiled import for_frames

    bundle, precision = open_bundle(Path(arguments["work"]) / "tile.kdx"), arguments["precision"]
    manifest = replace(bundle.manifest, tiling=replace(bundle.manifest.tiling, batch=arguments["batch"]))
    backend = find_backend(arguments["backend"]).open(bundle.graph_of(precision), arguments["threads"], precision)
    detector = for_frames(backend, manifest)
    return lambda frames: detector.run(frames).scores


def whole(arguments: dict[str, Any]) -> Predict:
    """Load the networks of those tiles for the whole frame; arguments as there."""
    from kdx.bundle.checked_files import Graph
    from kdx.runtime.backend_table import find_backend

    graph = Graph.of(Path(arguments["work"]) / "whole.onnx")
    backend = find_backend(arguments["backend"]).open(graph, arguments["threads"], arguments["precision"])
    return lambda frames: backend.run(frames).scores
