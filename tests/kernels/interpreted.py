"""The kernels in Triton's interpreter, on the CPU.

test_interpreted.py collects this file in a process of its own. By hand:
TRITON_INTERPRET=1 pytest tests/kernels/interpreted.py
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from kd_export.graph import Combine, Distance, Join, MapSpec, PairSpec, ScoreRule, Tap
from kd_export.graph.tail import Tail
from kernels.fused_tail import FusedTail
from tests import reference
from tests.images import solar_cells
from tests.pairs import make_pair

BACKBONE = "test_resnet"
IMAGE = 48
# Neither divides by a tile, and both have more than one.
SIZE = (35, 41)
SIGMA = 1.5
# Of the map's largest value: sums over channels in FP32, against float64; the factors of a product
# add up.
MAP_TOLERANCE = 5e-6
# Absolute. `1 - cos` is off by the rounding of a number near 1, here of a sum over a thousand
# channels, one after another, which the interpreter, numpy's, and the graph on the CPU share.
COSINE_TOLERANCE = 5e-6

Features = list[tuple[torch.Tensor, torch.Tensor]]
Array = NDArray[np.float64]


def real_features(pair: torch.nn.Module, count: int, dtype: torch.dtype = torch.float16) -> Features:
    """Return what the pair compares on real images."""
    images = torch.from_numpy(solar_cells(count + count % 2, (IMAGE, IMAGE))[-count:])
    with torch.no_grad():
        found = pair(images.permute(0, 3, 1, 2) / 127.5 - 1.0)
    return [(t.to(dtype), s.to(dtype)) for t, s in found]


def random_features(shapes: list[tuple[int, int, int]], batch: int, distance: float = 0.1, seed: int = 0) -> Features:
    """Return rectified features, and a student's at about some distance, of three times the
    norm."""
    generator = torch.Generator().manual_seed(seed)
    features = []
    for shape in shapes:
        t = torch.randn(batch, *shape, generator=generator).relu() + 0.01
        noise = torch.randn(batch, *shape, generator=generator)
        noise -= (noise * t).sum(1, keepdim=True) / (t * t).sum(1, keepdim=True) * t
        noise *= (2 * distance) ** 0.5 * t.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True)
        features.append((t.half(), (3 * (t + noise)).half()))
    return features


def fuse(spec: PairSpec, features: Features, size: tuple[int, int] = SIZE) -> FusedTail:
    return FusedTail(spec, [tuple(t.shape[1:]) for t, _ in features], size)


def in_graph(spec: PairSpec, features: Features, size: tuple[int, int] = SIZE) -> tuple[torch.Tensor, torch.Tensor]:
    return Tail(spec, [tuple(t.shape[1:]) for t, _ in features], size)(features)


def one_map(combine: Combine, sigma: float, *weights: float, distance: Distance = Distance.HALF_SQUARED_L2) -> PairSpec:
    taps = tuple(Tap(str(index), distance, weight) for index, weight in enumerate(weights))
    return PairSpec((MapSpec(taps, combine, sigma),))


def by_hand(method: str, features: list[tuple[Array, Array]], count: int) -> tuple[Array, float]:
    """Return map and score as the method's paper has them."""
    first, second = features[:count], features[count:]
    if method == "mixed-teacher":
        return reference.mixed_teacher(first, second, SIZE, SIGMA)
    if method == "dual":
        located, score = reference.summed(first, SIZE, SIGMA)
        return located, score * reference.dual_det(second, SIZE, 0.0)[1]
    single = {
        "stpm": reference.stpm,
        "reduced-student": reference.summed,
        "dual-det": reference.dual_det,
        "dskd": reference.dskd,
        "reverse-distillation": reference.reverse_distillation,
    }[method]
    return single(features, SIZE, SIGMA)


@pytest.mark.parametrize(
    ("method", "launches"),
    [
        ("stpm", 2),
        ("reduced-student", 2),
        ("dual-det", 2),
        ("dskd", 2),
        ("reverse-distillation", 2),
        ("mixed-teacher", 3),
        ("dual", 3),
    ],
)
def test_map_and_score_are_the_papers(method, launches) -> None:
    choices = {"scored_by": "both"} if method == "dual" else {}
    pair = make_pair(method, BACKBONE, sigma=SIGMA, **choices)
    features = real_features(pair, 1)
    tail = fuse(pair.spec, features)
    anomaly_map, score = tail(features)
    count = len(pair.spec.maps[0].taps)
    expected, expected_score = by_hand(
        method, [(t[0].double().numpy(), s[0].double().numpy()) for t, s in features], count
    )
    assert np.abs(anomaly_map[0].numpy() - expected).max() <= MAP_TOLERANCE * expected.max()
    assert float(score) == pytest.approx(expected_score, rel=MAP_TOLERANCE)
    assert np.ptp(expected) > 0
    assert len(tail.launches(features)[0]) == launches


