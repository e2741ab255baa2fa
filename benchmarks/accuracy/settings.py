"""What is trained for figures of accuracy, from a TOML file: data sets, pairs and seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
from typing_extensions import Self

from kdx.storage.files import sha256_bytes

Options = dict[str, Any]


class DataSet(msgspec.Struct, forbid_unknown_fields=True):
    """A data set: its title, options of ``kdx train``, those of each recipe, and the goals."""

    title: str
    options: Options
    recipes: dict[str, Options] = {}
    goals: dict[str, float] = {}


class PairSettings(msgspec.Struct, forbid_unknown_fields=True):
    """A pair: options of ``kdx train``, and the recipe whose options the data sets add."""

    options: Options
    recipe: str = ""


class Job(msgspec.Struct, frozen=True):
    """One training.

    Attributes:
        data: The data set's name.
        pair: The pair's name.
        seed: The seed.
        asked: The options of ``kdx train``.
    """

    data: str
    pair: str
    seed: int
    asked: Options

    @property
    def key(self) -> tuple[str, str, int]:
        """What a row of the result is about."""
        return self.data, self.pair, self.seed

    @property
    def folder(self) -> str:
        """The name of the folder, which differs for other options."""
        decisive = sha256_bytes(json.dumps(self.asked, sort_keys=True).encode())
        return f"{self.data}-{self.pair}-{self.seed}-{decisive[:8]}"


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """A settings file; see ``settings.toml`` of this folder."""

    false_reject_rate: float
    precisions: list[str]
    seeds: list[int]
    pairs: dict[str, PairSettings]
    data_sets: dict[str, DataSet]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file."""
        return msgspec.toml.decode(path.read_bytes(), type=cls)

    def jobs(self, data_sets: list[str], pairs: list[str], seeds: list[int], changed: Options) -> list[Job]:
        """Return the trainings, every data set and pair with one seed before the next seed.

        Args:
            data_sets: The names of the data sets; empty for all, as for pairs and seeds.
            pairs: The names of the pairs.
            seeds: The seeds.
            changed: Values of options; ``epochs`` of every training, others where it has them.
        """
        for what, names, known in (("data set", data_sets, self.data_sets), ("pair", pairs, self.pairs)):
            if unknown := set(names) - set(known):
                raise SystemExit(f"no such {what}: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
        return [
            Job(data, pair, seed, self._asked(data, pair, changed))
            for seed in seeds or self.seeds
            for data in data_sets or self.data_sets
            for pair in pairs or self.pairs
        ]

    def _asked(self, data: str, pair: str, changed: Options) -> Options:
        one, of = self.pairs[pair], self.data_sets[data]
        asked = {**one.options, **of.options, **of.recipes.get(one.recipe, {})}
        return {**asked, **{name: value for name, value in changed.items() if name in {*asked, "epochs"}}}
