"""Runs graphs that are under test, in every CPU runtime of this machine."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterable
from importlib import util
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from kdx.bundle.checked_files import Graph
from kdx.bundle.graph_contract import OUTPUTS
from kdx.runtime.backend import Outputs
from kdx.runtime.onnxruntime.session import open_session
from kdx.verification.held_out import HeldOut, HeldOutScores
from kdx.verification.judge import Evidence

# How many images are scored at once: a runner returns their maps too, which are larger than the
# images, and each call of it compiles the graph again.
_AT_ONCE = 256
# Runs a graph on images, one at a time.
Runner = Callable[[ModelProto, Iterable[NDArray[np.uint8]]], Outputs]


def runtimes() -> dict[str, Runner]:
    """Return the runtimes of this machine's CPU: ONNX Runtime, and OpenVINO if it is installed."""
    found: dict[str, Runner] = {"onnxruntime-cpu": run_onnxruntime}
    if util.find_spec("openvino") is not None:
        found["openvino"] = run_openvino
    return found


def run_onnxruntime(model: ModelProto, images: Iterable[NDArray[np.uint8]]) -> Outputs:
    """Run a graph in ONNX Runtime, one image at a time."""
    session = open_session(model.SerializeToString(), "a graph under test")
    return _joined(session.run(OUTPUTS, {model.graph.input[0].name: image[None]}) for image in images)


def run_openvino(model: ModelProto, images: Iterable[NDArray[np.uint8]]) -> Outputs:
    """Run a graph in OpenVINO, as the backend does, one image at a time."""
    return _run_openvino(model, images, "f32")


def run_openvino_bf16(model: ModelProto, images: Iterable[NDArray[np.uint8]]) -> Outputs:
    """Run an FP32 graph in OpenVINO with its networks in BF16, one image at a time."""
    return _run_openvino(model, images, "bf16")


def _run_openvino(model: ModelProto, images: Iterable[NDArray[np.uint8]], precision: Literal["f32", "bf16"]) -> Outputs:
    from kdx.runtime.openvino.backend import OpenVino

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save_model(model, str(path))
        with OpenVino(Graph.of(path), precision=precision) as backend:
            return _joined(backend.run(image[None]) for image in images)


def held_out_scores(runner: Runner, model: ModelProto, images: HeldOut) -> HeldOutScores:
    """Return the scores of held-out good images and synthetic defects."""
    good, defects = (_scores_of_each(runner, model, each) for each in (images.good, images.defects))
    return HeldOutScores(good, defects, images.frames)


def evaluation_scores(runner: Runner, model: ModelProto, evidence: Evidence) -> NDArray[np.float64] | None:
    """Return the scores of the evaluation images, ``(M,)``; None unless there are both kinds."""
    if evidence.images is None or not evidence.is_labelled:
        return None
    return _scores_of_each(runner, model, evidence.images)


def scores_of(outputs: Outputs) -> NDArray[np.float64]:
    """Return the scores of some answers, ``(N,)``; NaN where the map is not finite.

    Runtimes take the maximum of a map with NaN for a number: of its other values, or -3.4e38.
    """
    is_finite = np.isfinite(outputs.maps).all(axis=(1, 2))
    return np.where(is_finite, outputs.scores[:, 0], np.nan).astype(np.float64)


def _scores_of_each(runner: Runner, model: ModelProto, images: Iterable[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """Return the scores of images, of whose maps only a few are in memory; none for no images."""
    scores, left = [np.empty(0)], iter(images)
    while (first := next(left, None)) is not None:
        scores.append(scores_of(runner(model, itertools.chain([first], itertools.islice(left, _AT_ONCE - 1)))))
    return np.concatenate(scores)


def _joined(outputs: Any) -> Outputs:
    maps, scores = zip(*outputs, strict=True)
    return Outputs(np.concatenate(maps), np.concatenate(scores))
