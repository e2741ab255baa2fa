"""What a settings file asks for."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from benchmarks.accuracy.settings import Settings
from benchmarks.commands import ROOT
from kd_train.training.from_options import recipe_of
from kd_train.training.options import TrainOptions


def test_a_seed_of_every_pair_comes_before_the_next_seed(settings: Path) -> None:
    jobs = Settings.read(settings).jobs([], [], [], {})
    assert [job.key for job in jobs] == [
        ("cells", pair, seed) for seed in (0, 1) for pair in ("leader", "small")
    ]  # fmt: skip
    assert jobs[1].asked["teacher_epochs"] == 1
    assert jobs[1].asked["image_size"] == 64
    assert "teacher_epochs" not in jobs[0].asked


def test_values_of_the_command_replace_those_of_the_file(settings: Path) -> None:
    read = Settings.read(settings)
    leader, small = read.jobs([], [], [5], {"epochs": 7, "damage": 0.25})
    assert (leader.seed, leader.asked["epochs"], leader.asked.get("damage")) == (5, 7, None)
    assert (small.asked["epochs"], small.asked["damage"]) == (7, 0.25)
    assert small.folder != read.jobs([], ["small"], [5], {})[0].folder


def test_unknown_names_are_refused(settings: Path) -> None:
    read = Settings.read(settings)
    with pytest.raises(SystemExit, match="no such pair: large; there are leader, small"):
        read.jobs([], ["large"], [], {})
    with pytest.raises(SystemExit, match="no such data set: tiles; there are cells"):
        read.jobs(["tiles"], [], [], {})
    settings.write_text(settings.read_text().replace("title =", "name ="))
    with pytest.raises(msgspec.ValidationError, match="unknown field `name`"):
        Settings.read(settings)


@pytest.mark.parametrize("name", ["accuracy", "compact"])
def test_the_committed_settings_can_be_trained(name: str) -> None:
    read = Settings.read(ROOT / "benchmarks" / name / "settings.toml")
    jobs = read.jobs([], [], [], {})
    assert len({job.folder for job in jobs}) == len(jobs) == len(read.seeds) * len(read.pairs) * len(read.data_sets)
    for job in jobs:
        recipe = recipe_of(TrainOptions(**job.asked))
        assert recipe.epochs == job.asked.get("epochs", recipe.epochs)
        assert recipe.validation_fraction == job.asked["validation_fraction"]
        assert bool(recipe.teacher_from) == job.pair.startswith("compact")
