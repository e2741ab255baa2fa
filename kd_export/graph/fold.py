"""Folds batch normalisation and whatever mixes the input's channels into convolutions.

Both find their convolutions by running the network once and watching which module's output is which
module's input, so they work for any backbone without knowing its structure, and both are proved on
that input afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from kdx.errors import GateError

# Folding reorders float32 products; real backbones differ by less than 1e-5 of the range
# afterwards.
FOLD_TOLERANCE = 1e-4

Forward = Callable[[Tensor], list[Tensor]]
_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


def fold_batch_norm(network: nn.Module, forward: Forward, example: Tensor) -> list[Tensor]:
    """Fold every batch normalisation into the convolution it directly follows, in place.

    One that follows no convolution (a pre-activation network's) becomes a multiplication and an
    addition per channel.

    Args:
        network: The network in eval mode. Of timm's ``BatchNormAct2d``, the activation remains.
        forward: Runs ``network`` and returns its features.
        example: Input of the networks' size.

    Returns:
        The features of ``example``, as the network computed them before.

    Raises:
        GateError: The folded network computes something else.
    """
    pairs, before = _followed_pairs(network, forward, example)
    modules = dict(network.named_modules())
    for conv_name, norm_name in pairs:
        convolution, norm = modules[conv_name], modules[norm_name]
        assert isinstance(convolution, _CONVOLUTIONS)
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        convolution.weight, bias = fuse_conv_bn_weights(
            convolution.weight,
            convolution.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
            transpose=isinstance(convolution, nn.ConvTranspose2d),
        )
        convolution.bias = bias
        network.set_submodule(norm_name, _activation(norm))
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            network.set_submodule(name, nn.Sequential(ChannelAffine(module), _activation(module)))
    _require_same(before, forward(example), "folding batch normalisation")
    return before


class ChannelAffine(nn.Module):
    """A batch normalisation in eval mode as one multiplication and one addition per channel."""

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        self.register_buffer("scale", scale.detach().view(1, -1, 1, 1))
        self.register_buffer("shift", (norm.bias - norm.running_mean * scale).detach().view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Take and return ``(N, C, h, w)``."""
        return x * self.scale + self.shift


def fold_input(network: nn.Module, forward: Forward, example: Tensor, mixing: Tensor) -> bool:
    """Fold a linear map of the input's channels into the first convolutions, in place.

    A diagonal matrix is a scale per channel, a reversed one also a reversal of the channels (BGR),
    and a matrix of one column makes the network's channels from a grey image.

    Args:
        network: The network in eval mode.
        forward: Runs ``network`` and returns its features.
        example: An image as the network will take it, ``(1, K, h, w)``.
        mixing: The matrix ``(3, K)`` by which the network's input was computed from such an image.

    Returns:
        False, and nothing changed, where the input does not go straight into ordinary convolutions.
    """
    mixed = F.conv2d(example, mixing[:, :, None, None])
    first, before = _input_convolutions(network, forward, mixed)
    if not first:
        return False
    weights = [convolution.weight.data for convolution in first]
    for convolution, weight in zip(first, weights, strict=True):
        _set_weight(convolution, torch.einsum("ocij,ck->okij", weight, mixing).contiguous())
    try:
        is_same = _difference(before, forward(example)) <= FOLD_TOLERANCE
    except RuntimeError:  # an operation that is no module takes the input as well, with three channels
        is_same = False
    if not is_same:
        for convolution, weight in zip(first, weights, strict=True):
            _set_weight(convolution, weight)
    return is_same


def _set_weight(convolution: nn.Conv2d, weight: Tensor) -> None:
    convolution.weight.data, convolution.in_channels = weight, weight.shape[1]


def _activation(norm: nn.BatchNorm2d) -> nn.Module:
    activation = getattr(norm, "act", None)
    return activation if isinstance(activation, nn.Module) else nn.Identity()


def _is_plain(convolution: nn.Conv2d | nn.ConvTranspose2d) -> bool:
    """Whether a convolution uses its weights unchanged; timm's weight-standardised ones do not.

    A layer that only pads differently (``Conv2dSame``) scales its output with its weights; one that
    standardises its weights does not.
    """
    if type(convolution) in _CONVOLUTIONS and not convolution._forward_pre_hooks:  # most are PyTorch's own
        return True
    x = torch.randn(1, convolution.in_channels, 9, 9, generator=torch.Generator().manual_seed(0))
    bias = convolution.bias
    zero = convolution(torch.zeros_like(x)) if bias is not None else 0.0
    before = convolution(x) - zero
    weight = convolution.weight.data
    convolution.weight.data = 2.0 * weight
    after = convolution(x) - zero
    convolution.weight.data = weight
    return torch.allclose(after, 2.0 * before, rtol=1e-4, atol=1e-6)


def _followed_pairs(
    network: nn.Module, forward: Forward, example: Tensor
) -> tuple[list[tuple[str, str]], list[Tensor]]:
    """Return pairs of a convolution and the batch normalisation after it, and the features."""
    produced: list[tuple[str, Tensor]] = []
    pairs: list[tuple[str, str]] = []
    calls: dict[str, int] = {}

    def watch(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[name] = calls.get(name, 0) + 1
        if isinstance(module, _CONVOLUTIONS):
            produced.append((name, output))
        elif isinstance(module, nn.BatchNorm2d):
            pairs.extend((source, name) for source, tensor in produced if tensor is inputs[0])

    with _watching(network, watch):
        features = forward(example)
    # A module that is called twice has two inputs to be right for; leave it alone.
    modules = dict(network.named_modules())
    once = [pair for pair in pairs if calls[pair[0]] == calls[pair[1]] == 1]
    return [pair for pair in once if _is_plain(modules[pair[0]])], features


def _input_convolutions(network: nn.Module, forward: Forward, example: Tensor) -> tuple[list[nn.Conv2d], list[Tensor]]:
    """Return the convolutions that take the input, if nothing else takes it, and the features."""
    takers: list[nn.Module] = []

    def watch(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not list(module.children()) and any(tensor is example for tensor in inputs):
            takers.append(module)

    with _watching(network, watch):
        features = forward(example)
    convolutions = [module for module in takers if isinstance(module, nn.Conv2d) and module.groups == 1]
    return convolutions if len(convolutions) == len(takers) else [], features


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


def _difference(before: list[Tensor], after: list[Tensor]) -> float:
    """Return the largest difference of any feature relative to its range, or NaN for any NaN."""
    tiny = torch.finfo(torch.float32).tiny
    relative = [
        (old - new).abs().max() / old.abs().max().clamp_min(tiny) for old, new in zip(before, after, strict=True)
    ]
    return float(torch.stack(relative).max())  # Python's max would pass over a NaN that does not come first


def _require_same(before: list[Tensor], after: list[Tensor], what: str) -> None:
    difference = _difference(before, after)
    if not difference <= FOLD_TOLERANCE:
        raise GateError(
            f"{what} changed the features",
            expected=f"at most {FOLD_TOLERANCE:g} of their range",
            received=f"{difference:.3g}",
            fix="this backbone does not suit kdx; please report its name",
        )
