"""Damage for training: the same from the same seed, visible, within range, and of its own kinds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kd_train.data import damage, synthetic
from kd_train.data.damage import Damage, StudentDamage
from tests.images import solar_cells

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE = 96


@pytest.fixture(scope="module")
def cells() -> torch.Tensor:
    """Eight photographs, grey, with values in [0, 1]."""
    return torch.from_numpy(solar_cells(8, (SIZE, SIZE))).permute(0, 3, 1, 2).float() / 255


def normalised(images: torch.Tensor) -> torch.Tensor:
    return (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def pixels(x: torch.Tensor) -> torch.Tensor:
    return x * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)


def test_what_is_drawn_depends_on_seed_epoch_and_indices(cells):
    x, indices = normalised(cells), list(range(8))
    drawn = StudentDamage(0.5, 3, MEAN, STD, colour=True)(x, indices, 1)
    assert torch.equal(StudentDamage(0.5, 3, MEAN, STD, colour=True)(x, indices, 1), drawn)
    for seed, epoch, others in ((4, 1, indices), (3, 2, indices), (3, 1, indices[::-1])):
        assert not torch.equal(StudentDamage(0.5, seed, MEAN, STD, colour=True)(x, others, epoch), drawn)


def test_the_share_of_the_images_is_damaged_and_the_batch_is_not_changed(cells):
    x = normalised(cells)
    before = x.clone()
    for share in (0.0, 0.3, 1.0):
        draw = StudentDamage(share, 0, MEAN, STD, colour=False)
        changed = sum(int((draw(x, range(8), epoch) != x).flatten(1).any(1).sum()) for epoch in range(60))
        # 480 draws: three standard deviations are 6 %.
        assert changed / 480 == pytest.approx(share, abs=0.06 if share == 0.3 else 0)
    assert torch.equal(x, before)
    assert StudentDamage(0.0, 0, MEAN, STD, colour=False)(x, range(8), 1) is x


def test_damage_stays_within_the_range_of_pixels_and_leaves_the_rest(cells):
    draw = StudentDamage(1.0, 0, MEAN, STD, colour=True)
    untouched = []
    for epoch in range(20):
        x = normalised(cells)
        drawn = draw(x, range(8), epoch)
        assert float(pixels(drawn).min()) >= -1e-5
        assert float(pixels(drawn).max()) <= 1 + 1e-5
        untouched.append((drawn == x).all(1).float().mean((1, 2)))
    shares = torch.cat(untouched)
    assert float(shares.median()) > 0.8  # a few per cent of an image are damaged,
    assert float(shares.min()) > 0.3
    assert float((shares == 1).float().mean()) < 0.1  # and of nearly every image something


def test_damage_runs_from_hardly_visible_to_plain(cells):
    painter = Damage(colour=False)
    changes = [
        float((painter.draw(cells[0], cells[1], np.random.default_rng(seed)) - cells[0]).abs().max())
        for seed in range(200)
    ]
    assert np.quantile(changes, 0.1) < 0.2
    assert np.quantile(changes, 0.9) > 0.5


def test_a_mono_camera_sees_no_colours(cells):
    mono = cells[:2, :1].expand(2, 3, SIZE, SIZE)
    grey, colours = (
        [Damage(colour=colour).draw(mono[0], mono[1], np.random.default_rng(seed)) for seed in range(40)]
        for colour in (False, True)
    )
    assert all(torch.equal(image[0], image[1]) and torch.equal(image[0], image[2]) for image in grey)
    assert any(not torch.equal(image[0], image[1]) for image in colours)


@pytest.mark.parametrize("size", [(32, 32), (33, 200), (1100, 1100)])
def test_images_of_any_size(size):
    image = torch.full((3, *size), 0.5)
    painter = Damage(colour=True)
    drawn = [painter.draw(image, image, np.random.default_rng(seed)) for seed in range(12)]
    assert all(each.shape == image.shape and bool(torch.isfinite(each).all()) for each in drawn)
    assert sum(not torch.equal(each, image) for each in drawn) >= 8  # an image's own content changes nothing here


def test_a_single_image_fills_its_regions_from_itself(cells):
    drawn = StudentDamage(1.0, 0, MEAN, STD, colour=False)(normalised(cells[:1]), [0], 1)
    assert drawn.shape == (1, 3, SIZE, SIZE)


def test_training_draws_from_other_seeds_than_gates(cells):
    """Of the same seed, no generator of training is one of a gate's, whatever the index."""
    gates = {np.random.default_rng([seed, index]).random() for seed in range(3) for index in range(50)}
    training = {
        damage.training_generator(seed, epoch, index).random()
        for seed in range(3)
        for epoch in range(50)
        for index in range(50)
    }
    assert len(training) == 3 * 50 * 50
    assert not training & gates


def test_training_draws_none_of_the_kinds_by_which_detectors_are_judged(cells, monkeypatch):
    def refuse(*_):
        raise AssertionError("training drew a kind that gates draw")

    for name, function in list(vars(synthetic).items()):
        if callable(function) and function in synthetic.KINDS.values():
            monkeypatch.setattr(synthetic, name, refuse)
    monkeypatch.setattr(synthetic, "KINDS", dict.fromkeys(synthetic.KINDS, refuse))
    draw = StudentDamage(1.0, 0, MEAN, STD, colour=True)
    for epoch in range(10):
        draw(normalised(cells), range(8), epoch)
    assert not {name for name in vars(damage) if name in vars(synthetic)} & {"KINDS", "paste_patch", "draw_scar"}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_one_plane_of_a_grey_image_is_drawn_to_the_same_bits(cells, layout):
    grey = cells[:, :1].expand(-1, 3, -1, -1).contiguous(memory_format=layout)
    one, three = (StudentDamage(1.0, 0, (0.5,) * 3, (0.25,) * 3, colour=False) for _ in range(2))
    assert one._is_one_plane
    three._is_one_plane = False
    drawn = one(grey, range(len(grey)), 1)
    assert torch.equal(drawn, three(grey, range(len(grey)), 1))
    assert torch.equal(drawn, one(grey.contiguous(), range(len(grey)), 1))
    assert drawn.is_contiguous(memory_format=layout)


def test_a_choice_is_that_of_the_generator():
    ours, numpys = (np.random.default_rng(5) for _ in range(2))
    values = (2, 4, 8, 16, 32)
    assert [damage._one_of(values, ours) for _ in range(200)] == [numpys.choice(values) for _ in range(200)]
