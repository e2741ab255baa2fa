"""What an INT8 graph computes: steps, rounding, clamping, and which operations are quantised.

This is the one definition. :class:`Int8Plan` names the operations and the steps of what they take;
:mod:`kd_export.precision.quantize` writes a graph for a plan, and
:class:`kd_export.graph.fake_quantizer.FakeQuantizer` computes the same in PyTorch, with gradients.

Activations have one step a tensor, weights one for each output channel, such that every CPU
computes the same. CPUs without VNNI multiply uint8 by int8, and add the products of two
neighbouring input channels in 16 bits, which end at 32,767. Two products of 255 · 127 do not fit.
OpenVINO's scores of a compact pair were more than 20 times as large with the instructions of such a
CPU.

Weights of 7 bits always fit, and cost accuracy: on a pair of tf_efficientnet_lite0 they doubled
what INT8 changes in the maps. But two large weights with one sign are seldom neighbours. So the
step of an output channel is the smallest with which no two neighbours exceed 128: in the median
layer 1.2 times that of 8 bits. It changes the maps as little as 8 bits do.

Biases are rounded to multiples of the product of both steps, because ONNX Runtime holds them so, in
int32. OpenVINO and PyTorch, which hold them in FP32, have the same numbers then. Unrounded, ONNX
Runtime's maps of STPM on a small network differed from PyTorch's by 4 % of their range; rounded, by
0.02 %. Channels whose weights are nearly zero, of which lite0 has dozens, get a step that keeps
their bias in the range of int32.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor

_LIMITS = {"uint8": (0, 255), "int8": (-128, 127)}
_UINT8_MAX, _UINT8_MIDDLE, _INT8_MAX = 255, 128, 127
# Half of what int32 holds: the sum of products is added to the bias.
_LARGEST_BIAS = 2.0**30


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """How the values of a tensor become integers: ``clamp(round(x / scale) + zero)``.

    Halves are rounded to the even neighbour, as by ONNX's QuantizeLinear.

    Attributes:
        scale: The difference between the values of two neighbouring integers, a number of float32.
        zero: The integer that stands for 0.
        type: The type of the integers, to whose limits they are clamped.
    """

    scale: float
    zero: int
    type: Literal["uint8", "int8"]

    @property
    def limits(self) -> tuple[int, int]:
        """The smallest and the largest integer."""
        return _LIMITS[self.type]


def step_of(largest: float, kind: Literal["non-negative", "any", "image"]) -> Step:
    """Return the step of a tensor whose absolute values reach ``largest`` and are clipped there.

    Values that cannot be negative use all 256 integers, the others 255. An image's are signed, see
    :mod:`kd_export.precision.int8_plan`.
    """
    # Of zeros, any step: zero has an integer of its own in every type.
    scale = np.float32((largest or 1.0) / (_UINT8_MAX if kind == "non-negative" else _INT8_MAX))
    zero = _UINT8_MIDDLE if kind == "any" else 0
    return Step(scale=float(scale), zero=zero, type="int8" if kind == "image" else "uint8")


class Int8Plan(msgspec.Struct, frozen=True):
    """Which operations of a pair are quantised, and by which steps.

    Attributes:
        nodes: The step of each activation that an operation takes, in order, by the name of its
            node in the exported graph: ``pair.student.layer1.0.conv1/Conv``. A convolution takes
            one, an addition two, a pool one. The others are computed in FP32.
    """

    nodes: dict[str, tuple[Step, ...]]

    @property
    def residual_additions(self) -> int:
        """The number of additions that are quantised: those of residual blocks."""
        return sum(name.rpartition("/")[2].startswith("Add") for name in self.nodes)


def fake_quantize(x: Tensor, step: Step) -> Tensor:
    """Return the values that the integers of ``x`` stand for, of the shape and type of ``x``.

    The gradient passes straight through, except where a value is clipped: there it is zero.
    """
    low, high = ((limit - step.zero) * step.scale for limit in step.limits)
    # PyTorch's own fake quantisation takes three times as long on CPUs, and multiplies by the
    # reciprocal of the scale, where ONNX divides.
    return _rounded(F.hardtanh(x, low, high), step.scale)


class Parameters(NamedTuple):
    """The values that the integers of a convolution's parameters stand for.

    Attributes:
        weight: The weights, of the shape that they have.
        bias: The bias, or None.
        steps: The step of the weights of each output channel of a group, in float32.
    """

    weight: Tensor
    bias: Tensor | None
    steps: Tensor


def fake_quantize_parameters(
    weight: Tensor, bias: Tensor | None, step: Step, *, groups: int = 1, is_transposed: bool = False
) -> Parameters:
    """Return the values that the integers of a convolution's parameters stand for.

    Those of the weights are ``-127 .. 127``. Nothing is clamped, and the gradients of the values
    pass straight through to the parameters.

    Args:
        weight: Weights ``(outputs, inputs / groups, ...)``, or of a transposed convolution
            ``(inputs, outputs / groups, ...)``.
        bias: The bias ``(outputs,)``, or None.
        step: The step of the activations that the weights are multiplied by.
        groups: The number of groups of the convolution.
        is_transposed: Whether the convolution is transposed.
    """
    axis = 1 if is_transposed else 0
    with torch.no_grad():
        by_output = weight.detach().movedim(axis, 0)
        # The kernels of depthwise convolutions add in 32 bits, but not where a group has several
        # outputs: those are computed as products of matrices.
        is_depthwise = groups > 1 and by_output.shape[1] == 1 and len(by_output) == groups
        steps = weight_steps(by_output, step.scale, bias, is_depthwise=is_depthwise)
    by_axis = steps.reshape([-1 if each == axis else 1 for each in range(weight.ndim)])
    if bias is not None:
        bias = _rounded(bias, (steps * step.scale).repeat(len(bias) // len(steps)))
    return Parameters(_rounded(weight, by_axis), bias, steps)


class _Rounding(torch.autograd.Function):
    """Rounds to multiples of a scale, halves to even ones; the gradient passes straight through."""

    @staticmethod
    def forward(_context: Any, x: Tensor, scale: float | Tensor) -> Tensor:
        return _quotient(x, scale).round_().mul_(scale)

    @staticmethod
    def backward(_context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def _quotient(x: Tensor, divisor: float | Tensor) -> Tensor:
    """Return ``x / divisor`` of the type of ``x``, the same on every device."""
    if not isinstance(divisor, Tensor):
        # By a number, CUDA multiplies by its reciprocal, which rounds otherwise than a division.
        divisor = torch.full((), divisor, dtype=torch.float64, device=x.device)
    return torch.div(x, divisor)


def _rounded(x: Tensor, scale: float | Tensor) -> Tensor:
    found: Tensor = _Rounding.apply(x, scale)
    return found


def weight_steps(weights: Tensor, scale: float, bias: Tensor | None = None, *, is_depthwise: bool = False) -> Tensor:
    """Return the step of each output channel, ``(outputs,)``.

    Args:
        weights: Weights ``(outputs, inputs, ...)``.
        scale: The scale of the activations that they are multiplied by.
        bias: The bias, of ``outputs`` values for each group, or None.
        is_depthwise: Whether the convolution is depthwise, whose kernels add in 32 bits.
    """
    largest = weights.abs().flatten(1).amax(1)
    for sign in () if is_depthwise else (1, -1):
        largest = torch.maximum(largest, _largest_pair((sign * weights).clamp_min(0)))
    # Rounding makes a pair of 127 at most 128, and 255 · 128 fits into 16 bits.
    steps = _quotient(largest.double(), _INT8_MAX)
    if bias is not None:
        largest_bias = bias.detach().abs().double().reshape(-1, len(steps)).amax(0)
        steps = torch.maximum(steps, _quotient(largest_bias, scale * _LARGEST_BIAS))
    # So large that neither the step nor its product with the scale is lost in FP32; NaN stays.
    smallest = 2 * torch.finfo(torch.float32).tiny / min(scale, 1.0)
    return torch.where(steps == 0, 1.0, steps.clamp_min(smallest)).float()  # of zeros, any step


def _largest_pair(weights: Tensor) -> Tensor:
    """Return the largest sum of two neighbours in each output channel of non-negative weights.

    Neighbours are the first and second input channel, the third and fourth, and so on. With an odd
    number of channels, a kernel may pair any two weights.
    """
    if weights.shape[1] % 2 == 0:
        return (weights[:, 0::2] + weights[:, 1::2]).flatten(1).amax(1)
    flat = weights.flatten(1)
    return flat.topk(min(2, flat.shape[1]), dim=1).values.sum(1)
