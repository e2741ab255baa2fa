"""What the speed-up is measured against computes the same: else it would prove nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kd_export.graph import FusedDetector
from kd_train.evaluation.baseline import EagerBaseline
from kd_train.methods import methods
from kdx.imaging.images import InputSpec
from tests.images import solar_cells
from tests.pairs import fuse_pair, make_pair

# Folded weights and matrices against unfolded networks and F.interpolate, all float32.
TOLERANCE = 1e-4


@pytest.mark.parametrize("sigma", [0.0, 4.0])
@pytest.mark.parametrize(
    "spec",
    [
        InputSpec(height=64, width=64),
        InputSpec(height=64, width=64, channels=1),
        InputSpec(height=64, width=64, channel_order="bgr"),
        InputSpec(height=90, width=120),
    ],
    ids=["rgb", "mono", "bgr", "resized"],
)
def test_the_eager_baseline_agrees_with_the_fused_detector(spec, sigma) -> None:
    pair = make_pair("stpm", "test_resnet", sigma=sigma)
    images = solar_cells(4, (spec.height, spec.width), spec.channels)
    ours = EagerBaseline(pair, spec, (64, 64)).run(images)
    maps, scores = FusedDetector(pair, pair.spec, spec, (64, 64), pair.mean, pair.std)(torch.from_numpy(images))
    assert np.abs(ours.maps - maps.numpy()).max() <= TOLERANCE * np.ptp(maps.numpy())
    np.testing.assert_allclose(ours.scores, scores.numpy(), rtol=TOLERANCE)


@pytest.mark.parametrize("method", sorted(methods()))
def test_the_eager_baseline_agrees_for_every_method(method) -> None:
    pair = make_pair(method, "test_resnet", sigma=2.0)
    spec = InputSpec(height=80, width=96)
    images = solar_cells(4, (80, 96))
    ours = EagerBaseline(pair, spec, (64, 64), resize_to=(75, 75)).run(images)
    maps, scores = fuse_pair(pair, spec, 64, (75, 75))(torch.from_numpy(images))
    assert np.abs(ours.maps - maps.numpy()).max() <= TOLERANCE * np.ptp(maps.numpy())
    np.testing.assert_allclose(ours.scores, scores.numpy(), rtol=TOLERANCE)
