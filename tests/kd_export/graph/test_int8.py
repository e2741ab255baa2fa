"""Steps, rounding and clamping of INT8 against NumPy, and the gradients of its training."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kd_export.graph import int8
from kd_export.graph.int8 import Int8Plan, Step, fake_quantize, fake_quantize_parameters, step_of, weight_steps

SHAPES = [(6, 8, 3, 3), (5, 3, 3, 3), (4, 1, 5, 5), (7, 16, 1, 1)]
STEPS = [step_of(2.0, "non-negative"), step_of(2.0, "any"), step_of(2.0, "image")]


def quantised(x: np.ndarray, step: Step) -> np.ndarray:
    """ONNX's QuantizeLinear and DequantizeLinear, in NumPy and float64."""
    low, high = {"uint8": (0, 255), "int8": (-128, 127)}[step.type]
    integers = (np.rint(x.astype(np.float64) / step.scale) + step.zero).clip(low, high)
    return (integers - step.zero) * step.scale


def random_weights(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_t(2, shape).astype(np.float32))


def levels_of(weights: torch.Tensor, steps: torch.Tensor) -> np.ndarray:
    return np.rint(weights.numpy() / steps.numpy().reshape(-1, 1, 1, 1)).clip(-127, 127).astype(int)


@pytest.mark.parametrize("step", STEPS)
def test_values_are_those_of_numpy(step) -> None:
    x = np.random.default_rng(0).normal(0, 1.5, 4000).astype(np.float32)
    assert (np.abs(x) > 2).any(), "nothing is clipped"
    ours = fake_quantize(torch.from_numpy(x), step).numpy()
    np.testing.assert_allclose(ours, quantised(x, step), rtol=1e-6, atol=1e-7)
    assert len(np.unique(ours)) > 100
    # What is quantised once is not changed again: a pool's output has the step of its input.
    np.testing.assert_array_equal(fake_quantize(torch.from_numpy(ours), step).numpy(), ours)


class Divisions(TorchDispatchMode):
    """Records by what tensors are divided."""

    def __init__(self) -> None:
        super().__init__()
        self.divisors: list[object] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket is torch.ops.aten.div:
            self.divisors.append(args[1])
        return func(*args, **(kwargs or {}))


def test_a_device_divides_by_what_lies_on_it() -> None:
    """CUDA multiplies by the reciprocal of a number, also of one in a tensor of the CPU."""
    x = torch.zeros(4, 2, 3, 3, device="meta")
    with Divisions() as found:
        fake_quantize(x, STEPS[1])
        fake_quantize_parameters(x, torch.zeros(4, device="meta"), STEPS[1])
    assert len(found.divisors) == 5
    assert {each.device.type for each in found.divisors if isinstance(each, torch.Tensor)} == {"meta"}
    assert all(isinstance(each, torch.Tensor) for each in found.divisors)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("divisor", [127, 0.0123, STEPS[0].scale, 2.0**30 * STEPS[0].scale])
def test_a_cpu_divides_as_by_a_number(kind, divisor) -> None:
    x = random_weights((64, 33)).to(kind)
    found = int8._quotient(x, divisor)
    assert found.dtype is kind
    assert torch.equal(found, x / divisor)


def test_values_are_clipped_at_the_largest_one() -> None:
    x = torch.tensor([-9.0, -2.0, 0.0, 2.0, 9.0])
    for step, lowest in zip(STEPS, (0.0, -2 * 128 / 127, -2 * 128 / 127), strict=True):
        assert fake_quantize(x, step).tolist() == pytest.approx([lowest, max(-2.0, lowest), 0.0, 2.0, 2.0])


def test_halves_become_even_and_zero_stays_zero() -> None:
    x = torch.tensor([-1.5, -0.5, 0.0, 0.5, 1.5, 2.5])
    for zero, kind in ((128, "uint8"), (0, "int8")):
        step = Step(scale=1.0, zero=zero, type=kind)
        assert fake_quantize(x, step).tolist() == [-2.0, 0.0, 0.0, 0.0, 2.0, 2.0]


def test_a_tensor_of_zeros_has_a_step() -> None:
    for kind in ("non-negative", "any", "image"):
        assert step_of(0.0, kind).scale > 0
        assert not fake_quantize(torch.zeros(3), step_of(0.0, kind)).any()


