"""Teacher and student of equal architecture as one network of grouped convolutions.

A candidate to be measured, not a default: it is kept only until a GPU has said whether it is
faster. Whether two groups in one convolution cost as much as two convolutions is up to cuDNN, which
has fewer kernels for groups; and two networks that do not depend on each other can also overlap, on
two streams of one CUDA graph.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from kd_export.graph.fold import FOLD_TOLERANCE, ChannelAffine
from kdx.errors import GateError, OptionError

Pairs = list[tuple[Tensor, Tensor]]


class GroupedPair(nn.Module):
    """Two networks of equal structure that see the same image, as one.

    The channels of every feature are the teacher's, then the student's. Convolutions of the image
    share it; every other has twice the groups. What works on channels one by one (activations,
    pooling, sums of branches) stays as it is.

    Args:
        teacher: A network that takes ``(N, C, H, W)`` and returns a list of features. In eval mode,
            with its batch normalisation or after it was folded.
        student: The student, of the same architecture.
        example: An image of the networks' size, on which the result is compared with both.

    Raises:
        OptionError: The networks are not of one structure, or have layers that are not known to act
            on each channel or group by itself.
        GateError: The result computes something else; concatenations and shuffles of channels mix
            the two networks.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module, example: Tensor) -> None:
        super().__init__()
        with torch.no_grad():
            expected = list(zip(teacher(example), student(example), strict=True))
            self.network = _merge(teacher, student, example).eval().requires_grad_(False)
            try:
                found = self(example)
            except RuntimeError as error:  # a concatenation's channels may not fit the next convolution
                raise GateError(f"the grouped network cannot run: {error}") from error
        for (*both,), (*ours,) in zip(expected, found, strict=True):
            for theirs, feature in zip(both, ours, strict=True):
                difference = (feature - theirs).abs().max() / theirs.abs().max().clamp_min(torch.finfo().tiny)
                if not difference <= FOLD_TOLERANCE:
                    raise GateError(
                        "the grouped network computes something else than the two",
                        expected=f"a difference of at most {FOLD_TOLERANCE:g} of the range",
                        received=f"{float(difference):g}",
                        fix="run the two networks by themselves",
                    )

    def forward(self, x: Tensor) -> Pairs:
        """Take ``(N, C, H, W)``; return teacher's and student's features of each tap, as views."""
        return [feature.chunk(2, dim=1) for feature in self.network(x)]


def _merge(teacher: nn.Module, student: nn.Module, example: Tensor) -> nn.Module:
    """Return a copy of the teacher into which the student is merged."""
    seen = _convolutions_of(teacher, example)
    merged = copy.deepcopy(teacher)
    for name, first, second in _matched(merged, student):
        if isinstance(first, nn.Conv2d):
            assert isinstance(second, nn.Conv2d)
            _merge_convolutions(first, second, shares_input=name in seen)
        elif isinstance(first, (nn.BatchNorm2d, ChannelAffine)):
            _merge_channels(first, second)
        elif [*first.parameters(recurse=False), *first.buffers(recurse=False)]:
            raise OptionError(
                f"'{name}' cannot be grouped",
                expected="convolutions and batch normalisation",
                received=type(first).__name__,
            )
    return merged


def _matched(first: nn.Module, second: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Module]]:
    """Return the modules of two networks side by side."""
    ours, theirs = dict(first.named_modules()), dict(second.named_modules())
    names = {name for name in {*ours, *theirs} if type(ours.get(name)) is not type(theirs.get(name))}
    names |= {name for name in {*ours, *theirs} - names if _shapes(ours[name]) != _shapes(theirs[name])}
    if names:
        name = min(names)
        raise OptionError(
            f"teacher and student are not of one structure: they differ at '{name}'",
            expected=str(ours.get(name)).splitlines()[0],
            received=str(theirs.get(name)).splitlines()[0],
        )
    return ((name, ours[name], theirs[name]) for name in ours)


def _shapes(module: nn.Module) -> dict[str, object]:
    tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    found: dict[str, object] = {name: tensor.shape for name, tensor in tensors}
    if isinstance(module, nn.Conv2d):
        # Of equal weights, and yet not the same convolution.
        found["convolution"] = (module.stride, module.padding, module.dilation, module.groups, module.padding_mode)
    return found


def _convolutions_of(network: nn.Module, example: Tensor) -> set[str]:
    """Return the names of the convolutions whose input is the image itself."""
    names: set[str] = set()
    hooks = [
        module.register_forward_pre_hook(
            lambda _module, inputs, name=name: names.add(name) if inputs[0] is example else None
        )
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    try:
        network(example)
    finally:
        for hook in hooks:
            hook.remove()
    return names


def _merge_convolutions(first: nn.Conv2d, second: nn.Conv2d, *, shares_input: bool) -> None:
    if shares_input and first.groups != 1:
        raise OptionError("a grouped convolution of the image cannot be shared", received=str(first))
    first.out_channels *= 2
    if not shares_input:
        first.in_channels *= 2
        first.groups *= 2
    first.weight = nn.Parameter(torch.cat([first.weight, second.weight]))
    if first.bias is not None and second.bias is not None:
        first.bias = nn.Parameter(torch.cat([first.bias, second.bias]))


def _merge_channels(first: nn.BatchNorm2d | ChannelAffine, second: nn.Module) -> None:
    theirs = dict([*second.named_parameters(recurse=False), *second.named_buffers(recurse=False)])
    for name, parameter in list(first.named_parameters(recurse=False)):
        setattr(first, name, nn.Parameter(torch.cat([parameter, theirs[name]])))
    for name, buffer in list(first.named_buffers(recurse=False)):
        if buffer.ndim:  # not the count of batches
            # Vectors, or (1, C, 1, 1) as a channel's affine has them.
            setattr(first, name, torch.cat([buffer, theirs[name]], dim=1 if buffer.ndim == 4 else 0))
    if isinstance(first, nn.BatchNorm2d):
        first.num_features *= 2
