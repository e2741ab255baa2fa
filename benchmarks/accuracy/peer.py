"""What other methods find on the same images, with the same teacher, pixels and split.

    python -m benchmarks.accuracy.peer DATA --peer stfpm|padim|patchcore|knn [--image-size N] [--epochs N]

DATA is what ``kdx train`` takes. Prints one JSON object, in one line. The peers are anomalib's models with
anomalib's settings, without its engine (``pip install -e ".[test,peers]"``), and a plain nearest-patch search. Split,
pixels, masks, metrics and threshold are kdx's own code: a peer runs as a kdx detector. Nothing is
chosen on test images. One thread throughout.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from kd_export.graph.preprocess import Preprocess
from kd_train.data.image_records import BadImages, ImageRecord, choose_input, scan_images, split_images
from kd_train.data.parts import parts_of
from kd_train.datasets import open_data
from kd_train.evaluation.evaluate import evaluate
from kd_train.models.backbones import TapNetwork, create_backbone, taps_at_strides
from kd_train.models.torch_vision import import_timm
from kd_train.models.weights import load_weights
from kd_train.training.run import TRAINING_PACKAGES
from kdx.calibration.rates import quantile_with_interval
from kdx.decision.rule import DecisionRule
from kdx.errors import DataError
from kdx.folders.data_folder import require_good, require_test
from kdx.imaging.images import InputSpec, read_image
from kdx.runtime.detector import Detector
from kdx.runtime.machine import package_versions
from kdx.runtime.torch.eager import TorchEager

BACKBONE = "tf_efficientnet_lite0"
FALSE_REJECT_RATE = 0.01
BATCH_SIZE = 32  # anomalib's default
SGD = {"lr": 0.4, "momentum": 0.9, "weight_decay": 0.001}
# anomalib has a default for ResNet-18 (this one) and for WideResNet-50 only.
PADIM_FEATURES = 100
CORESET = {"coreset_sampling_ratio": 0.1, "num_neighbors": 9}
# Distances of so many patches at a time: their differences then stay in the cache, five times faster.
CORESET_CHUNK = 4096
KNN_PATCHES = 8000


class Fit(NamedTuple):
    """What a peer is fitted with: the teacher, its taps, training images ``(N, 3, h, w)``, and epochs."""

    teacher: Any
    taps: list[str]
    images: Tensor
    epochs: int

    def fill(self, extractor: Any) -> None:
        """Give one of anomalib's feature extractors the teacher's weights."""
        network, state = extractor.feature_extractor, self.teacher.state_dict()
        network.load_state_dict({key: state[key] for key in network.state_dict()})

    def collect(self, model: nn.Module) -> None:
        """Pass the training images through one of anomalib's models that keep their features."""
        model.train()  # their extractors stay in eval mode
        with torch.no_grad():
            for batch in self.images.split(BATCH_SIZE):
                model(batch)


Fitted = tuple[nn.Module, dict[str, Any]]


def fit_stfpm(fit: Fit) -> Fitted:
    """Train anomalib's STFPM as its Lightning module does."""
    from anomalib.models.image.stfpm.loss import STFPMLoss
    from anomalib.models.image.stfpm.torch_model import STFPMModel

    timm = import_timm()
    create = timm.create_model
    # It always asks a hub for pretrained weights; the teacher's come instead.
    with mock.patch.object(timm, "create_model", lambda name, **rest: create(name, **rest | {"pretrained": False})):
        model = STFPMModel(layers=fit.taps, backbone=BACKBONE)
    fit.fill(model.teacher_model)
    optimiser = torch.optim.SGD(model.student_model.parameters(), **SGD)
    loss_of = STFPMLoss()
    model.train()
    for epoch in range(fit.epochs):
        total = 0.0
        for batch in fit.images[torch.randperm(len(fit.images))].split(BATCH_SIZE):
            loss = loss_of(*model(batch))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.item()
        print(f"epoch {epoch + 1}: loss {total / len(fit.images):.4f} an image", file=sys.stderr, flush=True)
    return model, {"epochs": fit.epochs, "batch_size": BATCH_SIZE, **SGD}


