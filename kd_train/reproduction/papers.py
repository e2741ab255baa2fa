"""What the papers print: every table of their texts as data, and which of its figures kdx can try to reach.

The files stand in ``benchmarks/papers`` of the repository and in ``kd_train/paper_tables`` of an installed wheel.
Figures are as printed; :meth:`Table.figure` gives shares in percent.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from kdx.errors import DataError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

PAPERS = ("stpm", "mixed_teacher", "dual_model", "dskd")
Share = Literal["image_auroc", "pixel_auroc", "pro"]
Cost = Literal["fps", "latency_ms", "seconds", "gflop", "million_parameters", "memory_mb"]
SHARES: tuple[Share, ...] = ("image_auroc", "pixel_auroc", "pro")
MEAN = "mean"
EVERY = "all"
_NONE = "-"  # as the papers print that there is no figure

S = TypeVar("S", bound=msgspec.Struct)


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Published(_Strict, frozen=True):
    """How many images a category was published with; None where we are not sure.

    Attributes:
        train: Good images to train on.
        test_good: Good images of the test split.
        test_defective: Defective images of the test split.
        test: Both.
        good: Good images of both splits, where none was published.
    """

    train: int | None = None
    test_good: int | None = None
    test_defective: int | None = None
    test: int | None = None
    good: int | None = None


class DataSet(_Strict, frozen=True):
    """A data set of the papers.

    Attributes:
        title: Its name.
        categories: Its categories by the names of their folders; ``all`` alone for a set without categories.
        groups: Categories over which means are taken, beside all of them.
        published: Image counts by category.
    """

    title: str
    categories: tuple[str, ...]
    groups: dict[str, tuple[str, ...]] = {}
    published: dict[str, Published] = {}

    def members(self, group: str) -> tuple[str, ...]:
        """Return a group's categories."""
        return self.categories if group == EVERY else self.groups[group]


class MethodFacts(_Strict, frozen=True):
    """What a text says, and does not say, of one method's training.

    Attributes:
        backbone: The teacher in timm's names, one for each group of taps.
        weights: What the teacher was trained on, in words.
        printed: Fields of the recipe where the text prints something else than kdx's recipe, and can.
        on: Training options that the text prints for a data set, by its key.
        silent: Fields of the recipe that the text does not print; ``taps`` for where features are taken.
        unknown: What else it leaves open.
    """

    backbone: str
    weights: str
    printed: dict[str, Any] = {}
    on: dict[str, dict[str, Any]] = {}
    silent: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


class OwnSystem(_Strict, frozen=True):
    """A column that kdx can train: the method and the options that make it.

    Attributes:
        methods: kdx's methods whose figures these are.
        main: Whether it is the method as proposed, not a variant of an ablation.
        options: The method's own options.
        cannot: Why kdx cannot train it, or empty.
    """

    methods: tuple[str, ...]
    main: bool = False
    options: dict[str, str] = {}
    taps: str | None = None
    backbone: str | None = None
    combine: str | None = None
    score: str | None = None
    train_fraction: float | None = None
    cannot: str = ""

    def settings(self) -> dict[str, Any]:
        """Return the training options that it sets, by their names in ``TrainOptions``."""
        names = ("taps", "backbone", "combine", "score", "train_fraction")
        found = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return {**found, "method_options": self.options} if self.options else found


