from __future__ import annotations

import numpy as np
import pytest
import torch

from kd_export.graph import Combine, Distance, MapSpec, ScoreRule, Tap
from kd_export.graph.tail import AnomalyMap, Score
from tests import reference

# float32 matrix products against float64 loops, on maps of order one.
TOLERANCE = 5e-6
SHAPES = [(8, 16, 12), (16, 8, 6), (24, 4, 3)]


def features(seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(2, *s, generator=generator), torch.randn(2, *s, generator=generator)) for s in SHAPES]


@pytest.mark.parametrize("combine", list(Combine))
@pytest.mark.parametrize("sigma", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("distance", list(Distance))
@pytest.mark.parametrize("size", [(64, 48), (70, 50)])
def test_map_agrees_with_the_reference(combine, sigma, distance, size) -> None:
    weights = [1.0, 0.5, 2.0]
    taps = tuple(Tap(f"t{i}", distance, weight) for i, weight in enumerate(weights))
    module = AnomalyMap(MapSpec(taps, combine, blur_sigma=sigma), SHAPES, size)
    pairs = features()
    ours = module(pairs).numpy()
    by_hand = reference.half_squared_l2 if distance is Distance.HALF_SQUARED_L2 else reference.cosine
    for index in range(2):
        theirs = reference.anomaly_map(
            [(t[index].double().numpy(), s[index].double().numpy()) for t, s in pairs],
            size,
            product=combine is Combine.PRODUCT,
            sigma=sigma,
            weights=weights,
            distance=by_hand,
        )
        np.testing.assert_allclose(ours[index], theirs, atol=TOLERANCE)


def test_a_single_tap_at_map_size_is_its_distance() -> None:
    teacher = torch.zeros(1, 2, 4, 4)
    teacher[:, 0] = 1
    student = teacher.clone()
    student[0, :, 1, 2] = torch.tensor([0.0, 1.0])
    spec = MapSpec((Tap("t"),), Combine.PRODUCT)
    ours = AnomalyMap(spec, [(2, 4, 4)], (4, 4))([(teacher, student)])
    expected = torch.zeros(1, 4, 4)
    expected[0, 1, 2] = 1.0
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)


def test_weights_count_in_a_sum_and_not_in_a_product() -> None:
    pairs = features()
    for combine, factor in ((Combine.SUM, 3.0), (Combine.PRODUCT, 1.0)):
        plain, weighted = (
            AnomalyMap(MapSpec(tuple(Tap("t", weight=w) for _ in SHAPES), combine), SHAPES, (32, 24))(pairs)
            for w in (1.0, 3.0)
        )
        torch.testing.assert_close(weighted, factor * plain)


def test_scores_are_the_maximum_or_the_sum_of_each_map() -> None:
    maps = torch.tensor([[[0.0, 3.0], [1.0, 2.0]], [[-1.0, -2.0], [-3.0, -4.0]]])
    assert Score(ScoreRule.MAX)(maps).tolist() == [[3.0], [-1.0]]
    assert Score(ScoreRule.SUM)(maps).tolist() == [[6.0], [-10.0]]
