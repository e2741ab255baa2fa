"""Pairs of every method with fake quantisation: their parts compute what the whole computes."""

from __future__ import annotations

import copy

import msgspec
import onnx
import pytest
import torch

from kd_export.precision.int8_plan import plan_int8
from kd_train.models.pair import Pair
from kd_train.models.quantized_pair import QuantizedPair
from kdx.errors import GateError
from tests.images import solar_cells


@pytest.fixture
def pair(exported) -> QuantizedPair:
    plan = plan_int8(onnx.load(exported.fp32), solar_cells(3, (72, 80)))
    return QuantizedPair(copy.deepcopy(exported.detector), plan)


def test_every_parameter_of_the_students_learns_and_none_of_the_teacher(pair) -> None:
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    pair.train()
    with torch.no_grad():
        teacher = pair.teacher_features(x)
    for compare in (pair.compare_training, pair.compare_damaged):
        compared = compare(x, teacher)
        assert len(compared) == len(pair.spec.loss_taps)
        sum((theirs - ours).square().mean() for theirs, ours in compared).backward()
        learning = {name for name, parameter in pair.named_parameters() if parameter.grad is not None}
        assert learning == {name for name, _ in pair.named_parameters() if not name.startswith("teacher.")}
        pair.zero_grad()


def test_tensors_have_the_names_of_the_folded_pair(pair, exported) -> None:
    assert pair.state_dict().keys() == exported.detector.pair.state_dict().keys()


def test_no_list_is_copied_to_the_device_in_a_step(pair, monkeypatch) -> None:
    """PyTorch waits for a GPU there."""
    tensor = torch.tensor

    def on_cpu(*values: object, device: torch.device | None = None, **options: object) -> torch.Tensor:
        assert device is None or device.type == "cpu"
        return tensor(*values, **options)

    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = x * (255.0 * torch.tensor(pair.std)).view(1, 3, 1, 1)
    monkeypatch.setattr(torch, "tensor", on_cpu)
    assert pair._as_folded(x.to("meta")).device.type == "meta"
    assert torch.equal(pair._as_folded(x), expected)


def test_a_copy_is_independent(pair) -> None:
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = pair(x)
        copied = copy.deepcopy(pair)
        for parameter in copied.parameters():
            parameter.mul_(3.0)
        after, theirs = pair(x), copied(x)
    for ours, again, other in zip(before, after, theirs, strict=True):
        torch.testing.assert_close(ours, again, rtol=0, atol=0)
        assert not torch.equal(ours[1], other[1])


@pytest.mark.parametrize("exported", ["stpm"], indirect=True)
def test_students_that_call_the_teachers_modules_are_refused(exported, monkeypatch) -> None:
    plan = plan_int8(onnx.load(exported.fp32), solar_cells(3, (72, 80)))
    detector = copy.deepcopy(exported.detector)
    first = next(name for name in plan.nodes if name.startswith("pair.teacher"))
    # Its second call has a step of its own in the graph of such a method.
    (step,) = plan.nodes[first]
    plan.nodes[f"{first}_2"] = (msgspec.structs.replace(step, scale=50 * step.scale),)
    real = type(detector.pair).compare

    def compare(self: Pair, x, teacher):
        return [(theirs, ours + self.teacher(x)[0].mean()) for theirs, ours in real(self, x, teacher)]

    monkeypatch.setattr(type(detector.pair), "compare", compare)
    with pytest.raises(GateError, match="cannot be quantised apart from each other"):
        QuantizedPair(detector, plan)
