"""A model of anomalib, trained and exported by anomalib itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.frontier.peer_exports import CALIBRATED

# anomalib asks for opset 14 and, where the conversion to it fails, keeps what torch wrote: 18. A
# batch size that is fixed is faster than an open one, which is anomalib's default.
_FIXED = {"opset_version": 18, "dynamic_axes": {}}
_CHUNK = 4096


def build(options: Any, folder: Path) -> tuple[float, dict[str, Any], dict[str, Callable[[], Path]]]:
    """Return the seconds of a training, the memory bank's size, and a function for each export."""
    from kd_train.models.torch_vision import import_timm

    import_timm()  # before anomalib, which imports torchvision as it comes
    import torch
    from anomalib import models
    from anomalib.data import Folder
    from anomalib.deploy import CompressionType
    from anomalib.engine import Engine
    from anomalib.models.components import MemoryBankMixin

    size, kind = (options.image_size, options.image_size), getattr(models, options.model)
    with _weights(options.weights):
        resizing = kind.configure_pre_processor(size)
        module = kind(**options.arguments, pre_processor=resizing, evaluator=False, visualizer=False)
    # Neither test images nor drawn defects: scores stay as the model gives them, and the threshold
    # comes from held-out good images, as kdx's does.
    data = Folder("good", folder / "train", test_split_mode="none", val_split_mode="none", num_workers=0,
                  train_batch_size=options.batch_size, seed=options.seed)  # fmt: skip
    data.setup("fit")
    started = time.perf_counter()
    if options.epochs or isinstance(module, MemoryBankMixin):
        engine = Engine(accelerator="cpu", devices=1, max_epochs=options.epochs, default_root_dir=folder / "lightning")
        with _quick_coreset():
            engine.fit(module, train_dataloaders=data.train_dataloader())
    module.eval()
    seconds = time.perf_counter() - started
    images = _CalibrationImages(folder / "held_out")
    int8: dict[str, Any] = {"compression_type": CompressionType.INT8_PTQ, "datamodule": images}
    bank = getattr(module.model, "memory_bank", None)
    facts = {"memory_bank": list(bank.shape)} if isinstance(bank, torch.Tensor) else {}
    return seconds, facts, {
        "onnx": lambda: module.to_onnx(folder, "fp32", size, **_FIXED),
        "openvino": lambda: module.to_openvino(folder, "fp32", size, onnx_kwargs=dict(_FIXED)),
        "int8": lambda: module.to_openvino(folder, "int8", size, onnx_kwargs=dict(_FIXED), **int8),
    }  # fmt: skip


@contextmanager
def _weights(weights: str) -> Iterator[None]:
    """Let timm's pretrained networks have the weights of kdx's teachers, or random ones."""
    import timm

    from kd_train.models.weights import load_weights

    create = timm.create_model

    def create_model(name: str, *, pretrained: bool = False, **rest: Any) -> Any:
        network = create(name, pretrained=False, **rest)
        if pretrained and weights != "random":
            whole = create(name)
            load_weights(whole, name, weights)
            own = network.state_dict()
            network.load_state_dict({key: value for key, value in whole.state_dict().items() if key in own})
        return network

    with mock.patch.object(timm, "create_model", create_model):
        yield


@contextmanager
def _quick_coreset() -> Iterator[None]:
    """Compute PatchCore's distances in pieces that stay in the cache: the same, in less time."""
    import torch
    from anomalib.models.components import KCenterGreedy

    def update_distances(sampler: Any, cluster_center: Any) -> None:
        center = sampler.features[cluster_center].squeeze()
        chunks = sampler.features.split(_CHUNK)
        distances = torch.cat([torch.linalg.norm(chunk - center, ord=2, dim=1, keepdim=True) for chunk in chunks])
        before = sampler.min_distances
        sampler.min_distances = distances if before is None else torch.minimum(before, distances)

    with mock.patch.object(KCenterGreedy, "update_distances", update_distances):
        yield


class _CalibrationImages:
    """Images for INT8, by the names of anomalib's data modules."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.iterdir())[:CALIBRATED]
        self.train_batch_size = 1

    def setup(self, stage: str) -> None:
        """Do nothing: the images are here."""

    def val_dataloader(self) -> Any:
        """Return the images one by one."""
        from anomalib.data.utils import read_image
        from torch.utils.data import DataLoader

        return DataLoader([{"image": read_image(file, as_tensor=True)} for file in self.files], batch_size=1)
