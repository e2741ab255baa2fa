"""Pairs for tests: any method on a small backbone, with statistics as after training."""

from __future__ import annotations

from pathlib import Path

import msgspec
import torch
from torch import nn

from kd_export.graph import FusedDetector
from kd_train.methods import find_method
from kd_train.models.backbones import create_backbone
from kd_train.models.pair import Pair
from kd_train.models.teacher import is_compact
from kd_train.recipes import load_recipe
from kd_train.training.distillation import open_source
from kdx.imaging.image_size import ImageSize, both_sides
from kdx.imaging.images import InputSpec


def make_pair(
    method: str = "stpm",
    backbone: str = "resnet18",
    taps: str = "",
    sigma: float = 0.0,
    *,
    seed: int = 0,
    source: str = "test_resnet",
    **choices: str,
) -> Pair:
    """Return a method's pair in eval mode, with random weights.

    Args:
        method: Its name.
        backbone: The teacher's, or two separated by a comma.
        taps: As on the command line; empty for the recipe's strides.
        sigma: Of the blur.
        seed: Of the weights.
        source: What compact networks learn from, or two separated by a comma.
        **choices: ``combine``, ``score``, and the method's own options.
    """
    found = find_method(method)
    common = {name: choices.pop(name, None) for name in ("combine", "score")}
    recipe = load_recipe(
        found,
        {
            "backbones": tuple(backbone.split(",")),
            "taps": tuple(tuple(group.split(",")) for group in taps.split("/")) if taps else None,
            "blur_sigma": sigma,
            "teacher_from": tuple(source.split(",")) if is_compact(tuple(backbone.split(","))) else None,
            "options": {name.replace("_", "-"): value for name, value in choices.items()},
            **common,
        },
    )
    if recipe.teacher_from:
        recipe = msgspec.structs.replace(recipe, heads=open_source(recipe, ("random",)).heads)
    torch.manual_seed(seed)
    pair, _ = found.build(recipe.pair_options(found, ("random",)))
    vary_statistics(pair)
    return pair.eval()


def vary_statistics(network: nn.Module) -> None:
    """Give batch normalisation statistics as after training: they differ from 0 and 1, so that
    folding has work to do."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)


def write_weights(file: Path, backbone: str) -> Path:
    """Write random weights of a backbone for ``kdx train --weights``."""
    torch.manual_seed(0)
    network = create_backbone(backbone)
    vary_statistics(network)
    torch.save(network.state_dict(), file)
    return file


def fuse_pair(pair: Pair, spec: InputSpec, size: ImageSize, resize_to: tuple[int, int] | None = None) -> FusedDetector:
    """Return the fused detector of a pair that runs at a size."""
    return FusedDetector(pair, pair.spec, spec, both_sides(size), pair.mean, pair.std, resize_to)
