"""The fused detector against numpy and scipy on real images: the networks as trained, everything
else by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from kd_export.graph import Combine, FusedDetector, MapSpec, PairSpec, Tap
from kdx.errors import OptionError
from kdx.imaging.images import InputSpec
from tests import reference
from tests.conftest import BACKBONE, METHODS, SIZE
from tests.images import solar_cells
from tests.pairs import make_pair

# Folding batch normalisation and 1 / std into the weights reorders float32 products; relative to
# the map's range.
TOLERANCE = 1e-4


def by_hand(pair, image: np.ndarray, sigma: float) -> np.ndarray:
    """Normalise by hand, run the unfolded networks, and do the rest in numpy."""
    x = (image.astype(np.float64) / 255 - np.array(pair.mean)) / np.array(pair.std)
    with torch.no_grad():
        features = pair(torch.tensor(x.transpose(2, 0, 1)[None], dtype=torch.float32))
    arrays = [(t[0].double().numpy(), s[0].double().numpy()) for t, s in features]
    return reference.anomaly_map(arrays, image.shape[:2], product=True, sigma=sigma)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "sigma"), [(64, 4.0), (96, 0.0)])
@pytest.mark.parametrize(
    ("backbone", "taps"), [("resnet18", ""), ("tf_efficientnet_lite0", "blocks.2,blocks.4,blocks.5")]
)
def test_fused_detector_agrees_with_the_reference_on_real_images(size, sigma, backbone, taps) -> None:
    pair = make_pair("stpm", backbone, taps, sigma)
    images = solar_cells(4, (size, size))
    detector = FusedDetector(pair, pair.spec, InputSpec(height=size, width=size), (size, size), pair.mean, pair.std)
    maps, scores = (output.numpy() for output in detector(torch.from_numpy(images)))
    for image, ours, score in zip(images, maps, scores, strict=True):
        theirs = by_hand(pair, image, sigma)
        assert np.abs(ours - theirs).max() <= TOLERANCE * np.ptp(theirs)
        assert score[0] == pytest.approx(theirs.max(), rel=TOLERANCE)


@pytest.mark.parametrize("mean", [(0.485, 0.456, 0.406), (0.5, 0.5, 0.5)])
@pytest.mark.parametrize("method", METHODS)
def test_mono_is_the_same_as_three_equal_channels(method, mean) -> None:
    pair = make_pair(method, BACKBONE)
    mono = solar_cells(2, (SIZE, SIZE), channels=1)
    of_mono, of_colour = (
        FusedDetector(pair, pair.spec, InputSpec(height=SIZE, width=SIZE, channels=c), (SIZE, SIZE), mean, pair.std)(
            torch.from_numpy(np.repeat(mono, c, axis=-1))
        )
        for c in (1, 3)
    )
    for ours, theirs in zip(of_mono, of_colour, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE * float(np.ptp(of_colour[0].numpy())))


def test_a_mono_image_stays_one_channel_where_the_mean_is_the_same_for_all() -> None:
    pair = make_pair()
    images = solar_cells(2, (64, 64), channels=1)
    mean, std = (0.4, 0.4, 0.4), (0.2, 0.25, 0.3)
    detector = FusedDetector(pair, pair.spec, InputSpec(height=64, width=64, channels=1), (64, 64), mean, std)
    assert detector.preprocess(torch.from_numpy(images)).shape == (2, 1, 64, 64)
    maps = detector(torch.from_numpy(images))[0].numpy()
    pair.mean, pair.std = mean, std
    for image, ours in zip(images, maps, strict=True):
        theirs = by_hand(pair, np.repeat(image, 3, axis=-1), pair.spec.maps[0].blur_sigma)
        assert np.abs(ours - theirs).max() <= TOLERANCE * np.ptp(theirs)


def test_a_mono_image_becomes_three_channels_where_their_means_differ() -> None:
    pair = make_pair()
    images = torch.from_numpy(solar_cells(2, (64, 64), channels=1))
    spec = InputSpec(height=64, width=64, channels=1)
    detector = FusedDetector(pair, pair.spec, spec, (64, 64), (0.4, 0.4, 0.5), (0.2, 0.2, 0.2))
    assert detector.preprocess(images).shape == (2, 3, 64, 64)


def test_bgr_is_folded_into_the_weights() -> None:
    pair = make_pair()
    images = torch.from_numpy(solar_cells(2, (64, 64)))
    spec = InputSpec(height=64, width=64)
    bgr = InputSpec(height=64, width=64, channel_order="bgr")
    of_rgb = FusedDetector(pair, pair.spec, spec, (64, 64), pair.mean, pair.std)(images)
    detector = FusedDetector(pair, pair.spec, bgr, (64, 64), pair.mean, pair.std)
    assert not detector.preprocess.flip
    for ours, theirs in zip(detector(images.flip(-1)), of_rgb, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=TOLERANCE, atol=1e-7)
    assert not torch.allclose(detector(images)[1], of_rgb[1], rtol=1e-2)


@pytest.mark.slow
def test_no_batch_normalisation_and_no_scale_remain() -> None:
    for backbone, taps in (("resnet18", ""), ("tf_efficientnet_lite0", "blocks.2"), ("densenet121", "")):
        pair = make_pair("stpm", backbone, taps)
        detector = FusedDetector(pair, pair.spec, InputSpec(height=64, width=64), (64, 64), pair.mean, pair.std)
        assert detector.preprocess.scale is None
        if backbone != "densenet121":  # its normalisations come before their convolutions
            assert not any(isinstance(module, nn.BatchNorm2d) for module in detector.modules())


def test_the_pair_that_was_given_is_not_changed() -> None:
    pair = make_pair()
    before = {name: value.clone() for name, value in pair.state_dict().items()}
    FusedDetector(pair, pair.spec, InputSpec(height=64, width=64), (64, 64), pair.mean, pair.std)
    after = pair.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_network_whose_input_branches_keeps_its_scale_apart() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(3, 4, 3, padding=1)
            self.pool = nn.AvgPool2d(2)

        def forward(self, x):
            return [(self.convolution(x), self.convolution(x).relu()), (self.pool(x), self.pool(x).abs())]

    spec = PairSpec((MapSpec((Tap("a"), Tap("b")), Combine.SUM),))
    images = torch.from_numpy(solar_cells(2, (32, 32)))
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    grey = InputSpec(height=32, width=32, channels=1)
    detector = FusedDetector(Branching(), spec, grey, (32, 32), (0.5, 0.5, 0.5), std)
    assert detector.preprocess.scale is not None
    assert detector.pair.convolution.in_channels == 3
    assert detector.preprocess(images[..., :1]).shape == (2, 3, 32, 32)
    for order in ("rgb", "bgr"):
        module = Branching()
        detector = FusedDetector(module, spec, InputSpec(height=32, width=32, channel_order=order), (32, 32), mean, std)
        assert detector.preprocess.scale is not None
        given = images if order == "rgb" else images.flip(-1)
        x = (images.permute(0, 3, 1, 2) / 255 - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(
            1, 3, 1, 1
        )
        torch.testing.assert_close(detector.preprocess(given), x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("change", [lambda x: x.flip(1), lambda x: x * torch.ones(1, 3, 1, 1)])
def test_a_network_that_computes_with_its_input_keeps_three_channels(change) -> None:
    class Changing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = (nn.Conv2d(3, 4, 3, padding=1) for _ in range(2))

        def forward(self, x):
            return [(self.first(x), self.second(change(x))), (self.second(x), self.first(change(x)))]

    spec = PairSpec((MapSpec((Tap("a"), Tap("b")), Combine.SUM),))
    module, grey = Changing(), InputSpec(height=32, width=32, channels=1)
    images = torch.from_numpy(solar_cells(2, (32, 32), channels=1))
    detector = FusedDetector(module, spec, grey, (32, 32), (0.5, 0.5, 0.5), (0.2, 0.25, 0.3))
    x = ((images.permute(0, 3, 1, 2) / 255 - 0.5) / torch.tensor([0.2, 0.25, 0.3]).view(1, 3, 1, 1)).float()
    torch.testing.assert_close(detector.preprocess(images), x, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        for ours, theirs in zip(detector.pair(x), module(x), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_batch_normalisation_before_a_convolution_becomes_a_scale_and_a_shift() -> None:
    from kd_export.graph.fold import ChannelAffine

    pair = make_pair("stpm", "densenet121", "features.norm0,features.denseblock1")
    images = solar_cells(2, (64, 64))
    detector = FusedDetector(pair, pair.spec, InputSpec(height=64, width=64), (64, 64), pair.mean, pair.std)
    assert any(isinstance(module, ChannelAffine) for module in detector.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in detector.modules())
    maps = detector(torch.from_numpy(images))[0].numpy()
    for image, ours in zip(images, maps, strict=True):
        theirs = by_hand(pair, image, 0.0)
        assert np.abs(ours - theirs).max() <= TOLERANCE * np.ptp(theirs)


def test_weight_standardised_convolutions_are_left_alone() -> None:
    # Their weights are normalised again in every forward: a scale folded into them would vanish.
    pair = make_pair("stpm", "resnetv2_50x1_bit", "stages.0")
    images = solar_cells(2, (64, 64))
    detector = FusedDetector(pair, pair.spec, InputSpec(height=64, width=64), (64, 64), pair.mean, pair.std)
    assert detector.preprocess.scale is not None
    theirs = by_hand(pair, images[0], 0.0)
    ours = detector(torch.from_numpy(images[:1]))[0][0].numpy()
    assert np.abs(ours - theirs).max() <= TOLERANCE * np.ptp(theirs)


def test_folding_that_yields_nan_is_refused_wherever_it_stands() -> None:
    from kd_export.graph.fold import _require_same
    from kdx.errors import GateError

    good, bad = torch.ones(2), torch.tensor([1.0, float("nan")])
    for after in ([bad, good], [good, bad]):
        with pytest.raises(GateError, match="changed the features"):
            _require_same([good, good], after, "folding")


def test_a_student_of_another_size_than_the_teacher_is_refused() -> None:
    class Unequal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.padded = nn.Conv2d(3, 4, 3, padding=1)
            self.bare = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return [(self.bare(x), self.padded(x))]

    spec = PairSpec((MapSpec((Tap("stem"),), Combine.SUM),))
    with pytest.raises(OptionError, match="'stem' does not fit the teacher's") as caught:
        FusedDetector(Unequal(), spec, InputSpec(height=32, width=32), (32, 32), (0.5,) * 3, (0.5,) * 3)
    assert (caught.value.expected, caught.value.received) == ("4 × 30 × 30", "4 × 32 × 32")
