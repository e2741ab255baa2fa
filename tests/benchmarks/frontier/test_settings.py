"""What a settings file asks for."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from benchmarks.commands import ROOT
from benchmarks.frontier.settings import Settings
from kd_train.training.from_options import recipe_of
from kd_train.training.options import TrainOptions


def test_a_seed_of_every_pair_comes_before_the_next_seed(settings: Path) -> None:
    asked = Settings.read(settings).trainings([], [], [])
    assert list(asked) == [("cells", pair, seed) for seed in (0, 1) for pair in ("leader", "small")]
    leader, small = asked["cells", "leader", 0], asked["cells", "small", 0]
    assert (small["teacher_epochs"], small["image_size"]) == (1, 64)
    assert "teacher_epochs" not in leader


def test_unknown_names_are_refused(settings: Path) -> None:
    read = Settings.read(settings)
    with pytest.raises(SystemExit, match="no such pair: large; there are leader, small"):
        read.trainings([], ["large"], [])
    with pytest.raises(SystemExit, match="no such data set: tiles; there are cells"):
        read.trainings(["tiles"], [], [])
    settings.write_text(settings.read_text(encoding="utf-8").replace("title =", "name ="), encoding="utf-8")
    with pytest.raises(msgspec.ValidationError, match="unknown field `name`"):
        Settings.read(settings)


def test_an_included_file_adds_its_pairs_on_the_same_images(settings: Path) -> None:
    file = settings.with_name("peers.toml")
    peers = settings.read_text(encoding="utf-8").replace("seeds =", 'include = "settings.toml"\nseeds =')
    peers = re.sub(r"^(leader|small) = .*$|^recipes.*$", "", peers, flags=re.MULTILINE)
    file.write_text(peers.replace("[pairs]", '[pairs]\npeer = { options = { peer = "toy" } }'), encoding="utf-8")
    read = Settings.read(file)
    assert list(read.pairs) == ["leader", "small", "peer"]
    asked, own = read.trainings([], [], [0]), Settings.read(settings).trainings([], [], [0])
    assert {key: asked[key] for key in own} == own
    file.write_text(file.read_text(encoding="utf-8").replace("image_size = 64", "image_size = 32"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"peers\.toml and settings\.toml: other rates or options"):
        Settings.read(file)
    text = file.read_text(encoding="utf-8").replace("image_size = 32", "image_size = 64")
    other_data = text.replace("[data_sets.cells]", "[data_sets.tiles]")
    for changed in (text.replace("peer = {", "small = {"), text.replace("rate = 0.2", "rate = 0.1"), other_data):
        file.write_text(changed, encoding="utf-8")
        with pytest.raises(ValueError, match="names used twice"):
            Settings.read(file)


def test_the_committed_peers_are_trained_beside_the_committed_compact_pairs() -> None:
    compact, both = (Settings.read(ROOT / "benchmarks/frontier" / f"{name}.toml") for name in ("compact", "frontier"))
    kdx, asked = compact.trainings([], [], [0]), both.trainings([], [], [])
    assert {key: asked[key] for key in kdx} == kdx
    added = {key: options for key, options in asked.items() if key not in kdx}
    sizes = {key for key in added if re.fullmatch(r"compact-[sm]-\d+", key[1])}
    assert sizes
    for (data, pair, seed), options in added.items():
        if (data, pair, seed) in sizes:  # a compact pair at another size
            name, size = pair.rsplit("-", 1)
            assert options == {**kdx[data, name, seed], "image_size": int(size)}
        else:
            assert "peer" in options


@pytest.mark.parametrize("name", ["accuracy", "compact"])
def test_the_committed_settings_can_be_trained(name: str) -> None:
    read = Settings.read(ROOT / "benchmarks" / "frontier" / f"{name}.toml")
    trainings = read.trainings([], [], [])
    assert len(trainings) == len(read.seeds) * len(read.pairs) * len(read.data_sets)
    for (data, pair, seed), asked in trainings.items():
        teacher = asked.get("teacher_from")
        if teacher in read.pairs:
            before = list(trainings)[: list(trainings).index((data, pair, seed))]
            assert (data, teacher, seed) in before  # trained by then
            own = {name: value for name, value in asked.items() if name != "teacher_from"}
        recipe = recipe_of(TrainOptions(**(own if teacher in read.pairs else asked)))
        assert recipe.epochs == asked.get("epochs", recipe.epochs)
        assert recipe.validation_fraction == asked["validation_fraction"]
        assert bool(recipe.teacher_from) == ("compact" in pair)
