"""The comparison of a compact teacher with its source: AUROCs, their difference, and a teacher that
sees less."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch.nn import functional

from kd_train.data.image_records import BadImages, scan_images
from kd_train.data.image_set import ImageSet
from kd_train.training import source_comparison
from kd_train.training.source_comparison import compare_with_source, difference_interval, one_thread
from kdx.bundle.teacher_comparison import LEAST_PARTS
from kdx.imaging.images import InputSpec
from kdx.progress import SILENT
from kdx.verification import resampling

SIZE = 32


def drawn(seed, good=30, defects=40, shift=1.0):
    """Return rounded scores, so that some are equal."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1, good).round(1), rng.normal(shift, 1, defects).round(1)


def labels(good, defects):
    return np.repeat([0, 1], [len(good), len(defects)])


def test_the_interval_is_that_of_drawing_parts_with_all_their_defects(monkeypatch):
    """By hand: scikit-learn's AUROCs, weighted by how often each part was drawn."""
    monkeypatch.setattr(resampling, "RESAMPLES", 500)
    (good, defects), (other_good, other_defects) = drawn(0), drawn(1, shift=0.4)
    part_of_good = np.arange(30) // 2  # two images of each part
    part_of_defects = part_of_good[np.arange(40) % 30]
    ends = difference_interval((good, defects), (other_good, other_defects), part_of_good, part_of_defects)
    found = []
    for drawn_parts in np.concatenate([counts for (counts,) in resampling.draws(15)]):
        weights = np.concatenate([drawn_parts[part_of_good], drawn_parts[part_of_defects]])
        one, two = (
            roc_auc_score(labels(good, defects), np.concatenate(scores), sample_weight=weights)
            for scores in ((good, defects), (other_good, other_defects))
        )
        found.append(two - one)
    assert len(found) == 500
    assert ends == pytest.approx(tuple(np.quantile(found, (0.025, 0.975))), abs=1e-6)
    assert ends[0] < np.mean(found) < ends[1]


def test_equal_detectors_differ_by_nothing():
    scores = drawn(0)
    assert difference_interval(scores, scores, np.arange(30), np.arange(40) % 30) == (0.0, 0.0)


class Networks(torch.nn.Module):
    """Two groups of one tap: a source that sees every pixel, and teachers that see it or nothing.

    The second group's teacher sees the mean of the image alone.
    """

    def forward(self, x):
        sharp = functional.avg_pool2d(x, 2)
        sharp = torch.cat([sharp, torch.ones_like(sharp[:, :1])], 1)
        blind = sharp.mean((2, 3), keepdim=True).expand_as(sharp)
        return [(sharp, sharp.clone()), (sharp, blind)]


GROUPS = [("sharp", ["a"]), ("another", ["b"])]


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """80 images of a smooth grey with noise, 20 to learn from."""
    folder, rng = tmp_path_factory.mktemp("grey"), np.random.default_rng(0)
    for index in range(80):
        pixels = np.clip(rng.normal(110, 12, (SIZE, SIZE, 1)) + np.zeros(3), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02d}.png")
    paths, bad = sorted(folder.iterdir()), BadImages(0)

    def read(chosen, memory_mib=16):
        records = scan_images(chosen, bad, SILENT)
        return ImageSet(records, SPEC, bad, memory_mib=memory_mib, workers=0)

    return SimpleNamespace(train=read(paths[:20]), held_out=read(paths[20:]), read=read, paths=paths)


SPEC = InputSpec(height=SIZE, width=SIZE, channels=3)
CONFIG = SimpleNamespace(
    input=SPEC, seed=0, mean=(0.5,) * 3, std=(0.25,) * 3, recipe=SimpleNamespace(size=(SIZE, SIZE), resize_to=None)
)


def test_a_blind_teacher_is_clearly_worse_and_one_that_sees_the_same_is_not(sets):
    same, blind = compare_with_source(Networks(), GROUPS, CONFIG, sets.train, sets.held_out, {})
    assert (same.source, same.taps, blind.source, blind.taps) == ("sharp", ("a",), "another", ("b",))
    assert (same.images, same.good, same.defects) == (60, 60, 180)
    assert same.auroc == same.auroc_source == blind.auroc_source
    assert (same.interval, same.outcome) == ((0.0, 0.0), "not worse")
    assert blind.auroc < blind.auroc_source - 0.05
    assert blind.interval[0] < blind.auroc - blind.auroc_source < blind.interval[1] < 0
    assert blind.outcome == "worse"


def test_threads_and_memory_decide_nothing(sets):
    before = torch.get_num_threads()
    first = compare_with_source(Networks(), GROUPS, CONFIG, sets.train, sets.held_out, {})
    try:
        torch.set_num_threads(before + 2)
        from_disk = [sets.read(paths, memory_mib=0) for paths in (sets.paths[:20], sets.paths[20:])]
        assert compare_with_source(Networks(), GROUPS, CONFIG, *from_disk, {}) == first
        assert torch.get_num_threads() == before + 2
        with one_thread():
            assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("count", "defects", "auroc"), [(19, 57, True), (2, 6, True), (1, 0, False)])
def test_few_images_decide_nothing(sets, count, defects, auroc):
    held_out = sets.read(sets.paths[20 : 20 + count])
    for found in compare_with_source(Networks(), GROUPS, CONFIG, sets.train, held_out, {}):
        assert (found.images, found.good, found.defects) == (count, count, defects)
        assert (found.auroc is not None) is auroc
        assert (found.interval, found.outcome) == (None, "undecided")


def test_tiles_of_one_file_are_not_independent(sets, tmp_path):
    pixels = np.concatenate([np.asarray(Image.open(path)) for path in sets.paths[:40]], axis=1)
    Image.fromarray(pixels).save(tmp_path / "frame.png")
    bad = BadImages(0)
    records = scan_images([tmp_path / "frame.png"], bad, SILENT)
    tiles = ImageSet(records, SPEC, bad, memory_mib=16, workers=0, tiles=True)
    for found in compare_with_source(Networks(), GROUPS, CONFIG, sets.train, tiles, {}):
        assert (found.images, found.good, found.outcome) == (1, 40, "undecided")


@pytest.mark.parametrize("each", [2, 3, 6])
def test_images_of_one_part_are_drawn_together(sets, each, monkeypatch):
    """60 images in parts of so many; the last two have no entry and are parts of their own."""
    held_out, drawn_parts = sets.paths[20:], []

    def interval_of(source, teacher, part_of_good, part_of_defects):
        drawn_parts.append((part_of_good, part_of_defects))
        return difference_interval(source, teacher, part_of_good, part_of_defects)

    monkeypatch.setattr(source_comparison, "difference_interval", interval_of)
    parts = {path: f"part {index // each}" for index, path in enumerate(held_out[:-2])}
    count = -(-58 // each) + 2
    for found in compare_with_source(Networks(), GROUPS, CONFIG, sets.train, sets.held_out, parts):
        assert (found.images, found.good, found.defects, found.parts) == (60, 60, 180, count)
        assert (found.interval is None) is (count < LEAST_PARTS)
        assert found.outcome == ("worse" if found.source == "another" and found.interval else "undecided")
    expected = [*(np.arange(58) // each), count - 2, count - 1]
    assert len(drawn_parts) == (2 if count >= LEAST_PARTS else 0)
    for part_of_good, part_of_defects in drawn_parts:
        assert part_of_good.tolist() == expected
        assert part_of_defects.tolist() == 3 * expected
