"""What is trained for figures of accuracy, from a TOML file: data sets, pairs and seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from typing_extensions import Self

# The INT8 students of a training, beside the precisions of its FP32 students.
STUDENTS = "students"
# A training's data set, pair and seed.
Key = tuple[str, str, int]
Options = dict[str, Any]


class DataSet(msgspec.Struct, forbid_unknown_fields=True):
    """A data set: its title, options of ``kdx train``, those of each recipe, goals as shares."""

    title: str
    options: Options
    recipes: dict[str, Options] = {}
    goals: dict[str, float] = {}


class PairSettings(msgspec.Struct, forbid_unknown_fields=True):
    """A pair: options of ``kdx train``, and the recipe whose options the data sets add.

    Where ``teacher_from`` is the name of a pair, its compact teacher is that of this pair's run.
    """

    options: Options
    recipe: str = ""


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """A settings file, such as ``accuracy.toml`` of this folder.

    Precisions are those of ``kdx export``, and ``students`` for INT8 students. Another file's pairs
    come first where that file is included: they are trained and timed beside the others.
    """

    false_reject_rate: float
    precisions: list[str]
    seeds: list[int]
    pairs: dict[str, PairSettings]
    data_sets: dict[str, DataSet]
    include: str = ""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file, and the one that it includes."""
        settings = msgspec.toml.decode(path.read_bytes(), type=cls)
        if settings.include:
            other = cls.read(path.with_name(settings.include))
            same = settings.false_reject_rate == other.false_reject_rate and not settings.pairs.keys() & other.pairs
            settings.pairs = {**other.pairs, **settings.pairs}
            for name, data in settings.data_sets.items():
                included = other.data_sets.get(name, DataSet("", {}))
                same = same and data.options == included.options and not data.recipes.keys() & included.recipes
                data.recipes = {**included.recipes, **data.recipes}
            if not same:
                raise ValueError(f"{path.name} and {settings.include}: other rates or options, or names used twice")
        return settings

    def trainings(self, data_sets: list[str], pairs: list[str], seeds: list[int]) -> dict[Key, Options]:
        """Return the options of ``kdx train`` for each training, one seed after the other.

        Empty lists stand for all.
        """
        for what, names, known in (("data set", data_sets, self.data_sets), ("pair", pairs, self.pairs)):
            if unknown := set(names) - set(known):
                raise SystemExit(f"no such {what}: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
        return {
            (data, pair, seed): self.options_of(data, pair)
            for seed in seeds or self.seeds
            for data in data_sets or self.data_sets
            for pair in pairs or self.pairs
        }

    def options_of(self, data: str, pair: str) -> Options:
        """Return the options of ``kdx train`` for a pair on a data set."""
        one, of = self.pairs[pair], self.data_sets[data]
        return {**of.options, **of.recipes.get(one.recipe, {}), **one.options}