class Table(_Strict, frozen=True, kw_only=True):
    """A table of a text.

    Attributes:
        number: As printed.
        caption: What it shows, in our words.
        data: The data set's key; empty for tables of cost.
        unit: How shares are printed.
        group: The categories of its rows and of its mean.
        systems: Its columns.
        own: The columns that are the authors' own.
        also: Compared systems that kdx has as well: its method by the column's name.
        notes: What a reader must know.
        figures: By metric and row, a figure for each column. Rows are categories, ``mean``, ``mean_GROUP`` or ``all``.
    """

    number: int
    caption: str
    data: str = ""
    unit: Literal["percent", "share"] = "percent"
    group: str = EVERY
    systems: tuple[str, ...]
    own: dict[str, OwnSystem] = {}
    also: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    figures: dict[Share | Cost, dict[str, tuple[float | int | Literal["-"], ...]]]

    @property
    def is_measured(self) -> bool:
        """Whether it prints anything that an evaluation measures."""
        return any(metric in self.figures for metric in SHARES)

    def figure(self, metric: Share, row: str, system: str) -> float | None:
        """Return a figure in percent; None where none is printed."""
        values = self.figures.get(metric, {}).get(row)
        value = _NONE if values is None else values[self.systems.index(system)]
        if isinstance(value, str):
            return None
        return round(100 * value, 6) if self.unit == "share" else float(value)

    def rows(self) -> tuple[str, ...]:
        """Return the names of the rows that an evaluation measures, in the order printed."""
        return tuple(dict.fromkeys(row for metric in SHARES for row in self.figures.get(metric, {})))

    def row_group(self, row: str) -> str | None:
        """Return the group over which a row is a mean; None for a category."""
        if row == MEAN:
            return self.group
        return row.removeprefix(f"{MEAN}_") if row.startswith(f"{MEAN}_") else None

    def system_of(self, method: str) -> str | None:
        """Return the column that is a method as proposed, by whoever printed it."""
        own = [name for name, system in self.own.items() if method in system.methods and system.main]
        return next(iter(own + [name for name, other in self.also.items() if other == method]), None)


class Paper(_Strict, frozen=True):
    """A paper: what its text says of its methods, and its tables.

    Attributes:
        key: Its file's name.
        title: Its title.
        authors: Family names.
        venue: Where it appeared.
        method: Its methods.
        table: Its tables.
    """

    key: str
    title: str
    authors: str
    venue: str
    method: dict[str, MethodFacts]
    table: tuple[Table, ...]

    @property
    def short(self) -> str:
        """Name it in few words."""
        return f"{self.authors}, {self.venue}"


@functools.cache
def papers() -> tuple[Paper, ...]:
    """Return every paper.

    Raises:
        DataError: A file is missing or damaged.
    """
    known = data_sets()
    found = []
    for key in PAPERS:
        paper = _convert(f"{key}.toml", {"key": key, **_read(f"{key}.toml")}, Paper)
        for table in paper.table:
            _check(table, known.get(table.data), f"{key}.toml, table {table.number}")
        found.append(paper)
    return tuple(found)


@functools.cache
def data_sets() -> dict[str, DataSet]:
    """Return the papers' data sets by key."""
    name = "data_sets.toml"
    return {key: _convert(name, fields, DataSet) for key, fields in _read(name).items()}


def _read(name: str) -> dict[str, Any]:
    here = Path(__file__).parents[1]
    # An installed wheel carries them; a checkout, installed editably or not, has them where they are kept.
    folders = (here / "paper_tables", here.parent / "benchmarks" / "papers")
    path = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if path is None:
        raise DataError(f"the papers' tables are missing: '{name}'", expected=str(folders[0]), fix="install kdx again")
    try:
        found: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        return found
    except ValueError as error:  # of TOML, and of text that is not UTF-8
        raise DataError(f"'{path}' is not valid: {error}", fix="install kdx again") from error


def _convert(name: str, fields: dict[str, Any], kind: type[S]) -> S:
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise DataError(f"'{name}' is not valid: {error}", fix="install kdx again") from error


def _check(table: Table, data: DataSet | None, where: str) -> None:
    """Refuse a table whose parts do not fit each other."""
    problems = [f"unknown column '{name}'" for name in (*table.own, *table.also) if name not in table.systems]
    groups = () if data is None else (EVERY, *data.groups)
    rows = (EVERY,) if data is None else (*data.categories, MEAN, *(f"{MEAN}_{group}" for group in data.groups))
    if (data is None) == table.is_measured:
        problems.append(f"its data set '{table.data}' is not known")
    if data is not None and table.group not in groups:
        problems.append(f"'{table.data}' has no group '{table.group}'")
    for metric, figures in table.figures.items():
        problems += [f"unknown row '{row}'" for row in figures if row not in rows]
        problems += [
            f"{metric}, {row}: {len(values)} figures for {len(table.systems)} columns"
            for row, values in figures.items()
            if len(values) != len(table.systems)
        ]
    if problems:
        raise DataError(f"{where} is not valid: {'; '.join(problems)}", fix="install kdx again")
