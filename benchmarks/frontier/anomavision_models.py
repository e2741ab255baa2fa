"""A model of AnomaVision, fitted and exported by AnomaVision itself."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.frontier.peer_exports import CALIBRATED

LITE0, _TIMM_NAME = "lite0", "tf_efficientnet_lite0"
# The channels of lite0's features at the strides of ResNet's four stages.
_CHANNELS = (24, 40, 112, 320)


def build(options: Any, folder: Path) -> tuple[float, dict[str, Any], dict[str, Callable[[], Path]]]:
    """Return the seconds of a fit, nothing of its size, and a function for each export."""
    import anomavision
    import torch
    from anomavision.algorithm.common.feature_extraction import BACKBONES
    from anomavision.algorithm.padim.padim import BACKBONE_FEATURE_SIZES
    from anomavision.export import ModelExporter
    from torch.utils.data import DataLoader

    if options.weights == "random":
        BACKBONES.update({name: (create, None) for name, (create, _) in BACKBONES.items()})
    BACKBONES[LITE0] = (lambda weights, progress: lite0_in_stages(weights), options.weights)
    BACKBONE_FEATURE_SIZES[LITE0] = {stage: [count] for stage, count in enumerate(_CHANNELS)}
    side = (options.image_size, options.image_size)
    images = anomavision.AnodetDataset(str(folder / "train"), resize=side, crop_size=None)
    started = time.perf_counter()
    module = getattr(anomavision, options.model)(device=torch.device("cpu"), **options.arguments)
    module.fit(DataLoader(images, batch_size=options.batch_size, shuffle=False))
    seconds = time.perf_counter() - started
    torch.save(module, folder / "model.pt")
    exporter = ModelExporter(folder / "model.pt", folder, logging.getLogger("anomavision"), "cpu")
    shape = (1, 3, *side)
    static = {"quantize_static_flag": True, "calib_samples": CALIBRATED, "calib_dir": str(folder / "held_out")}
    return seconds, {}, {
        "onnx": lambda: _required(exporter.export_onnx(shape, "fp32.onnx", dynamic_batch=False, **static)),
        "int8": lambda: _required(folder / "fp32_int8_static.onnx"),  # written with the other
        "openvino": lambda: next(_required(exporter.export_openvino(shape, fp16=False)).glob("*.xml")),
    }  # fmt: skip


def lite0_in_stages(weights: str) -> Any:
    """Return EfficientNet-lite0 by the names of ResNet's stages, whose strides it has."""
    from torch import nn

    from kd_train.models.backbones import create_backbone
    from kd_train.models.weights import load_weights

    network = create_backbone(_TIMM_NAME)
    load_weights(network, _TIMM_NAME, weights)
    found, blocks = nn.Module(), network.blocks
    found.conv1, found.bn1, found.relu, found.maxpool = network.conv_stem, network.bn1, nn.Identity(), blocks[0]
    found.layer1, found.layer2, found.layer3, found.layer4 = blocks[1], blocks[2], blocks[3:5], blocks[5:7]
    return found


def _required(path: Path | None) -> Path:
    """Return what an exporter wrote, which logs its errors and returns None."""
    if path is None or not path.exists():
        raise RuntimeError("AnomaVision's exporter wrote nothing; its log says why")
    return path