def fit_padim(fit: Fit) -> Fitted:
    """Fit anomalib's PaDiM."""
    from anomalib.models.image.padim.torch_model import PadimModel

    model = PadimModel(backbone=BACKBONE, layers=fit.taps, pre_trained=False, n_features=PADIM_FEATURES)
    fit.fill(model.feature_extractor)
    fit.collect(model)
    model.fit()
    return model, {"n_features": PADIM_FEATURES}


def fit_patchcore(fit: Fit) -> Fitted:
    """Fill anomalib's PatchCore."""
    from anomalib.models.components.sampling import KCenterGreedy
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    neighbours = CORESET["num_neighbors"]
    model = PatchcoreModel(layers=fit.taps, backbone=BACKBONE, pre_trained=False, num_neighbors=neighbours)
    fit.fill(model.feature_extractor)
    fit.collect(model)
    with mock.patch.object(KCenterGreedy, "update_distances", update_distances_in_chunks):
        model.subsample_embedding(CORESET["coreset_sampling_ratio"])
    return model, {**CORESET, "memory_bank": len(model.memory_bank)}


def update_distances_in_chunks(sampler: Any, cluster_center: Tensor) -> None:
    """Do what anomalib's ``KCenterGreedy.update_distances`` does, to the same bits, in smaller pieces."""
    center = sampler.features[cluster_center].squeeze()
    chunks = sampler.features.split(CORESET_CHUNK)
    distances = torch.cat([torch.linalg.norm(chunk - center, ord=2, dim=1, keepdim=True) for chunk in chunks])
    before = sampler.min_distances
    sampler.min_distances = distances if before is None else torch.minimum(before, distances)


