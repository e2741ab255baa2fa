"""The distance to the nearest feature of good images, against NumPy over all pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kd_train.training import good_features
from kd_train.training.good_features import GoodFeatures
from tests.reference import upsample

SHAPES = ((6, 8, 8), (10, 4, 4))


def images(count, seed):
    rng = np.random.default_rng(seed)
    return [[rng.normal(size=shape).astype(np.float32) for shape in SHAPES] for _ in range(count)]


def tensors(image):
    return [torch.from_numpy(feature)[None] for feature in image]


def vectors(feature):
    """Return the unit vector at each position, ``(h * w, C)``, in double precision."""
    flat = feature.reshape(len(feature), -1).T.astype(np.float64)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def by_hand(good, image):
    total = np.zeros(SHAPES[0][1:])
    for tap, feature in enumerate(image):
        bank = np.concatenate([vectors(each[tap]) for each in good])
        pairs = vectors(feature)[:, None] - bank[None]
        nearest = 0.5 * np.square(pairs).sum(2).min(1)
        total += upsample(nearest.reshape(feature.shape[1:]), *total.shape)
    return total.max()


@pytest.mark.parametrize("at_once", [1024, 7])
def test_scores_are_those_of_all_pairs(monkeypatch, at_once):
    monkeypatch.setattr(good_features, "_AT_ONCE", at_once)
    good, others = images(5, seed=0), images(3, seed=1)
    features = GoodFeatures(len(SHAPES), len(good), seed=0)
    for image in good:
        features.add(tensors(image))
    for image in others:
        assert features.score(tensors(image)) == pytest.approx(by_hand(good, image), rel=1e-5)
    assert features.score(tensors(good[2])) == pytest.approx(0, abs=1e-6)


def test_of_many_positions_the_seed_keeps_some_of_every_image(monkeypatch):
    monkeypatch.setattr(good_features, "POSITIONS", 50)
    good, other = images(5, seed=0), tensors(images(1, seed=1)[0])

    def scores(seed, chosen):
        features = GoodFeatures(len(SHAPES), len(good), seed)
        for image in good:
            features.add(tensors(image))
        score = features.score(other)
        chosen += [len(features._joined(tap)) for tap in range(len(SHAPES))]
        return score

    counts: list[int] = []
    some = scores(3, counts)
    assert some == scores(3, counts) != scores(4, counts)
    assert set(counts) == {50}
    # Fewer good features are further away.
    whole = GoodFeatures(len(SHAPES), 1, seed=3)
    monkeypatch.setattr(good_features, "POSITIONS", 64 * 5)
    for image in good:
        whole.add(tensors(image))
    assert whole.score(other) < some