@pytest.mark.parametrize("step", STEPS)
def test_gradients_pass_where_nothing_is_clipped(step) -> None:
    x = torch.tensor([-9.0, -1.0, 0.3, 1.9, 9.0], requires_grad=True)
    fake_quantize(x, step).sum().backward()
    assert x.grad.tolist() == [0.0, 0.0 if step.zero == 0 and step.type == "uint8" else 1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("shape", SHAPES)
def test_neighbours_fit_into_16_bits_whatever_the_activations_are(shape) -> None:
    weights = random_weights(shape)
    levels = levels_of(weights, weight_steps(weights, 1.0))
    assert np.abs(levels).max() > 80, "the steps are coarser than they need be"
    # An odd number of channels: any two of the channel's weights.
    channels = levels.reshape(shape[0], shape[1], -1)
    for output in channels:
        if shape[1] % 2 == 0:
            pairs = [(output[i], output[i + 1]) for i in range(0, shape[1], 2)]
        else:
            pairs = list(itertools.combinations(output.reshape(-1, 1), 2))
        for first, second in pairs:
            sums = [255 * (first.clip(0) + second.clip(0)), 255 * (first.clip(None, 0) + second.clip(None, 0))]
            assert np.max(sums) <= 2**15 - 1
            assert np.min(sums) >= -(2**15)


def test_large_neighbours_of_opposite_signs_keep_8_bits() -> None:
    weights = torch.tensor([[1.0, -1.0], [1.0, 1.0], [1.0, 0.25]]).reshape(3, 2, 1, 1)
    assert (weight_steps(weights, 1.0) * 127).tolist() == pytest.approx([1.0, 2.0, 1.25])


def test_depthwise_convolutions_keep_8_bits() -> None:
    weights = torch.tensor([1.0, 1.0, 0.5]).reshape(1, 1, 3, 1)
    assert (weight_steps(weights, 1.0, is_depthwise=True) * 127).tolist() == pytest.approx([1.0])
    assert (weight_steps(weights, 1.0) * 127).tolist() == pytest.approx([2.0])


@pytest.mark.parametrize(("outputs", "is_depthwise"), [(4, True), (8, False)])
def test_only_convolutions_of_one_output_a_group_are_computed_as_depthwise(outputs, is_depthwise) -> None:
    weights = random_weights((outputs, 1, 3, 3))
    steps = fake_quantize_parameters(weights, None, step_of(1.0, "non-negative"), groups=4).steps
    assert torch.equal(steps, weight_steps(weights, 1 / 255, is_depthwise=is_depthwise))


def test_biases_fit_into_32_bits() -> None:
    weights = torch.tensor([1e-12, 1.0, 0.0]).reshape(3, 1, 1, 1)
    bias = torch.tensor([3.0, 3.0, -3.0])
    found = weight_steps(weights, 0.02, bias, is_depthwise=True)
    assert (bias / (0.02 * found)).abs().max() <= 2**30 * (1 + 1e-6)
    assert found[1].item() == pytest.approx(1 / 127), "a channel that fits is left alone"
    assert weight_steps(torch.zeros(2, 1, 1, 1), 0.02).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("size", [1e-45, 1e-44, 1e-41])
def test_weights_that_are_almost_zero_have_a_step_and_become_zero(size) -> None:
    weights = torch.ones(2, 4, 1, 1)
    weights[0] = size
    found = fake_quantize_parameters(weights, torch.tensor([0.0, 1.0]), Step(scale=1e-3, zero=0, type="uint8"))
    assert (found.steps * 1e-3 > 0).all()
    assert found.weight[0].flatten().tolist() == [0.0] * 4
    assert found.bias is not None
    assert found.bias[0] == 0


@pytest.mark.parametrize(
    ("shape", "groups", "is_transposed"),
    [((6, 8, 3, 3), 1, False), ((6, 1, 3, 3), 6, False), ((4, 6, 2, 2), 1, True), ((4, 3, 2, 2), 2, True)],
)
def test_parameters_are_multiples_of_their_steps(shape, groups, is_transposed) -> None:
    weight, step = random_weights(shape), step_of(3.0, "any")
    axis = 1 if is_transposed else 0
    outputs = shape[axis] * (groups if is_transposed else 1)
    bias = torch.linspace(-1, 1, outputs)
    found = fake_quantize_parameters(weight, bias, step, groups=groups, is_transposed=is_transposed)
    assert found.steps.shape == (shape[axis],)
    by_axis = found.steps.numpy().astype(np.float64).reshape([-1 if each == axis else 1 for each in range(4)])
    expected = np.rint(weight.numpy() / by_axis) * by_axis
    assert np.abs(expected / by_axis).max() <= 127
    np.testing.assert_allclose(found.weight.numpy(), expected, rtol=1e-6, atol=1e-9)
    product = np.tile(found.steps.numpy().astype(np.float64) * step.scale, outputs // shape[axis])
    np.testing.assert_allclose(found.bias.numpy(), np.rint(bias.numpy() / product) * product, rtol=1e-5, atol=1e-9)


def test_gradients_reach_weights_and_biases_unchanged() -> None:
    weight, bias = random_weights((4, 6, 3, 3)).requires_grad_(), torch.linspace(-1, 1, 4, requires_grad=True)
    found = fake_quantize_parameters(weight, bias, step_of(1.0, "any"))
    factors = random_weights((4, 6, 3, 3))
    ((found.weight * factors).sum() + 3 * found.bias.sum()).backward()
    torch.testing.assert_close(weight.grad, factors)
    torch.testing.assert_close(bias.grad, torch.full((4,), 3.0))


@pytest.mark.parametrize("step", STEPS)
def test_a_value_that_is_not_a_number_stays_so(step) -> None:
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e30])
    found = fake_quantize(x, step)
    assert found[0].isnan()
    assert found[1:].isfinite().all()


def test_a_weight_that_is_not_a_number_is_not_hidden() -> None:
    weight = torch.ones(2, 2, 1, 1)
    weight[0, 0] = float("nan")
    found = fake_quantize_parameters(weight, None, step_of(1.0, "any")).weight
    assert found[0].isnan().all()
    assert found[1].isfinite().all()


def test_a_plan_counts_its_additions() -> None:
    step = STEPS[0]
    nodes = {"pair.student.layer1.0/Add": (step, step), "pair.student.layer1.0/Add_2": (step, step)}
    nodes["pair.student.AddOn/Conv"] = (step,)
    assert Int8Plan(nodes).residual_additions == 2
