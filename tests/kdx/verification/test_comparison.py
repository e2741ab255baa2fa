"""The certificate must fail what is broken: each fault here is made on purpose."""

from __future__ import annotations

import numpy as np
import pytest

from kdx.bundle.bundle import Golden
from kdx.errors import BackendError
from kdx.runtime.backend import Outputs
from kdx.verification.comparison import Comparison, compare_batch
from kdx.verification.golden import certificate_batches
from kdx.verification.tolerances import FP32


class Fake:
    """A backend that answers with the reference, distorted."""

    name = "fake"

    def __init__(self, golden: Golden, distort=lambda maps, scores: (maps, scores)) -> None:
        self.answers = {golden.images[i].tobytes(): i for i in range(len(golden.images))}
        self.golden = golden
        self.distort = distort
        self.batches: list[int] = []

    def run(self, images):
        self.batches.append(len(images))
        indices = [self.answers[image.tobytes()] for image in images]
        return Outputs(*self.distort(self.golden.maps[indices].copy(), self.golden.scores[indices].copy()))


def compare(backend: Fake, golden: Golden, max_batch: int, thresholds, precision: str = "fp32") -> list[Comparison]:
    batches = certificate_batches(len(golden.images), max_batch)
    return [compare_batch(backend, golden, batch, thresholds, precision) for batch in batches]


@pytest.fixture
def golden() -> Golden:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    maps = generator.random((5, 8, 8), dtype=np.float32)
    return Golden([f"{i}.png" for i in range(5)], images, maps, maps.max(axis=(1, 2))[:, None])


def test_an_exact_backend_passes_at_two_batch_sizes(golden) -> None:
    backend = Fake(golden)
    results = compare(backend, golden, max_batch=8, thresholds=(0.5, 0.5))
    assert [(r.batch, r.passed, r.flips) for r in results] == [(1, True, 0), (5, True, 0)]
    assert set(backend.batches) == {1, 5}


def test_a_static_graph_is_compared_at_batch_one_only(golden) -> None:
    assert [r.batch for r in compare(Fake(golden), golden, max_batch=1, thresholds=None)] == [1]


def test_scores_beyond_the_tolerance_fail(golden) -> None:
    for factor, passes in ((1 + 0.5 * FP32.score, True), (1 + 2 * FP32.score, False)):
        backend = Fake(golden, lambda maps, scores, f=factor: (maps, scores * np.float32(f)))
        assert all(r.passed is passes for r in compare(backend, golden, 8, None))


def test_a_single_wrong_pixel_fails(golden) -> None:
    def distort(maps, scores):
        maps[:, 3, 3] += 2 * FP32.map
        return maps, scores

    assert not any(r.passed for r in compare(Fake(golden, distort), golden, 8, None))


def test_a_flipped_verdict_fails_even_within_the_tolerances(golden) -> None:
    score = float(golden.scores[0, 0])
    threshold = score * (1 - 3e-5)
    backend = Fake(golden, lambda maps, scores: (maps, scores * np.float32(1 - 5e-5)))
    for result in compare(backend, golden, 8, (threshold, threshold)):
        assert result.score_max < FP32.score
        assert result.flips == 1
        assert not result.passed


def test_a_golden_image_whose_score_is_the_threshold_is_a_tie(golden) -> None:
    threshold = float(golden.scores[0, 0])
    for factor in (1 - 3e-6, 1 + 3e-6):
        backend = Fake(golden, lambda maps, scores, f=factor: (maps, scores * np.float32(f)))
        results = compare(backend, golden, 8, (threshold, threshold))
        assert all(r.passed and r.flips == 0 and type(r.flips) is int for r in results)


def test_a_precision_is_decided_at_its_own_threshold(golden) -> None:
    # Its scores are a tenth larger throughout, and so is its threshold: no decision changes. At
    # FP32's, some would.
    backend = Fake(golden, lambda maps, scores: (maps, scores * np.float32(1.1)))
    ordered = np.sort(golden.scores[:, 0])
    threshold = float(ordered[:2].mean())
    assert {r.flips for r in compare(backend, golden, 8, (threshold, 1.1 * threshold), "int8")} == {0}
    spread = Golden(golden.names, golden.images, golden.maps, np.array([[0.1], [0.8], [1.0], [1.3], [2.0]], np.float32))
    backend = Fake(spread, lambda maps, scores: (maps, scores * np.float32(1.3)))
    assert {r.flips for r in compare(backend, spread, 8, (1.0, 1.3), "int8")} == {0}
    assert {r.flips for r in compare(backend, spread, 8, (1.0, 1.0), "int8")} == {1}


def test_answers_of_another_size_are_refused(golden) -> None:
    for distort in (
        lambda maps, scores: (maps[:, :4], scores),
        lambda maps, scores: (maps.reshape(-1, 4, 16), scores),
        lambda maps, scores: (maps[:, :1], scores),  # which NumPy would compare with every row
        lambda maps, scores: (maps, scores.repeat(2, axis=1)),
    ):
        with pytest.raises(BackendError, match="does not fit its bundle"):
            compare(Fake(golden, distort), golden, 8, None)


def test_a_value_that_is_not_finite_fails(golden) -> None:
    def distort(maps, scores):
        maps[-1, 0, 0] = np.nan
        return maps, scores

    for result in compare(Fake(golden, distort), golden, 8, None):
        assert not result.passed
        assert result.not_finite >= 1


def test_an_error_at_the_second_batch_size_only_is_seen(golden) -> None:
    def distort(maps, scores):
        return (maps, scores) if len(maps) == 1 else (maps[::-1], scores)

    first, second = compare(Fake(golden, distort), golden, 8, None)
    assert first.passed
    assert not second.passed
