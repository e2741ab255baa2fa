"""The kernels on a GPU, against the tail in the graph. What an interpreter cannot show: order,
atomics, capture."""

from __future__ import annotations

import pytest
import torch

from kd_export.graph import Combine, Distance, Join, MapSpec, PairSpec, ScoreRule, Tap
from kd_export.graph.full_precision import without_tf32
from kd_export.graph.tail import Tail

pytestmark = pytest.mark.gpu
if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)
pytest.importorskip("triton", reason="triton is not installed: pip install triton")

SHAPES = [(64, 64, 64), (128, 32, 32), (256, 16, 16)]
# Relative to the largest value; the reference runs in FP32 as well, without TF32.
TOLERANCE = 1e-5


def spec_of(join: Join, score: ScoreRule, sigma: float, combine: Combine) -> PairSpec:
    def declare(names: str, rule: Combine, blur: float) -> MapSpec:
        return MapSpec(tuple(Tap(name, Distance.HALF_SQUARED_L2) for name in names), rule, blur)

    if join is Join.SINGLE:
        return PairSpec((declare("abc", combine, sigma),), join, score)
    return PairSpec((declare("ab", combine, sigma), declare("c", Combine.SUM, 0.0)), join, score)


def random_features(batch: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(batch)
    teachers = [torch.randn(batch, *shape, generator=generator).relu() for shape in SHAPES]
    students = [t + 0.2 * torch.randn(t.shape, generator=generator) for t in teachers]
    return [(t.cuda().half(), 3 * s.cuda().half()) for t, s in zip(teachers, students, strict=True)]


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("sigma", [0.0, 4.0, 9.0])
@pytest.mark.parametrize("score", list(ScoreRule))
@pytest.mark.parametrize("join", list(Join))
def test_kernels_compute_what_the_graph_does(join, score, sigma, batch) -> None:
    from kernels.fused_tail import FusedTail

    spec = spec_of(join, score, sigma, Combine.PRODUCT if sigma else Combine.SUM)
    tail, fused = Tail(spec, SHAPES, (255, 250)).cuda(), FusedTail(spec, SHAPES, (255, 250)).cuda()
    features = random_features(batch)
    found = fused(features)
    with without_tf32():
        expected = tail(features)
    for ours, theirs in zip(found, expected, strict=True):
        assert float((ours - theirs).abs().max()) <= TOLERANCE * float(theirs.abs().max())
    # The last program to finish is another one each time; the result must not be.
    for _ in range(20):
        for ours, before in zip(fused(features), found, strict=True):
            assert torch.equal(ours, before)


def test_a_captured_graph_replays_with_new_features() -> None:
    from kernels.fused_tail import FusedTail

    spec = spec_of(Join.CONFIRMED, ScoreRule.SUM, 4.0, Combine.SUM)
    fused = FusedTail(spec, SHAPES, (256, 256)).cuda()
    features, others = random_features(2), [(t.flip(0), s.flip(0)) for t, s in random_features(2)]
    expected = [output.clone() for output in fused(others)]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = fused(features)
    for both, new in zip(features, others, strict=True):
        for feature, value in zip(both, new, strict=True):
            feature.copy_(value)
    graph.replay()
    for ours, theirs in zip(outputs, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
