"""Compact networks: heads where the source has taps, and one or several networks for a method."""

from __future__ import annotations

import pytest
import torch

from kd_train.models import compact
from kd_train.models.compact import CompactNetwork, Head
from kd_train.models.teacher import TeacherOptions, build_teacher, untrained_network
from kdx.errors import OptionError
from tests.pairs import make_pair

HEADS = (Head("blocks.2", 40, 8), Head("blocks.4", 112, 16), Head("blocks.5", 192, 32))


@pytest.mark.parametrize("name", compact.NAMES)
def test_a_head_has_its_taps_channels_and_size(name):
    network = CompactNetwork(name, HEADS)
    for side in (64, 72):  # 72 is no multiple of 32
        with torch.inference_mode():
            features = network(torch.randn(2, 3, side, side))
        assert network.taps == tuple(head.tap for head in HEADS)
        for feature, head in zip(features, HEADS, strict=True):
            described = network.feature(head.tap)
            assert feature.shape == (2, head.channels, -(-side // head.stride), -(-side // head.stride))
            assert (described.channels, described.stride, described.is_rectified) == (head.channels, head.stride, False)
        assert min(float(feature.min()) for feature in features) < 0  # so they must not be rectified by students


def test_every_convolution_is_dense_and_its_channels_are_multiples_of_eight():
    for name in compact.NAMES:
        for module in CompactNetwork(name, HEADS).stages.modules():
            if isinstance(module, torch.nn.Conv2d):
                assert (module.groups, module.out_channels % 8, module.kernel_size) == (1, 0, (3, 3))


def test_the_sizes_differ_in_cost():
    sizes = [sum(p.numel() for p in CompactNetwork(name, HEADS).parameters()) for name in compact.NAMES]
    assert compact.NAMES == ("compact-s", "compact-m", "compact-l")
    assert sizes[0] * 3 < sizes[1] < sizes[2] / 2


def test_a_network_ends_at_its_last_tap_and_its_weights_fit_one_with_more_heads():
    whole, part = CompactNetwork("compact-s", HEADS), CompactNetwork("compact-s", HEADS[:2])
    assert len(part.stages) == 4 < len(whole.stages)
    state = whole.state_dict()
    part.load_state_dict({name: state[name] for name in part.state_dict()})
    x = torch.randn(1, 3, 64, 64)
    for ours, theirs in zip(part.eval()(x), whole.eval()(x), strict=False):
        assert torch.equal(ours, theirs)


def test_levels_are_one_a_stride_and_every_tap():
    network = CompactNetwork("compact-s", (*HEADS, Head("blocks.3", 80, 16)))
    levels = network.levels_to(("blocks.2", "blocks.3", "blocks.4"))
    assert [(level.name, level.channels, level.stride) for level in levels] == [
        ("stride 2", 8, 2), ("stride 4", 16, 4), ("blocks.2", 40, 8), ("blocks.3", 80, 16), ("blocks.4", 112, 16),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("heads", "said"),
    [
        ((Head("stem", 16, 1),), "no feature of this stride"),
        ((), "no feature of this stride"),
        ((Head("layer1", 16, 4), Head("layer1", 24, 8)), "two taps with the same name: layer1, layer1"),
    ],
)
def test_heads_that_a_network_cannot_have(heads, said):
    with pytest.raises(OptionError, match=said):
        CompactNetwork("compact-s", heads)


GROUPS = ((Head("layer1", 16, 4),), (Head("blocks.4", 32, 16), Head("blocks.6", 48, 32)))


def teacher_of(*names: str):
    return build_teacher(TeacherOptions(names, None, (), ((4,), (16, 32)), GROUPS), groups=2)[0]


def test_one_network_learns_both_groups_or_each_has_its_own():
    x = torch.randn(1, 3, 64, 64)
    for names, count in ((("compact-s",), 1), (("compact-s", "compact-s"), 2), (("compact-m", "compact-s"), 2)):
        teacher = teacher_of(*names)
        assert len(teacher.networks) == count
        assert [[feature.name for feature in group] for group in teacher.groups] == [
            ["layer1"],
            ["blocks.4", "blocks.6"],
        ]
        assert [feature.shape[1] for feature in teacher(x)] == [16, 32, 48]
        assert not teacher.adapt  # all take the same normalised image


def test_groups_share_the_head_of_a_tap_that_both_name():
    groups = (HEADS[:2], HEADS[1:])
    teacher = build_teacher(TeacherOptions(("compact-s",), None, (), ((8, 16), (16, 32)), groups), groups=2)[0]
    assert [feature.name for feature in teacher.features] == ["blocks.2", "blocks.4", "blocks.4", "blocks.5"]
    _, first, second, _ = teacher.eval()(torch.randn(1, 3, 64, 64))
    assert torch.equal(first, second)


def test_features_of_a_group_have_the_order_of_the_source():
    """The source compares them one by one, also where another group named the deeper tap first."""
    deep, last = Head("blocks.5", 192, 32), Head("blocks.6", 320, 32)
    options = TeacherOptions(("compact-s",), None, (), ((32,), (32, 32)), ((last,), (deep, last)))
    teacher = build_teacher(options, groups=2)[0]
    assert [feature.name for feature in teacher.features] == ["blocks.6", "blocks.5", "blocks.6"]
    assert [feature.shape[1] for feature in teacher(torch.randn(1, 3, 64, 64))] == [320, 192, 320]


@pytest.mark.parametrize("method", ["dual", "mixed-teacher"])
def test_one_compact_network_serves_a_method_of_two_teachers_with_its_own_recipe(method):
    pair = make_pair(method, "compact-s", source="tf_efficientnet_lite0")
    assert len(pair.teacher.networks) == 1


def test_a_student_has_the_teachers_network_and_weights_of_its_own():
    options = TeacherOptions(("compact-s",), None, (), ((16, 32),), GROUPS[1:])
    teacher = build_teacher(options, groups=1)[0].networks[0]
    student = untrained_network(options, teacher.taps)
    ours, theirs = student.state_dict(), teacher.state_dict()
    assert {name: value.shape for name, value in ours.items()} == {n: v.shape for n, v in theirs.items()}
    assert not torch.equal(ours["stages.0.0.0.weight"], theirs["stages.0.0.0.weight"])


@pytest.mark.parametrize(
    ("names", "heads", "said"),
    [
        (("compact-s", "resnet18"), GROUPS, "a compact network and another one cannot be teachers together"),
        (("compact-s",), GROUPS[:1], "do not fit the method"),
        (("compact-s", "compact-s", "compact-s"), GROUPS, "`backbone` does not fit the method"),
    ],
)
def test_teachers_that_do_not_fit_the_method(names, heads, said):
    with pytest.raises(OptionError, match=said):
        build_teacher(TeacherOptions(names, None, (), ((4,), (16, 32)), heads), groups=2)
