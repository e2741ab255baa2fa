"""Backbones from timm, cut after their last tap, and the features that they compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kd_train.models import network_names, squeezenet
from kd_train.models.torch_vision import import_timm
from kdx.errors import OptionError

# The side of the random image by which shapes are found; large enough for the deepest stride of
# timm's backbones.
_PROBE_SIZE = 128


@dataclass(frozen=True)
class Feature:
    """The output of one module of a network.

    Attributes:
        name: The module's name.
        channels: The number of channels.
        stride: The factor by which the image's height and width are reduced.
        is_rectified: Whether no value is negative, as after a ReLU.
        is_stem: Whether the module comes before the first block of convolutions: the first
            convolution, its normalisation or its activation.
    """

    name: str
    channels: int
    stride: int
    is_rectified: bool
    is_stem: bool


class FeatureNetwork(nn.Module):
    """A network that returns the features at some of its places, the taps.

    Attributes:
        taps: The taps in the order in which they run, which is the order of the features.
        mean: The mean of each RGB channel, of values in [0, 1], by which the input is normalised.
        std: The standard deviation of each RGB channel by which the input is normalised.
    """

    taps: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the features at each tap of normalised images ``(N, 3, H, W)``."""
        raise NotImplementedError

    def feature(self, tap: str) -> Feature:
        """Return the description of a tap's feature."""
        raise NotImplementedError

    def levels_to(self, taps: Sequence[str]) -> list[Feature]:
        """Return the levels up to the last of some taps, for students that mirror the network."""
        raise NotImplementedError


