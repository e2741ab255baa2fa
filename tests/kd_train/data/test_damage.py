"""Damage for training: the same from the same seed, visible, within range, and of its own kinds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)

from kd_train.data import damage, synthetic
from kd_train.data.damage import Damage, StudentDamage
from kd_train.data.damage_layers import BANK, Colour, Layer, Moved, Texture, decide_layers, one_of
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
        float((painter.draw(cells[:1], cells[1:2], [np.random.default_rng(seed)]) - cells[:1]).abs().max())
        for seed in range(200)
    ]
    assert np.quantile(changes, 0.1) < 0.2
    assert np.quantile(changes, 0.9) > 0.5


def test_a_mono_camera_sees_no_colours(cells):
    mono = cells[:2, :1].expand(2, 3, SIZE, SIZE)
    grey, colours = (
        [Damage(colour=colour).draw(mono[:1], mono[1:], [np.random.default_rng(seed)])[0] for seed in range(40)]
        for colour in (False, True)
    )
    assert all(torch.equal(image[0], image[1]) and torch.equal(image[0], image[2]) for image in grey)
    assert any(not torch.equal(image[0], image[1]) for image in colours)


@pytest.mark.parametrize("size", [(32, 32), (33, 200), (1100, 1100)])
def test_images_of_any_size(size):
    image = torch.full((3, *size), 0.5)
    painter = Damage(colour=True)
    drawn = [painter.draw(image[None], image[None], [np.random.default_rng(seed)])[0] for seed in range(12)]
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
    assert [one_of(values, ours) for _ in range(200)] == [numpys.choice(values) for _ in range(200)]


@pytest.mark.parametrize("colour", [False, True])
def test_damage_is_what_its_layers_say(cells, colour):
    """Every image and layer by itself, by interpolation, differences and rolls of the image."""
    images = cells if colour else cells[:, :1]
    others = images.roll(3, 0)
    kinds = set()
    for epoch in range(25):
        generators = [[np.random.default_rng([epoch, row]) for row in range(len(images))] for _ in range(2)]
        expected = images.clone()
        for image, other, rng in zip(expected, others, generators[0], strict=True):
            for layer in decide_layers(rng, image.shape, colour=colour):
                kinds.add((type(layer.content).__name__, len(layer.corners), layer.around is None))
                weight = region_of(layer) * layer.strength
                image += weight * (content_of(layer.content, other) - image)
        drawn = Damage(colour=colour).draw(images, others, generators[1])
        # The width of an edge is divided by the field's gradient, which may be small.
        assert float((drawn - expected).abs().max()) < 2e-4
        assert float((drawn - expected).abs().mean()) < 1e-6
    assert len(kinds) == 3 * (4 + 3)  # three contents, four kinds of regions, three of cracks


def field_of(corners: np.ndarray) -> torch.Tensor:
    size = (SIZE, SIZE)
    return F.interpolate(torch.from_numpy(corners)[None, None], size, mode="bicubic", align_corners=True)[0, 0]


def level_of(field: torch.Tensor, share: float) -> torch.Tensor:
    some = field[::4, ::4].flatten()
    return some.kthvalue(max(1, min(len(some), round(len(some) * (1 - share))))).values


def region_of(layer: Layer) -> torch.Tensor:
    field = field_of(layer.corners)
    steepness = torch.hypot(*torch.gradient(field)) + 1e-6
    if layer.around is None:
        return ((field - level_of(field, layer.area)) / (steepness * max(layer.width, 0.1))).clamp(0, 1)
    around = field_of(layer.around)
    return (layer.width + 0.5 - field.abs() / steepness).clamp(0, 1) * (around > level_of(around, layer.area))


def content_of(content: Colour | Texture | Moved, other: torch.Tensor) -> torch.Tensor:
    if isinstance(content, Moved):
        rows, columns = content.mirrored
        mirrored = other.flip(1) if rows else other
        return (mirrored.flip(2) if columns else mirrored).roll(content.shifts, (1, 2))
    bank = np.random.default_rng(0).standard_normal((BANK, BANK), dtype=np.float32)
    piece = np.roll(bank, (-content.noise.top, -content.noise.left), (0, 1))[:SIZE, :SIZE]
    noise = torch.from_numpy(piece * content.noise.deviation)
    if isinstance(content, Colour):
        return (torch.from_numpy(content.values)[:, None, None] + noise).clamp(0, 1)
    field = field_of(content.corners)
    field = (field - field.min()) / (field.max() - field.min())
    return (content.low + (content.high - content.low) * field + noise).clamp(0, 1)


def test_a_batch_is_drawn_as_its_images_one_by_one(cells, monkeypatch):
    x = normalised(cells)
    whole = StudentDamage(0.7, 5, MEAN, STD, colour=True)(x, range(8), 1)
    monkeypatch.setattr(damage, "_PIXELS_TOGETHER", 1)
    alone = StudentDamage(0.7, 5, MEAN, STD, colour=True)(x, range(8), 1)
    assert float((whole - alone).abs().max()) < 1e-3  # of values with a standard deviation of one
    assert float((whole - alone).abs().mean()) < 1e-6