class NearestPatch(nn.Module):
    """The distance of each patch's features to the nearest of those kept; returns scores and maps."""

    def __init__(self, network: TapNetwork) -> None:
        super().__init__()
        self.network = network
        self.bank = torch.empty(0)

    def patches(self, x: Tensor) -> Tensor:
        """Take ``(N, 3, h, w)`` and return all taps' features ``(N, y, x, C)`` at the size of the first."""
        features = self.network(x)
        size = features[0].shape[-2:]
        same = [F.interpolate(feature, size=size, mode="bilinear", align_corners=False) for feature in features]
        return torch.cat(same, dim=1).permute(0, 2, 3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Take ``(N, 3, h, w)`` and return the scores ``(N,)`` and maps ``(N, 1, h, w)``, as anomalib's models do."""
        patches = self.patches(x)
        distances = torch.cdist(patches.flatten(0, 2), self.bank).amin(dim=1).view(len(x), 1, *patches.shape[1:3])
        maps = F.interpolate(distances, size=x.shape[-2:], mode="bilinear", align_corners=False)
        return maps.amax(dim=(1, 2, 3)), maps


def fit_knn(fit: Fit) -> Fitted:
    """Keep random patches of the training images."""
    model = NearestPatch(TapNetwork(fit.teacher, tuple(fit.taps)).eval())
    with torch.inference_mode():
        patches = torch.cat([model.patches(batch).flatten(0, 2) for batch in fit.images.split(BATCH_SIZE)])
        model.bank = patches[torch.randperm(len(patches))[:KNN_PATCHES]]
    return model, {"patches": len(model.bank), "num_neighbors": 1}


# Name, how it is fitted, and the strides of its taps: those of the layers that anomalib takes of a ResNet by default.
PEERS: dict[str, tuple[str, Callable[[Fit], Fitted], tuple[int, ...]]] = {
    "stfpm": ("anomalib STFPM", fit_stfpm, (4, 8, 16)),
    "padim": ("anomalib PaDiM", fit_padim, (4, 8, 16)),
    "patchcore": ("anomalib PatchCore", fit_patchcore, (8, 16)),
    "knn": ("patch nearest neighbour", fit_knn, (8, 16)),
}


class Fused(nn.Module):
    """kdx's preprocessing and a peer's model: uint8 images to map and score, as kdx's own fused detector."""

    def __init__(self, preprocess: Preprocess, model: nn.Module) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Take ``(N, H, W, C)`` and return maps ``(N, h, w)`` and scores ``(N, 1)``."""
        found = self.model(self.preprocess(image))
        score, map_ = (found.pred_score, found.anomaly_map) if hasattr(found, "pred_score") else found
        return map_.squeeze(1), score.reshape(-1, 1)


def _pixels(records: Sequence[ImageRecord], spec: InputSpec) -> Iterator[Any]:
    return (read_image(record.path, spec) for record in records)


def _threshold(detector: Detector, held_out: Sequence[ImageRecord]) -> float | None:
    scores = detector.outputs(list(_pixels(held_out, detector.input))).scores[:, 0]
    try:
        return quantile_with_interval(scores.astype(np.float64), FALSE_REJECT_RATE)[0]
    except DataError as error:
        print(error, file=sys.stderr)
        return None


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Fit a peer as ``kdx train`` trains, set its threshold as ``kdx calibrate`` does, and evaluate it."""
    name, fit_peer, strides = PEERS[arguments.peer]
    folder = open_data(arguments.data)
    test = require_test(folder)
    records = scan_images(require_good(folder), BadImages(0))
    parts = parts_of(folder, [record.path for record in records], group_by=None, table=arguments.parts).of
    options = {"validation_fraction": arguments.validation_fraction, "seed": arguments.seed}
    training, held_out = split_images(records, train_fraction=1.0, parts=parts, **options)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(arguments.seed)
    teacher = create_backbone(BACKBONE)
    source = load_weights(teacher, BACKBONE, "imagenet")
    taps = list(taps_at_strides(teacher, strides))
    spec = choose_input(records, arguments.image_size)
    mean, std = teacher.pretrained_cfg["mean"], teacher.pretrained_cfg["std"]
    preprocess = Preprocess(spec, (arguments.image_size,) * 2, mean, std, scale_is_folded=False)
    images = torch.cat([preprocess(torch.from_numpy(image)[None]) for image in _pixels(training, spec)])

    if name.startswith("anomalib"):
        import_module("anomalib.models")  # ten seconds that are no training
    started = time.perf_counter()
    model, own_settings = fit_peer(Fit(teacher, taps, images, arguments.epochs))
    seconds = time.perf_counter() - started

    detector = Detector(TorchEager(Fused(preprocess, model), threads=1), spec, DecisionRule(), max_batch=8)
    detector.threshold = _threshold(detector, held_out)
    result = evaluate(detector, arguments.data, test)
    counts = {"train": len(training), "held_out": len(held_out)}
    common = {"peer": arguments.peer, "backbone": BACKBONE, "weights": source, "taps": taps}
    more = {"parts": len(set(parts.values())) or None, "false_reject_rate": FALSE_REJECT_RATE}
    anomalib = {"anomalib": version("anomalib")} if "anomalib" in sys.modules else {}
    return {
        "name": name,
        "image_auroc": result.image_auroc,
        "pixel_auroc": _number(result.pixel_auroc),
        "pro": _number(result.pro),
        "false_reject_rate": result.false_reject_rate,
        "detection_rate": result.detection_rate,
        "seconds_training": seconds,
        "images": {**counts, "test_good": result.good, "test_defective": result.defective},
        "settings": {**common, "image_size": arguments.image_size, **options, **more, "threads": 1, **own_settings},
        "versions": package_versions(TRAINING_PACKAGES) | anomalib,
    }


def main() -> None:
    """Run one peer and print what it found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--peer", choices=PEERS, required=True)
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=20, help="Of stfpm; the others make one pass.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--validation-fraction", type=float, default=0.2)
    parser.add_argument("--parts", type=Path, metavar="CSV", help="As in kdx train.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    import_timm()  # before anomalib, which imports torchvision as it comes
    print(json.dumps(run(arguments)))


if __name__ == "__main__":
    main()
