"""anomalib's models, built, fitted and exported by anomalib itself.

    python -m benchmarks.peers.anomalib_exports METHOD IMAGES OUT

IMAGES is a .npy file of uint8 ``(N, H, W, 3)``. Weights are random, for latency does not depend on
them and nothing is downloaded; memory banks and Gaussians, on whose size it depends, are fitted on
the images. Writes the exports and, last, ``exports.json``: each export's path, or why there is
none, and the model's settings. ``peers.py`` calls it, in a process of its own, for each model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.commands import parser_of

RESNET18: dict[str, Any] = {"backbone": "resnet18", "pre_trained": False}
LAYERS = ["layer1", "layer2", "layer3"]
# anomalib asks for opset 14 and, when the conversion down to it has failed, keeps what torch made:
# 18.
_OPSET = {"opset_version": 18}
# A batch size that is fixed lets OpenVINO plan ahead; anomalib leaves it open by default.
_FIXED = {**_OPSET, "dynamic_axes": {}}
_BATCH = 16
_CHUNK = 4096
_SCORED = 16
_CALIBRATED = 32


@dataclass(frozen=True)
class Peer:
    """A model of anomalib: title, class in ``anomalib.models``, arguments that differ."""

    title: str
    model: str
    options: dict[str, Any] = field(default_factory=dict)


# By method: kdx has the first two as well. STFPM has no option that leaves its pretrained weights
# out.
PEERS = {
    "stpm": Peer("STFPM", "Stfpm", {"backbone": "resnet18", "layers": LAYERS}),
    "reverse-distillation": Peer("Reverse Distillation", "ReverseDistillation", {**RESNET18, "layers": LAYERS}),
    "efficientad": Peer("EfficientAD-S", "EfficientAd", {"model_size": "small"}),
    "patchcore": Peer(
        "PatchCore", "Patchcore", {**RESNET18, "layers": LAYERS[1:], "coreset_sampling_ratio": 0.1, "num_neighbors": 9}
    ),
    "fastflow": Peer("FastFlow", "Fastflow", {**RESNET18, "flow_steps": 8}),
    "padim": Peer("PaDiM", "Padim", {**RESNET18, "layers": LAYERS, "n_features": 100}),
}


def main() -> None:
    """Build, fit and export one model."""
    parser = parser_of(__doc__)
    parser.add_argument("method", choices=PEERS)
    parser.add_argument("images", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    import torch

    torch.manual_seed(0)
    images = torch.from_numpy(np.load(arguments.images)).permute(0, 3, 1, 2).float() / 255
    peer = PEERS[arguments.method]
    module = build_module(peer)
    facts = fill_memory_bank(module, images)
    normalise_scores(module, images[:_SCORED])
    record = {"settings": {**peer.options, **facts}, "exports": export_all_forms(module, images, arguments.out)}
    (arguments.out / "exports.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def build_module(peer: Peer) -> Any:
    """Return one of anomalib's Lightning modules, with random weights and for inference only."""
    from kd_train.models.torch_vision import import_timm

    timm = import_timm()  # before anomalib, which imports torchvision as it comes
    from anomalib import models

    create = timm.create_model
    with mock.patch.object(timm, "create_model", lambda name, **rest: create(name, **rest | {"pretrained": False})):
        return getattr(models, peer.model)(**peer.options, evaluator=False, visualizer=False)


def fill_memory_bank(module: Any, images: Any) -> dict[str, Any]:
    """Fill a model that keeps features; return what its latency depends on."""
    import torch
    from anomalib.models.components import KCenterGreedy, MemoryBankMixin

    def update_distances(sampler: Any, cluster_center: Any) -> None:
        """Compute the same to the bit, in pieces that stay in the cache: five times as fast."""
        center = sampler.features[cluster_center].squeeze()
        chunks = sampler.features.split(_CHUNK)
        distances = torch.cat([torch.linalg.norm(chunk - center, ord=2, dim=1, keepdim=True) for chunk in chunks])
        before = sampler.min_distances
        sampler.min_distances = distances if before is None else torch.minimum(before, distances)

    if not isinstance(module, MemoryBankMixin):
        return {}
    module.train()
    with torch.no_grad(), mock.patch.object(KCenterGreedy, "update_distances", update_distances):
        for batch in images.split(_BATCH):
            module.model(module.pre_processor(batch))
        module.fit()
    module.eval()
    bank = getattr(module.model, "memory_bank", None)
    size = {"memory_bank": list(bank.shape)} if isinstance(bank, torch.Tensor) else {}
    return {"fitted_on_images": len(images), **size}


def normalise_scores(module: Any, images: Any) -> None:
    """Set the range of scores and the thresholds, which anomalib's validation sets otherwise."""
    import torch

    module.eval()
    with torch.no_grad():
        found = [module.model(module.pre_processor(image[None])) for image in images]
    post = module.post_processor
    for name, values in (
        ("image", torch.stack([one.pred_score.flatten()[0] for one in found])),
        ("pixel", torch.stack([one.anomaly_map for one in found])),
    ):
        low, high = values.min(), values.max()
        # Wider than what was found: a score that is clamped to 0 or 1 would show nothing.
        getattr(post, f"{name}_min").copy_(2 * low - high)
        getattr(post, f"{name}_max").copy_(2 * high - low)
        getattr(post, f"_{name}_threshold").copy_((low + high) / 2)


def export_all_forms(module: Any, images: Any, out: Path) -> dict[str, dict[str, str]]:
    """Export in every form that anomalib has; one that fails says why."""
    from anomalib.deploy import CompressionType

    size = tuple(images.shape[-2:])
    int8 = {"compression_type": CompressionType.INT8_PTQ, "datamodule": CalibrationImages(images[:_CALIBRATED])}
    forms: dict[str, Callable[[], Path]] = {
        "torch": lambda: module.to_torch(out),
        "onnx": lambda: module.to_onnx(out, input_size=size, **_OPSET),
        "onnx-fixed": lambda: module.to_onnx(out, "fixed", size, **_FIXED),
        "openvino": lambda: module.to_openvino(out, input_size=size, onnx_kwargs=dict(_OPSET)),
        "fixed": lambda: module.to_openvino(out, "fixed", size, onnx_kwargs=dict(_FIXED)),
        "int8": lambda: module.to_openvino(out, "int8", size, onnx_kwargs=dict(_FIXED), **int8),
    }
    exports = {}
    for name, form in forms.items():
        try:
            exports[name] = {"path": str(form().resolve())}
        # Whatever is raised here concerns this export alone.
        except Exception as error:
            exports[name] = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    return exports


class CalibrationImages:
    """Images, float32 ``(N, 3, H, W)`` in 0 to 1, by the names of anomalib's data modules."""

    def __init__(self, images: Any) -> None:
        self.images = images
        self.train_batch_size = 1

    def setup(self, stage: str) -> None:
        """Do nothing: the images are here."""

    def val_dataloader(self) -> Any:
        """Return the images one by one."""
        from torch.utils.data import DataLoader

        return DataLoader(list(self._items()), batch_size=1)

    def _items(self) -> Iterator[dict[str, Any]]:
        return ({"image": image} for image in self.images)


if __name__ == "__main__":
    main()
