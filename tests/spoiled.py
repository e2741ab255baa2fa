"""Bundles whose graph answers something impossible, for some images alone: what runtimes and
drivers do when they fail.

Golden images and ordinary ones are answered as before, so that a bundle loads and verifies. What
ReduceMax makes of NaN is left to the runtime: the score of a spoiled map is taken by the graph
itself.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from kdx.bundle.manifest import Manifest
from kdx.bundle.open import open_bundle
from kdx.bundle.store import write_manifest

# Mean grey level above which an image is answered wrongly; of the tests' good images none reaches
# it.
BRIGHT = 235


def spoil(
    bundle: Path, *, value: float = float("nan"), where: tuple[slice, slice] | None = None, score: float | None = None
) -> Path:
    """Let a bundle's FP32 graph answer bright images wrongly, and return the bundle.

    Args:
        bundle: Is changed; its hashes and thresholds are those of the new graph.
        value: What is added to the map.
        where: The part of the map it is added to; None for all of it.
        score: What the score is; None takes the maximum of the spoiled map.
    """
    import msgspec

    manifest = open_bundle(bundle).manifest
    model = onnx.load(bundle / "model.onnx")
    poison = np.zeros((1, *manifest.map_size), np.float32)
    if score is None:
        poison[0][where or (slice(None), slice(None))] = value
    _rewire(model.graph, poison, score)
    onnx.checker.check_model(model)
    onnx.save(model, bundle / "model.onnx")
    hashed = write_manifest(bundle, manifest).manifest
    threshold = manifest.threshold and msgspec.structs.replace(
        manifest.threshold, graph_sha256=hashed.files["model.onnx"]
    )
    write_manifest(bundle, msgspec.structs.replace(manifest, threshold=threshold))
    return bundle


def without_learned_limits(bundle: Path) -> Manifest:
    """Let a bundle compare frames with golden images alone, for tests that make frames up, and
    return its manifest."""
    import msgspec

    manifest = open_bundle(bundle).manifest
    limits = msgspec.structs.replace(manifest.frame_limits, channels=())
    return write_manifest(bundle, msgspec.structs.replace(manifest, frame_limits=limits)).manifest


def spoiled_image(manifest: Manifest, seed: int = 0) -> np.ndarray:
    """Return an image that a spoiled bundle answers wrongly."""
    spec = manifest.camera
    rng = np.random.default_rng(seed)
    return rng.integers(BRIGHT, 251, (spec.height, spec.width, spec.channels)).astype(np.uint8)


def _rewire(graph: onnx.GraphProto, poison: np.ndarray, score: float | None) -> None:
    for node in graph.node:
        node.output[:] = [
            f"{name} before" if name in ("anomaly_map", "anomaly_score") else name for name in node.output
        ]
        node.input[:] = [f"{name} before" if name in ("anomaly_map", "anomaly_score") else name for name in node.input]
    constants = {
        "poison": poison,
        "nothing": np.zeros_like(poison),
        "limit": np.float32(BRIGHT),
        "over image": np.array([1, 2, 3], np.int64),
        "over map": np.array([1, 2], np.int64),
        "behind": np.array([1], np.int64),
        "wrong score": np.array([[0.0 if score is None else score]], np.float32),
    }
    graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items())

    def node(kind: str, inputs: list[str], output: str, **attributes: object) -> None:
        graph.node.append(helper.make_node(kind, inputs, [output], name=f"tail/{output}", **attributes))

    node("Cast", ["image"], "pixels", to=TensorProto.FLOAT)
    node("ReduceMean", ["pixels", "over image"], "brightness", keepdims=0)
    node("Greater", ["brightness", "limit"], "bright")
    node("Unsqueeze", ["bright", "over map"], "bright map")
    node("Where", ["bright map", "poison", "nothing"], "added")
    node("Add", ["anomaly_map before", "added"], "anomaly_map")
    node("Unsqueeze", ["bright", "behind"], "bright score")
    if score is None:
        node("ReduceMax", ["anomaly_map", "over map"], "largest", keepdims=0)
        node("Unsqueeze", ["largest", "behind"], "spoiled score")
    else:
        graph.node.append(helper.make_node("Identity", ["wrong score"], ["spoiled score"]))
    node("Where", ["bright score", "spoiled score", "anomaly_score before"], "anomaly_score")
