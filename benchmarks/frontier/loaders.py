"""What a peer's own Python loads of an export, as its documentation says.

Every loader returns a function from one uint8 image ``(1, H, W, 3)`` to its score and its map
``(H, W)``. Images have the size that was exported: decoding and resizing are in nobody's time.
Imports are inside, so that a worker holds what it runs and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Judged = tuple[float, NDArray[np.float32]]
Judge = Callable[[NDArray[np.uint8]], Judged]


def anomalib_openvino(arguments: dict[str, Any]) -> Judge:
    """Load an export in ``OpenVINOInferencer``; arguments: ``model``, ``threads``, ``precision``.

    Without a ``precision`` OpenVINO chooses it, as the inferencer does.
    """
    os.chdir(Path(arguments["model"]).parent)  # it keeps its cache in the working directory
    from kd_train.models.torch_vision import import_timm

    import_timm()  # imports torchvision where its compiled operators do not load, too
    from anomalib.deploy import OpenVINOInferencer

    config = {"INFERENCE_NUM_THREADS": arguments["threads"]}
    if arguments["precision"] is not None:
        config["INFERENCE_PRECISION_HINT"] = arguments["precision"]
    inferencer = OpenVINOInferencer(arguments["model"], device="CPU", config=config)

    def judge(images: NDArray[np.uint8]) -> Judged:
        found = inferencer.predict(images[0])
        return float(np.ravel(found.pred_score)[0]), np.squeeze(found.anomaly_map)

    return judge


def anomalib_onnxruntime(arguments: dict[str, Any]) -> Judge:
    """Load an export of anomalib in ONNX Runtime, for which it has no inferencer."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = arguments["threads"]
    session = ort.InferenceSession(arguments["model"], options, providers=["CPUExecutionProvider"])
    name, wanted = session.get_inputs()[0].name, ["pred_score", "anomaly_map"]

    def judge(images: NDArray[np.uint8]) -> Judged:
        score, map_ = session.run(wanted, {name: as_floats(images)})
        return float(np.ravel(score)[0]), np.squeeze(map_)

    return judge


def anomavision(arguments: dict[str, Any]) -> Judge:
    """Load an export in AnomaVision's ``ModelWrapper``; arguments: ``model``, ``threads``.

    Its backends take no number of threads, so the process gets so many cores. Maps are blurred as
    its ``detect`` does.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments["threads"]])
    from anomavision.inference.model.wrapper import ModelWrapper
    from anomavision.utils import adaptive_gaussian_blur

    model = ModelWrapper(arguments["model"], "cpu")
    mean, std = (
        np.array(values, np.float32)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )

    def judge(images: NDArray[np.uint8]) -> Judged:
        scores, maps = model.predict((as_floats(images) - mean) / std)
        return float(np.ravel(scores)[0]), np.squeeze(adaptive_gaussian_blur(maps, kernel_size=33, sigma=4))

    return judge


def as_floats(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return ``(N, 3, H, W)`` in 0 to 1, as both peers make it."""
    scaled = images.astype(np.float32)
    scaled /= 255.0
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))
