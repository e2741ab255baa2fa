"""The models that are timed on GPUs: papers' sizes, papers' teachers, random weights.

They are the methods, and the compact pair: STPM on a compact network, with border weights. Batch
normalisation is scaled on real images, so that FP16 neither fails nor excels by the size of
activations alone. Parity says that a backend computes these networks; what it does to a trained
one's verdicts, ``kdx verify`` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.gpu.jobs import COMPACT
from benchmarks.timing.process import serve
from kd_export.bundle_export import export_bundle
from kd_export.graph import FusedDetector
from kd_export.graph.border import weights_of_level
from kd_train.datasets import open_data
from kd_train.datasets.elpv_package import write_mvtec_layout
from kd_train.methods import find_method
from kd_train.models.pair import Method, Pair
from kd_train.recipes import Recipe, load_recipe, paper_recipe
from kd_train.training.distillation import open_source
from kdx.bundle.manifest import Provenance
from kdx.folders.data_folder import require_good
from kdx.imaging.images import InputSpec, read_image
from kdx.storage.json_records import now

SEED = 0
IMAGES = 8


def write_model(name: str, files: Sequence[str], folder: str, backbone: str, size: int) -> dict[str, Any]:
    """Write a model's bundle to ``folder``, and its detector beside it, with the ending ``.pt``.

    Another teacher or another side in pixels than the paper's is taken if given.
    """
    target, paths = Path(folder), [Path(file) for file in files]
    detector = make_detector(name, paths, backbone, size)
    torch.save(detector, target.with_suffix(".pt"))
    provenance = Provenance(
        created=now(), checkpoint_sha256="", epoch=0, backbone=backbone, weights="random weights", data_sha256="",
        trained_with={}, exported_with={"torch": str(torch.__version__)},
    )  # fmt: skip
    export_bundle(
        detector, target, method=name, golden_images=paths, training_images=[], provenance=provenance,
        precisions=("fp32", "fp16"),
    )  # fmt: skip
    return {}


def make_detector(name: str, files: Sequence[Path], backbone: str = "", size: int = 0) -> FusedDetector:
    """Build a model with random weights; border weights come from its maps of the images."""
    method, recipe = _recipe(name, backbone, size)
    height, width = recipe.resize_to or recipe.size
    spec = InputSpec(height=height, width=width, channels=3)
    any_size = msgspec.structs.replace(spec, fixed_size=False)
    images = np.stack([read_image(file, any_size) for file in files])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        pair, _ = method.build(recipe.pair_options(method, ("random",)))
        set_statistics(pair, images)
    about = (pair, pair.spec, spec, recipe.size, pair.mean, pair.std, recipe.resize_to)
    detector = FusedDetector(*about)
    if not recipe.border_weights:
        return detector
    with torch.inference_mode():
        squares = detector(torch.from_numpy(images))[0].double().square().mean(0).numpy()
    return FusedDetector(*about, [weights_of_level(squares)])


def _recipe(name: str, backbone: str, size: int) -> tuple[Method, Recipe]:
    """Return a method and its paper's recipe, or STPM on a compact network."""
    method = find_method("stpm" if name == COMPACT else name)
    backbone = COMPACT if name == COMPACT else backbone
    if not backbone and not size:
        return method, paper_recipe(method)
    recipe = load_recipe(method, {"backbones": (backbone,) if backbone else None, "image_size": size or None})
    if recipe.teacher_from:
        recipe = msgspec.structs.replace(recipe, heads=open_source(recipe, ("random",)).heads)
    return method, recipe


def set_statistics(pair: Pair, images: NDArray[np.uint8]) -> None:
    """Let batch normalisation scale real images' activations to a mean square of 1 in each layer.

    A full normalisation of random networks makes them chaotic, layer by layer: no two roundings
    would agree after it.
    """

    def measure(norm: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        nn.init.uniform_(norm.running_mean, -0.1, 0.1)
        norm.running_var.fill_(float(inputs[0].square().mean()))

    pair.eval()
    hooks = []
    for norm in pair.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.0)  # timm's zero at the end of a residual branch would leave it out
            nn.init.uniform_(norm.bias, -0.1, 0.1)
            hooks.append(norm.register_forward_pre_hook(measure))  # type: ignore[arg-type]
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (pair.mean, pair.std))
    with torch.no_grad():
        pair((x - mean) / std)
    for hook in hooks:
        hook.remove()


def real_images(data: Path | None, work: Path) -> list[Path]:
    """Return the files of a few real images: of ``data``, or solar cells out of a package."""
    if data is None:
        data = work / "cells"
        if not data.exists():
            write_mvtec_layout(data, max_train=IMAGES, max_test=0)
    return list(require_good(open_data(data))[:IMAGES])


if __name__ == "__main__":
    serve(lambda message: write_model(**message))