class TapNetwork(FeatureNetwork):
    """A timm backbone that ends at its last tap and returns the features at each tap.

    Its parameters keep timm's names. Modules after the last tap are removed.

    Args:
        model: A timm model whose stages run in the order in which they are registered.
        taps: The names of top-level modules (``layer2``) or of children of a top-level Sequential
            (``blocks.4``).

    Raises:
        OptionError: A tap does not exist, or the model does not run in registration order.
    """

    def __init__(self, model: Any, taps: tuple[str, ...]) -> None:
        super().__init__()
        nested = [tap for tap in taps if any(other.startswith(f"{tap}.") for other in taps)]
        if nested:
            raise OptionError(f"'{nested[0]}' and a part of it are both taps", fix="leave one of them out of `taps`")
        stages = _stages(model, taps)
        names = [name for name, _ in stages]
        missing = [tap for tap in taps if tap not in names]
        if missing:
            raise OptionError(
                f"there is no tap '{missing[0]}' in this backbone", expected=f"some of {', '.join(tap_names(model))}"
            )
        self.taps = tuple(name for name in names if name in taps)
        self._stages = names[: max(names.index(tap) for tap in taps) + 1]
        for name, module in stages[: len(self._stages)]:
            self._register(name, module)
        self.mean = tuple(float(value) for value in model.pretrained_cfg["mean"])
        self.std = tuple(float(value) for value in model.pretrained_cfg["std"])
        try:
            self._features = self._measure_features(model)
        # A model may raise anything if it takes one size only, returns lists, or runs its stages in
        # another order.
        except Exception as error:
            raise OptionError(
                f"this backbone cannot be tapped at {', '.join(self.taps)}: {error or type(error).__name__}",
                fix=network_names.CHOOSE_CONVOLUTIONAL
                if _is_transformer(model)
                else "choose a convolutional backbone that runs its stages one after another, e.g. resnet18 or "
                "tf_efficientnet_lite0",
            ) from error

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the features at each tap of normalised images ``(N, 3, H, W)``."""
        features: list[Tensor] = []
        for name in self._stages:
            x = self.get_submodule(name)(x)
            if name in self.taps:
                features.append(x)
        return features

    def feature(self, tap: str) -> Feature:
        """Return the description of a tap's feature."""
        return self._features[tap]

    def levels_to(self, taps: Sequence[str]) -> list[Feature]:
        """Return the levels up to the last of some taps.

        A level is a tap, or a module that contains convolutions. The stem, which is itself a
        convolution, is not a level.
        """
        last = max(self._stages.index(tap) for tap in taps)
        return [
            self._features[name]
            for name in self._stages[: last + 1]
            if name in taps or _contains_convolutions(self.get_submodule(name))
        ]

    def _register(self, name: str, module: nn.Module) -> None:
        parent_name, _, child = name.rpartition(".")
        if not parent_name:
            self.add_module(child, module)
            return
        if not hasattr(self, parent_name):
            self.add_module(parent_name, nn.Module())
        self.get_submodule(parent_name).add_module(child, module)

    @torch.no_grad()
    def _measure_features(self, model: Any) -> dict[str, Feature]:
        """Return each stage's feature; check that the stages in order give the model's features."""
        probe = torch.randn(1, 3, _PROBE_SIZE, _PROBE_SIZE, generator=torch.Generator().manual_seed(0))
        expected: dict[str, Tensor] = {}
        features: dict[str, Feature] = {}
        hooks = [
            # Cloned, because a later stage may work in place.
            model.get_submodule(tap).register_forward_hook(
                lambda _module, _inputs, output, tap=tap: expected.update({tap: output.clone()})
            )
            for tap in self.taps
        ]
        was_training = model.training
        model.eval()
        model.forward_features(probe)
        for hook in hooks:
            hook.remove()
        x, is_stem = probe, True
        for name in self._stages:
            x = self.get_submodule(name)(x)
            if name in self.taps and not torch.allclose(x, expected[name]):
                raise ValueError(f"'{name}' gives other features when the stages run one after another")
            if x.ndim != 4:
                raise ValueError(f"the output of '{name}' is not a feature map")
            is_stem = is_stem and not _contains_convolutions(self.get_submodule(name))
            features[name] = Feature(name, x.shape[1], _PROBE_SIZE // x.shape[2], bool((x >= 0).all()), is_stem)
        model.train(was_training)
        return features


def _contains_convolutions(module: nn.Module) -> bool:
    return any(isinstance(part, nn.Conv2d) for part in module.modules() if part is not module)


def create_backbone(name: str, *, pretrained: bool = False) -> Any:
    """Return a timm model with random weights, or with pretrained weights from the hub.

    Random weights are drawn from torch's current random state.

    Raises:
        OptionError: timm has no such model; the message lists similar names.
    """
    if name in squeezenet.SQUEEZENETS:
        return squeezenet.create_squeezenet(name, pretrained=pretrained)
    network_names.require_network(name)
    try:
        return import_timm().create_model(name, pretrained=pretrained)
    except RuntimeError as error:  # for example a tag, NAME.TAG, that does not exist
        if pretrained:
            raise
        raise OptionError(f"timm cannot create the backbone '{name}': {error}") from error


def _is_transformer(model: Any) -> bool:
    kinds = {type(module).__name__ for module in model.modules()}
    return any("Attention" in kind or "Attn" in kind for kind in kinds) or hasattr(model, "patch_embed")


def taps_at_strides(model: Any, strides: tuple[int, ...]) -> tuple[str, ...]:
    """Return timm's feature modules at the given strides.

    Raises:
        OptionError: The backbone has no features at one of the strides.
    """
    info = {entry["reduction"]: entry["module"] for entry in model.feature_info}
    missing = [stride for stride in strides if stride not in info]
    if missing:
        raise OptionError(
            f"this backbone has no features at stride {missing[0]}",
            expected=", ".join(f"{stride}: {module}" for stride, module in info.items()),
            fix=network_names.CHOOSE_CONVOLUTIONAL if _is_transformer(model) else "name modules: `taps`",
        )
    return tuple(info[stride] for stride in strides)


def tap_names(model: Any) -> list[str]:
    """Return the possible taps: top-level modules and children of top-level Sequentials."""
    names: list[str] = []
    for name, module in model.named_children():
        names.append(name)
        if isinstance(module, nn.Sequential):
            names += [f"{name}.{child}" for child, _ in module.named_children()]
    return names


def _stages(model: Any, taps: tuple[str, ...]) -> list[tuple[str, nn.Module]]:
    """Return the model's stages in order; a Sequential that contains a tap is split."""
    opened = {tap.split(".")[0] for tap in taps if "." in tap}
    stages: list[tuple[str, nn.Module]] = []
    for name, module in model.named_children():
        if name in opened and isinstance(module, nn.Sequential):
            stages += [(f"{name}.{child}", part) for child, part in module.named_children()]
        else:
            stages.append((name, module))
    return stages
