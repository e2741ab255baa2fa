"""Weights by the distance from the border: what they are, and which maps they change."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from kd_export.graph import FusedDetector
from kd_export.graph.border import BorderWeights, border_distances, scoring_maps, weights_of_level
from kd_export.graph.tail import Tail
from kd_export.onnx.onnx_export import export_onnx
from kd_export.precision.runners import run_onnxruntime
from kdx.bundle.pair_spec import Combine, Join, MapSpec, PairSpec, Tap
from kdx.imaging.images import InputSpec
from tests.images import solar_cells
from tests.pairs import make_pair

SIZE = 64
SPEC = InputSpec(height=SIZE, width=SIZE)
RAMP = tuple(float(weight) for weight in np.linspace(0.1, 1.0, SIZE // 2))


@pytest.mark.parametrize("size", [(6, 6), (5, 7), (9, 4), (1, 3)])
def test_distances_count_from_the_nearest_border(size) -> None:
    height, width = size
    expected = [
        [min(row, height - 1 - row, column, width - 1 - column) for column in range(width)] for row in range(height)
    ]
    np.testing.assert_array_equal(border_distances(size), expected)


def level_by_hand(squares: np.ndarray) -> list[float]:
    """The smoothed root mean square of each ring, in plain loops."""
    height, width = squares.shape
    rings: dict[int, list[float]] = {}
    for row in range(height):
        for column in range(width):
            rings.setdefault(min(row, height - 1 - row, column, width - 1 - column), []).append(squares[row, column])
    level = [(sum(rings[ring]) / len(rings[ring])) ** 0.5 for ring in range(len(rings))]
    smooth = []
    for centre in range(len(level)):
        kernel = [(np.exp(-0.5 * (shift / 2.0) ** 2), shift) for shift in range(-8, 9)]  # four standard deviations
        values = [factor * level[min(max(centre + shift, 0), len(level) - 1)] for factor, shift in kernel]
        smooth.append(sum(values) / sum(factor for factor, _ in kernel))
    return smooth


@pytest.mark.parametrize("size", [(40, 40), (33, 48)])
def test_weights_divide_by_the_level_where_it_is_above_the_usual_one(size) -> None:
    squares = np.random.default_rng(0).gamma(2.0, size=size) * (1 + 30 * np.exp(-border_distances(size) / 3.0)) ** 2
    level = level_by_hand(squares)
    usual = float(np.median(level))
    expected = [min(1.0, usual / each) for each in level]
    np.testing.assert_allclose(weights_of_level(squares), expected, rtol=1e-9)
    assert expected[0] < 0.2 < expected[-1]


def test_maps_that_are_low_at_the_border_keep_their_values() -> None:
    weights = weights_of_level(np.minimum(border_distances((32, 32)), 8).astype(np.float64))
    assert weights[:4] == (1.0,) * 4
    assert len(weights) == 16


def test_maps_of_zeros_keep_their_values() -> None:
    assert weights_of_level(np.zeros((8, 12))) == (1.0,) * 4


def test_a_weight_multiplies_every_pixel_at_its_distance() -> None:
    maps = torch.rand(2, 5, 7, generator=torch.Generator().manual_seed(0))
    ours = BorderWeights((0.25, 0.5, 1.0), (5, 7))(maps).numpy()
    for row in range(5):
        for column in range(7):
            weight = (0.25, 0.5, 1.0)[min(row, 4 - row, column, 6 - column)]
            np.testing.assert_array_equal(ours[:, row, column], maps[:, row, column] * weight)


# Every way in which maps are joined.
CHOICES = [
    ("stpm", {}),
    ("stpm", {"scored_by": "deepest-squared"}),
    ("mixed-teacher", {}),
    ("dual", {}),
    ("dual", {"scored_by": "loc"}),
    ("dual", {"scored_by": "both"}),
    ("dskd", {}),
]


class Convolutions(nn.Module):
    """Networks of one convolution for each feature: weights concern maps alone."""

    def __init__(self, spec: PairSpec) -> None:
        super().__init__()
        torch.manual_seed(0)
        strides = [4 * 2 ** (place % 2) for each in spec.maps for place in range(len(each.taps))]
        self.networks = nn.ModuleList(nn.Conv2d(3, 8, stride, stride) for stride in strides for _ in range(2))

    def forward(self, x: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
        features = [network(x) for network in self.networks]
        return list(zip(features[::2], features[1::2], strict=True))


@pytest.mark.parametrize(("method", "choices"), CHOICES)
def test_weights_change_the_map_that_makes_the_score(method, choices) -> None:
    spec = make_pair(method, "test_resnet", sigma=2.0, **choices).spec
    scores = scoring_maps(spec)
    weights = [RAMP if each else () for each in scores]
    images = solar_cells(3, (SIZE, SIZE))
    pair = Convolutions(spec)
    plain, weighted = (
        FusedDetector(pair, spec, SPEC, (SIZE, SIZE), (0.5,) * 3, (0.25,) * 3, None, each) for each in ((), weights)
    )
    with torch.inference_mode():
        maps = [each.double().numpy() for each in plain.unweighted_maps(torch.from_numpy(images))]
        returned, score = (each.numpy() for each in weighted(torch.from_numpy(images)))
        before, _ = plain(torch.from_numpy(images))
    np.testing.assert_array_equal(maps[0].astype(np.float32), before.numpy())
    factor = np.array(RAMP)[border_distances((SIZE, SIZE))]
    expected = [each * factor if scoring else each for each, scoring in zip(maps, scores, strict=True)]
    np.testing.assert_allclose(returned, expected[0], rtol=1e-6)
    of_map = np.max if spec.score.value == "max" else np.sum
    made = [of_map(each, axis=(1, 2)) for each, scoring in zip(expected, scores, strict=True) if scoring]
    np.testing.assert_allclose(score[:, 0], np.prod(made, axis=0), rtol=1e-5)


def test_the_graph_has_the_weights_of_every_map_that_makes_the_score(tmp_path) -> None:
    spec = make_pair("dual", "test_resnet", sigma=2.0, scored_by="both").spec
    assert scoring_maps(spec) == (True, True)
    images, pair = solar_cells(3, (SIZE, SIZE)), Convolutions(spec)
    about = (pair, spec, SPEC, (SIZE, SIZE), (0.5,) * 3, (0.25,) * 3, None)
    plain, weighted = FusedDetector(*about), FusedDetector(*about, [RAMP, RAMP])
    with torch.inference_mode():
        returned, score = (each.numpy() for each in weighted(torch.from_numpy(images)))
        before = plain(torch.from_numpy(images))[1].numpy()
    assert (score < 0.99 * before).any()
    export_onnx(weighted, tmp_path / "model.onnx", max_batch=1, metadata={})
    answers = run_onnxruntime(onnx.load(tmp_path / "model.onnx"), images)
    # The tolerance of every graph in FP32, see kdx/verification/tolerances.py.
    np.testing.assert_allclose(answers.maps, returned, atol=1e-4 * np.ptp(returned))
    np.testing.assert_allclose(answers.scores, score, rtol=1e-4)


@pytest.mark.parametrize("join", list(Join))
def test_every_join_says_which_of_its_maps_make_the_score(join) -> None:
    tap = MapSpec((Tap("t"),), Combine.PRODUCT)
    spec = PairSpec((tap,) if join is Join.SINGLE else (tap, tap), join)
    tail = Tail(spec, [(2, 4, 4)] * len(spec.maps), (8, 8))
    generator = torch.Generator().manual_seed(0)
    features = [tuple(torch.randn(1, 2, 4, 4, generator=generator) for _ in range(2)) for _ in spec.maps]
    assert len(scoring_maps(spec)) == len(tail.unweighted(features))
    assert any(scoring_maps(spec))


def test_a_detector_of_tiles_has_no_weights() -> None:
    pair = make_pair("stpm", "test_resnet")
    images = torch.from_numpy(solar_cells(2, (SIZE, SIZE)))
    plain, weighted = (
        FusedDetector(pair, pair.spec, SPEC, (SIZE, SIZE), pair.mean, pair.std, None, each) for each in ((), [RAMP])
    )
    with torch.inference_mode():
        expected, before = plain(images)[0], weighted(images)[0]
        copied = weighted.without_border_weights()
        torch.testing.assert_close(copied(images)[0], expected, rtol=0, atol=0)
        torch.testing.assert_close(weighted(images)[0], before, rtol=0, atol=0)  # it was not changed
    assert not torch.equal(before, expected)
    assert not any(module.training for module in copied.modules())
