"""What workers load of anomalib, as its documentation says: from a uint8 image to its score.

Every image is already of the size that was exported, in RGB, and an array: decoding and resizing
are in nobody's time. Imports are inside, so that a worker holds what it runs and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Predict = Callable[[NDArray[np.uint8]], Any]


def torch_inferencer(arguments: dict[str, Any]) -> Predict:
    """Load an export in anomalib's ``TorchInferencer``; arguments: ``model``, ``threads``."""
    os.environ["TRUST_REMOTE_CODE"] = "1"  # its export is a pickle; this one was written by anomalib_exports.py
    import torch

    from kd_train.models.torch_vision import import_timm

    import_timm()  # imports torchvision where its compiled operators do not load, too
    from anomalib.deploy import TorchInferencer

    torch.set_num_threads(arguments["threads"])
    inferencer = TorchInferencer(arguments["model"], device="cpu")
    return lambda images: inferencer.predict(images[0]).pred_score.detach()


def openvino_inferencer(arguments: dict[str, Any]) -> Predict:
    """Load an export in ``OpenVINOInferencer``; arguments: ``model``, ``threads``, ``precision``.

    A ``precision`` of None leaves it to OpenVINO, as the inferencer does.
    """
    os.chdir(Path(arguments["model"]).parent)  # it keeps its cache in the working directory
    from kd_train.models.torch_vision import import_timm

    import_timm()  # imports torchvision where its compiled operators do not load, too
    from anomalib.deploy import OpenVINOInferencer

    config = {"INFERENCE_NUM_THREADS": arguments["threads"]}
    if arguments["precision"] is not None:
        config["INFERENCE_PRECISION_HINT"] = arguments["precision"]
    inferencer = OpenVINOInferencer(arguments["model"], config=config)
    return lambda images: inferencer.predict(images[0]).pred_score


def onnxruntime_session(arguments: dict[str, Any]) -> Predict:
    """Load an export in ONNX Runtime, without an inferencer; arguments: ``model``, ``threads``."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = arguments["threads"]
    session = ort.InferenceSession(arguments["model"], options, providers=["CPUExecutionProvider"])
    name, wanted = session.get_inputs()[0].name, [output.name for output in session.get_outputs()]
    score = wanted.index("pred_score")
    return lambda images: session.run(wanted, {name: as_floats(images)})[score]


def as_floats(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return ``(N, 3, H, W)`` in 0 to 1, as anomalib's OpenVINO inferencer makes it."""
    scaled = images.astype(np.float32)
    scaled /= 255.0
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))