@pytest.mark.parametrize("join", [Join.SCORE_FIRST, Join.SCORE_SECOND])
def test_the_score_comes_from_the_map_that_the_spec_says(join) -> None:
    first, second = (one_map(Combine.SUM, sigma, 1.0).maps[0] for sigma in (2.0, 0.0))
    spec = PairSpec((first, second), join, ScoreRule.SUM)
    features = random_features([(8, 5, 5), (8, 3, 4)], 1)
    for ours, theirs in zip(fuse(spec, features)(features), in_graph(spec, features), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=MAP_TOLERANCE, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("layout", ["nchw", "channels_last", "halves of one tensor", "cut"])
def test_features_lie_in_memory_as_they_like(dtype, layout) -> None:
    spec, size = one_map(Combine.SUM, 0.0, 1.0, 0.5), (10, 33)
    features = [(t.to(dtype), s.to(dtype)) for t, s in random_features([(24, 5, 7), (40, 3, 1)], 2)]
    expected = in_graph(spec, features, size)
    if layout == "channels_last":
        features = [tuple(f.contiguous(memory_format=torch.channels_last) for f in both) for both in features]
    elif layout == "halves of one tensor":  # the grouped network's
        features = [torch.cat(both, dim=1).chunk(2, dim=1) for both in features]
    elif layout == "cut":  # rows do not follow one another
        padded = [tuple(torch.nn.functional.pad(f, (1, 2, 1, 0)) for f in both) for both in features]
        features = [tuple(f[:, :, 1:, 1:-2] for f in both) for both in padded]
    for ours, theirs in zip(fuse(spec, features, size)(features), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=MAP_TOLERANCE, atol=0)


@pytest.mark.parametrize("distance", list(Distance))
def test_more_channels_than_registers_hold_are_summed_in_parts(distance) -> None:
    spec = one_map(Combine.SUM, 0.0, 1.0, distance=distance)
    features = random_features([(1100, 2, 3)], 1)
    ours, theirs = fuse(spec, features, (4, 6))(features)[0], in_graph(spec, features, (4, 6))[0]
    torch.testing.assert_close(ours, theirs, rtol=MAP_TOLERANCE, atol=COSINE_TOLERANCE)


@pytest.mark.parametrize(("distance", "tolerance"), [(1e-2, 2e-6), (1e-4, 1e-5)])
def test_a_good_students_distance_keeps_its_digits(distance, tolerance) -> None:
    # From sums of squares and products alone, 1e-4 would be off by three in a thousand.
    features = random_features([(64, 4, 4)], 1, distance)
    found = fuse(one_map(Combine.SUM, 0.0, 1.0), features, (4, 4))(features)[0]
    t, s = (f.double() / f.double().norm(dim=1, keepdim=True) for f in features[0])
    expected = 0.5 * ((t - s) ** 2).sum(1)
    assert float(expected.mean()) == pytest.approx(distance, rel=0.1)
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=0)


def test_a_position_without_features_is_finite() -> None:
    # As unit vectors have it, not as 1 - cos of nothing: the graph's two distances differ there
    # too.
    features = [(torch.zeros(1, 16, 2, 2).half(), torch.ones(1, 16, 2, 2).half())]
    for distance, expected in ((Distance.HALF_SQUARED_L2, 0.5), (Distance.COSINE, 1.0)):
        anomaly_map, score = fuse(one_map(Combine.SUM, 0.0, 1.0, distance=distance), features, (4, 4))(features)
        torch.testing.assert_close(anomaly_map, torch.full((1, 4, 4), expected))
        torch.testing.assert_close(score, torch.tensor([[expected]]))


@pytest.mark.parametrize("combine", list(Combine))
def test_a_blur_may_be_wider_than_a_block_and_than_the_map(combine) -> None:
    spec, size = one_map(combine, 6.0, 1.0, 2.0), (70, 9)
    features = random_features([(8, 9, 2), (8, 4, 1)], 1)
    for ours, theirs in zip(fuse(spec, features, size)(features), in_graph(spec, features, size), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=MAP_TOLERANCE, atol=0)


def test_each_image_of_a_batch_is_judged_alone() -> None:
    pair = make_pair("mixed-teacher", BACKBONE, sigma=SIGMA)
    features, size = real_features(pair, 3), (33, 20)
    maps, scores = fuse(pair.spec, features, size)(features)
    assert len(torch.unique(scores)) == 3
    last = [(t[2:], s[2:]) for t, s in features]
    alone, score = fuse(pair.spec, last, size)(last)
    # To the last bit: nothing is added up in an order that depends on who finishes first.
    torch.testing.assert_close(maps[2:], alone, rtol=0, atol=0)
    torch.testing.assert_close(scores[2:], score, rtol=0, atol=0)
    for ours, theirs in zip((maps, scores), in_graph(pair.spec, features, size), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=MAP_TOLERANCE, atol=0)


def test_a_fault_in_one_feature_reaches_the_score() -> None:
    spec = one_map(Combine.PRODUCT, 0.0, 1.0)
    features = random_features([(8, 8, 8)], 2)
    features[0][1][1, 3, 2, 2] = float("nan")
    scores = fuse(spec, features)(features)[1].flatten()
    assert torch.isfinite(scores[0])
    assert torch.isnan(scores[1])
