"""What workers load to judge a large frame: in tiles, or the same networks on the whole frame."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from kdx.bundle.checked_files import Graph
from kdx.bundle.open import open_bundle
from kdx.runtime.backend_table import find_backend
from kdx.runtime.tiled import for_frames

Predict = Callable[[NDArray[np.uint8]], Any]


def tiled(arguments: dict[str, Any]) -> Predict:
    """Load a bundle; arguments: ``work``, ``backend``, ``precision``, ``threads``, ``batch``."""
    bundle, precision = open_bundle(Path(arguments["work"]) / "tile.kdx"), arguments["precision"]
    tiling = msgspec.structs.replace(bundle.manifest.tiling, batch=arguments["batch"])
    manifest = msgspec.structs.replace(bundle.manifest, tiling=tiling)
    backend = find_backend(arguments["backend"]).open(bundle.graph_of(precision), arguments["threads"], precision)
    detector = for_frames(backend, manifest)
    return lambda frames: detector.run(frames).scores


def whole(arguments: dict[str, Any]) -> Predict:
    """Load the whole networks; arguments: ``work``, ``backend``, ``precision``, ``threads``."""
    graph = Graph.of(Path(arguments["work"]) / "whole.onnx")
    backend = find_backend(arguments["backend"]).open(graph, arguments["threads"], arguments["precision"])
    return lambda frames: backend.run(frames).scores
