from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kd_export.graph.distance import distance_module
from kdx.bundle.pair_spec import Distance
from tests import reference

# Sums over up to 64 channels in float32 against float64.
TOLERANCE = 2e-6


@pytest.mark.parametrize(
    ("distance", "expected"),
    [(Distance.HALF_SQUARED_L2, reference.half_squared_l2), (Distance.COSINE, reference.cosine)],
)
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_distance_agrees_with_the_paper_at_any_scale(distance, expected, scale) -> None:
    generator = torch.Generator().manual_seed(0)
    teacher, student = (scale * torch.randn(2, 64, 5, 7, generator=generator) for _ in range(2))
    ours = distance_module(distance, 64)(teacher, student).numpy()
    for index in range(2):
        theirs = expected(teacher[index].double().numpy(), student[index].double().numpy())
        np.testing.assert_allclose(ours[index], theirs, atol=TOLERANCE)


@pytest.mark.parametrize("distance", list(Distance))
@pytest.mark.parametrize(("angle", "expected"), [(0.0, 0.0), (math.pi / 3, 0.5), (math.pi / 2, 1.0), (math.pi, 2.0)])
def test_distance_of_two_directions_is_one_minus_their_cosine(distance, angle, expected) -> None:
    teacher = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    student = 7 * torch.tensor([math.cos(angle), math.sin(angle)]).view(1, 2, 1, 1)
    assert distance_module(distance, 2)(teacher, student).item() == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("distance", list(Distance))
def test_a_vector_of_zeros_stays_finite(distance) -> None:
    assert torch.isfinite(distance_module(distance, 3)(torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2))).all()


@pytest.mark.parametrize("distance", list(Distance))
def test_half_precision_features_neither_overflow_nor_vanish(distance) -> None:
    # Squared in FP16, 300 is infinite and 1e-5 is zero.
    for value in (300.0, 1e-5):
        teacher = torch.full((1, 8, 1, 1), value, dtype=torch.float16)
        student = teacher.clone()
        student[:, 4:] *= -1
        result = distance_module(distance, 8)(teacher, student)
        assert result.dtype == torch.float32
        assert result.item() == pytest.approx(1.0, abs=1e-2)  # orthogonal; FP16 holds 1e-5 to 1 %
