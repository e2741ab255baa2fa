"""Teacher and student as one network of grouped convolutions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdx.errors import BackendError, GateError, OptionError
from kdx.imaging.images import InputSpec
from kernels.grouped import GroupedPair
from tests.images import solar_cells
from tests.pairs import fuse_pair, make_pair

SIZE = 64
# Grouped and plain convolutions add up in another order.
TOLERANCE = 1e-5


@pytest.mark.parametrize("is_folded", [False, True], ids=["batch norm", "folded"])
# Plain and depthwise convolutions, with and without squeeze-and-excitation.
@pytest.mark.parametrize("backbone", ["resnet18", "tf_efficientnet_lite0", "efficientnet_b0"])
def test_one_network_computes_what_two_did(backbone, is_folded) -> None:
    pair = make_pair("stpm", backbone)
    if is_folded:
        pair = fuse_pair(pair, InputSpec(height=SIZE, width=SIZE), SIZE).pair
    x = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    grouped = GroupedPair(pair.teacher.networks[0], pair.student, x[:1])
    with torch.no_grad():
        expected, found = pair(x), grouped(x)
    for theirs, ours in zip(expected, found, strict=True):
        assert not torch.allclose(*theirs, rtol=0.1)
        for one, other in zip(theirs, ours, strict=True):
            assert float((one - other).abs().max()) <= TOLERANCE * float(one.abs().max())

    def count(network: nn.Module) -> int:
        return sum(isinstance(module, nn.Conv2d) for module in network.modules())

    assert count(grouped) == count(pair) / 2


def test_networks_of_other_structures_are_refused() -> None:
    pair = make_pair("reduced-student", "test_resnet")
    with pytest.raises(OptionError, match="not of one structure"):
        GroupedPair(pair.teacher.networks[0], pair.student, torch.randn(1, 3, SIZE, SIZE))
    teacher, student = (nn.Sequential(nn.Conv2d(3, 4, 3, stride=stride)) for stride in (1, 2))
    with pytest.raises(OptionError, match="differ at '0'"):
        GroupedPair(teacher, student, torch.randn(1, 3, 8, 8))


def test_networks_that_mix_channels_are_refused() -> None:
    pair = make_pair("stpm", "squeezenet1_1")
    with pytest.raises(GateError, match="something else"):
        GroupedPair(pair.teacher.networks[0], pair.student, torch.randn(1, 3, SIZE, SIZE))


def test_layers_with_other_parameters_are_refused() -> None:
    networks = [nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)) for _ in range(2)]
    with pytest.raises(OptionError, match="'1' cannot be grouped"):
        GroupedPair(*networks, torch.randn(1, 3, 8, 8))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_nothing_is_timed_without_a_gpu() -> None:
    from kernels.measure import time_detector, time_tail

    detector = fuse_pair(make_pair("stpm", "test_resnet"), InputSpec(height=SIZE, width=SIZE), SIZE)
    with pytest.raises(BackendError, match="no"):
        time_detector(detector, solar_cells(1, (SIZE, SIZE)))
    with pytest.raises(BackendError, match="CUDA"):
        time_tail(detector.spec, [(8, 4, 4)] * 3, (SIZE, SIZE), 1)
