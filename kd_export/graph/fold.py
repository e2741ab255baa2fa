"""Folding what is constant into the convolutions: batch normalisation, and the input's ``1 / (255 std)`` and BGR swap.

Both find their convolutions by running the network once and watching which module's output is which module's input,
so they work for any backbone without knowing its structure, and both are proved on that input afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from kdx.errors import GateError

# Folding reorders float32 products; real backbones differ by less than 1e-5 of the range afterwards.
FOLD_TOLERANCE = 1e-4

Forward = Callable[[Tensor], list[Tensor]]


def fold_batch_norm(network: nn.Module, forward: Forward, example: Tensor) -> int:
    """Fold every batch normalisation that directly follows a convolution into it, in place.

    Args:
        network: In eval mode. timm's ``BatchNormAct2d`` leaves its activation behind.
        forward: Runs ``network`` and returns its features.
        example: Input of the networks' size.

    Returns:
        How many were folded.

    Raises:
        GateError: The folded network computes something else.
    """
    before = forward(example)
    modules = dict(network.named_modules())
    for conv_name, norm_name in _followed_pairs(network, forward, example):
        convolution, norm = modules[conv_name], modules[norm_name]
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        convolution.weight, bias = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        convolution.bias = bias
        activation = getattr(norm, "act", None)
        network.set_submodule(norm_name, activation if isinstance(activation, nn.Module) else nn.Identity())
    folded = len(modules) - len(dict(network.named_modules()))
    _require_same(before, forward(example), "folding batch normalisation")
    return folded


def fold_input_scale(
    network: nn.Module, forward: Forward, example: Tensor, scale: Tensor, *, flip_channels: bool
) -> bool:
    """Fold a per-channel input scale, and optionally the reversal of the channels, into the first convolution.

    Args:
        network: In eval mode.
        forward: Runs ``network`` and returns its features.
        example: Input as the network takes it before folding, ``(N, 3, h, w)``.
        scale: What the input will no longer be multiplied with, shape ``(3,)``.
        flip_channels: The input will come as BGR.

    Returns:
        False, and nothing changed, where the input does not go straight into ordinary convolutions.
    """
    before = forward(example)
    first = _input_convolutions(network, forward, example)
    if not first:
        return False
    for convolution in first:
        weight = convolution.weight.data * scale.view(1, -1, 1, 1)
        convolution.weight.data = weight.flip(1) if flip_channels else weight
    unscaled = example / scale.view(1, -1, 1, 1)
    _require_same(before, forward(unscaled.flip(1) if flip_channels else unscaled), "folding the normalisation")
    return True


def _followed_pairs(network: nn.Module, forward: Forward, example: Tensor) -> list[tuple[str, str]]:
    """Return the names of convolutions and of the batch normalisations whose input is their very output."""
    produced: list[tuple[str, Tensor]] = []
    pairs: list[tuple[str, str]] = []
    calls: dict[str, int] = {}

    def watch(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[name] = calls.get(name, 0) + 1
        if isinstance(module, nn.Conv2d):
            produced.append((name, output))
        elif isinstance(module, nn.BatchNorm2d):
            pairs.extend((source, name) for source, tensor in produced if tensor is inputs[0])

    with _watching(network, watch):
        forward(example)
    # A module that is called twice has two inputs to be right for; leave it alone.
    return [pair for pair in pairs if calls[pair[0]] == calls[pair[1]] == 1]


def _input_convolutions(network: nn.Module, forward: Forward, example: Tensor) -> list[nn.Conv2d]:
    """Return the convolutions that take the input, or nothing if anything else takes it as well."""
    takers: list[nn.Module] = []

    def watch(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not list(module.children()) and any(tensor is example for tensor in inputs):
            takers.append(module)

    with _watching(network, watch):
        forward(example)
    convolutions = [module for module in takers if isinstance(module, nn.Conv2d) and module.groups == 1]
    return convolutions if len(convolutions) == len(takers) else []


@contextmanager
def _watching(
    network: nn.Module, watch: Callable[[str, nn.Module, tuple[Tensor, ...], Tensor], None]
) -> Iterator[None]:
    def hook_for(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda module, inputs, output: watch(name, module, inputs, output)

    hooks = [module.register_forward_hook(hook_for(name)) for name, module in network.named_modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _require_same(before: list[Tensor], after: list[Tensor], what: str) -> None:
    for old, new in zip(before, after, strict=True):
        difference = float((old - new).abs().max() / old.abs().max().clamp_min(torch.finfo(torch.float32).tiny))
        if not difference <= FOLD_TOLERANCE:
            raise GateError(
                f"{what} changed the features",
                expected=f"at most {FOLD_TOLERANCE:g} of their range",
                received=f"{difference:.3g}",
                fix="this backbone does not suit kdx; please report its name",
            )
