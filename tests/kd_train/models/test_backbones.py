"""Teachers: what timm knows of them, and that nothing behind the last tap exists."""

from __future__ import annotations

import pytest
import torch

from kd_train.models.backbones import TapNetwork, create_backbone, tap_names, taps_at_strides
from kd_train.models.torch_vision import import_timm
from kdx.errors import OptionError

# Channels and strides as the papers' and timm's tables have them.
KNOWN = {
    "resnet18": (("layer1", "layer2", "layer3"), (64, 128, 256), ("layer4", "global_pool", "fc")),
    "tf_efficientnet_lite0": (("blocks.1", "blocks.2", "blocks.4"), (24, 40, 112), ("blocks.5", "conv_head")),
    "densenet121": (
        ("features.denseblock1", "features.denseblock2", "features.denseblock3"),
        (256, 512, 1024),
        ("features.transition3", "features.denseblock4", "classifier"),
    ),
}


@pytest.fixture(scope="module", params=KNOWN)
def backbone(request):
    torch.manual_seed(0)
    return request.param, create_backbone(request.param)


def test_taps_channels_and_strides(backbone):
    name, model = backbone
    taps, channels, _ = KNOWN[name]
    assert taps_at_strides(model, (4, 8, 16)) == taps
    network = TapNetwork(model, taps)
    assert network.taps == taps
    found = [network.feature(tap) for tap in taps]
    assert tuple(feature.channels for feature in found) == channels
    assert [feature.stride for feature in found] == [4, 8, 16]
    features = network.eval()(torch.randn(2, 3, 64, 96))
    assert [tuple(f.shape) for f in features] == [
        (2, c, 64 // s, 96 // s) for c, s in zip(channels, (4, 8, 16), strict=True)
    ]


def test_mean_and_std_are_timms(backbone):
    name, model = backbone
    declared = import_timm().get_pretrained_cfg(name)
    network = TapNetwork(model, KNOWN[name][0])
    assert network.mean == tuple(declared.mean)
    assert network.std == tuple(declared.std)


def test_what_comes_after_the_last_tap_does_not_exist(backbone):
    name, model = backbone
    taps, _, absent = KNOWN[name]
    modules = dict(TapNetwork(model, taps).named_modules())
    assert set(taps) <= set(modules)
    assert not set(absent) & set(modules)
    assert set(absent) <= set(dict(model.named_modules()))  # the names are right


def test_parameters_keep_timms_names(backbone):
    name, model = backbone
    theirs = model.state_dict()
    ours = TapNetwork(model, KNOWN[name][0]).state_dict()
    assert ours.keys() < theirs.keys()
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_mean_and_std_differ_between_backbones():
    means = {name: TapNetwork(create_backbone(name), KNOWN[name][0][:1]).mean for name in list(KNOWN)[:2]}
    assert means == {"resnet18": (0.485, 0.456, 0.406), "tf_efficientnet_lite0": (0.5, 0.5, 0.5)}


def test_features_come_in_the_order_in_which_they_run():
    network = TapNetwork(create_backbone("test_resnet"), ("layer3", "layer1"))
    assert network.taps == ("layer1", "layer3")
    assert [network.feature(tap).stride for tap in network.taps] == [4, 16]


def test_features_are_those_of_timm():
    model = create_backbone("test_resnet").eval()
    taps = taps_at_strides(model, (4, 8, 16))
    image = torch.randn(1, 3, 64, 64)
    theirs = model.forward_intermediates(image, indices=[1, 2, 3], intermediates_only=True)
    for ours, expected in zip(TapNetwork(model, taps).eval()(image), theirs, strict=True):
        assert torch.equal(ours, expected)


def test_making_a_network_leaves_the_mode_and_the_statistics_alone():
    model = create_backbone("test_resnet").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    TapNetwork(model, ("layer2",))
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_unknown_tap_lists_the_possible_ones():
    model = create_backbone("test_resnet")
    with pytest.raises(OptionError, match="no tap 'layer7'") as caught:
        TapNetwork(model, ("layer1", "layer7"))
    assert all(name in caught.value.expected for name in tap_names(model))
    assert "layer2.0" in caught.value.expected


def test_a_tap_without_a_map_is_refused():
    with pytest.raises(OptionError, match="cannot be tapped at fc"):
        TapNetwork(create_backbone("test_resnet"), ("fc",))


def test_a_stride_that_the_backbone_lacks_lists_those_it_has():
    with pytest.raises(OptionError, match="no features at stride 3") as caught:
        taps_at_strides(create_backbone("test_resnet"), (3,))
    assert "4: layer1" in caught.value.expected


def test_unknown_backbone_lists_the_near_ones():
    with pytest.raises(OptionError, match="timm has no backbone 'resnet81'") as caught:
        create_backbone("resnet81")
    assert "resnet18" in caught.value.expected


@pytest.mark.parametrize(
    "name",
    ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "levit_128s", "facebook/dinov2-small", "dinov2_vits14"],
)
def test_a_transformer_is_called_one_and_a_fix_is_named(cli, dataset, tmp_path, name):
    options = ("--backbone", name, "--weights", "random", "--image-size", 64)
    stderr = cli("train", dataset, "-o", tmp_path / "run", *options, code=2).stderr
    assert "this is a transformer" in stderr
    assert "choose a convolutional backbone, e.g. resnet18" in stderr
    assert "--taps" not in stderr


def test_a_hubs_name_is_sent_to_timms(cli, dataset, tmp_path):
    stderr = cli("train", dataset, "-o", tmp_path / "run", "--backbone", "hf_hub:timm/resnet18.a1_in1k", code=2).stderr
    assert "give the network's name in timm alone" in stderr


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "mixer_s32_224"])
def test_a_network_without_maps_is_refused_clearly(name):
    with pytest.raises(OptionError, match="convolutional"):
        TapNetwork(create_backbone(name), ("blocks.2",))


def test_a_network_with_branches_is_refused_clearly():
    with pytest.raises(OptionError, match="convolutional"):
        TapNetwork(create_backbone("hrnet_w18_small"), ("stage2",))
