"""The tables of the papers as data, and the figures among them that kdx can reproduce.

The files are in ``benchmarks/papers`` of the repository and in ``kd_train/paper_tables`` of an
installed wheel. Figures are as printed; :meth:`Table.figure` returns percentages.
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
SHARE_METRICS: tuple[Share, ...] = ("image_auroc", "pixel_auroc", "pro")
MEAN = "mean"
EVERY = "all"
_NONE = "-"  # the papers' sign for a missing figure

S = TypeVar("S", bound=msgspec.Struct)


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Published(_Strict, frozen=True):
    """The number of images with which a category was published; None if it is not certain.

    Attributes:
        train: The number of good training images.
        test_good: The number of good test images.
        test_defective: The number of defective test images.
        test: The number of all test images.
        good: The number of all good images, if no split was published.
    """

    train: int | None = None
    test_good: int | None = None
    test_defective: int | None = None
    test: int | None = None
    good: int | None = None


class DataSet(_Strict, frozen=True):
    """A data set of the papers.

    Attributes:
        title: The data set's name.
        categories: The names of the categories' folders; only ``all`` for a set without categories.
        groups: The groups of categories over which the papers take means.
        published: The published number of images of each category.
    """

    title: str
    categories: tuple[str, ...]
    groups: dict[str, tuple[str, ...]] = {}
    published: dict[str, Published] = {}

    def members(self, group: str) -> tuple[str, ...]:
        """Return a group's categories."""
        return self.categories if group == EVERY else self.groups[group]


class MethodFacts(_Strict, frozen=True):
    """The paper's description of one method's training.

    Attributes:
        backbone: The names in timm of the teacher's networks, one for each group of taps.
        weights: A text that says what the teacher was trained on.
        printed: The fields of the recipe for which the paper prints other values than kdx's recipe.
        on: The training options that the paper prints for a data set, by the data set's key.
        silent: The fields of the recipe that the paper does not give; ``taps`` for the places of
            the features.
        unknown: Texts on further settings that the paper does not give.
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
        methods: The names of kdx's methods with these figures.
        main: Whether it is the method as proposed, not a variant of an ablation.
        options: The values of the method's own options.
        cannot: The reason why kdx cannot train it, or empty.
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
        settings = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return {**settings, "method_options": self.options} if self.options else settings


class Table(_Strict, frozen=True, kw_only=True):
    """A table of a paper.

    Attributes:
        number: The printed number.
        caption: A description of its content.
        data: The data set's key; empty for tables of cost.
        unit: The unit in which shares are printed.
        group: The group of categories in its rows and its mean.
        systems: The names of its columns.
        own: The columns of the authors' own systems.
        also: The columns of other systems that kdx has too, with kdx's name of the method.
        notes: The notes that a reader must know.
        figures: By metric and row, the figures of all columns. Rows are categories, ``mean``,
            ``mean_GROUP`` or ``all``.
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
        """Whether the table has figures that an evaluation measures."""
        return any(metric in self.figures for metric in SHARE_METRICS)

    def figure(self, metric: Share, row: str, system: str) -> float | None:
        """Return a figure in percent; None if none is printed."""
        values = self.figures.get(metric, {}).get(row)
        value = _NONE if values is None else values[self.systems.index(system)]
        if isinstance(value, str):
            return None
        return round(100 * value, 6) if self.unit == "share" else float(value)

    def rows(self) -> tuple[str, ...]:
        """Return the names of the rows that an evaluation measures, in the order printed."""
        return tuple(dict.fromkeys(row for metric in SHARE_METRICS for row in self.figures.get(metric, {})))

    def row_group(self, row: str) -> str | None:
        """Return the group over which a row is a mean; None for a category."""
        if row == MEAN:
            return self.group
        return row.removeprefix(f"{MEAN}_") if row.startswith(f"{MEAN}_") else None

    def system_of(self, method: str) -> str | None:
        """Return the column of a method as proposed, the authors' own or a quoted one."""
        own = [name for name, system in self.own.items() if method in system.methods and system.main]
        return next(iter(own + [name for name, other in self.also.items() if other == method]), None)


class Paper(_Strict, frozen=True):
    """A paper: what its text says of its methods, and its tables.

    Attributes:
        key: The name of the paper's file.
        title: The paper's title.
        authors: The authors' family names.
        venue: The conference or journal, with the year.
        method: The paper's methods by kdx's names.
        table: The paper's tables.
    """

    key: str
    title: str
    authors: str
    venue: str
    method: dict[str, MethodFacts]
    table: tuple[Table, ...]

    @property
    def short(self) -> str:
        """The authors and the venue."""
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
    # A wheel contains the files in the first folder, a checkout in the second.
    folders = (here / "paper_tables", here.parent / "benchmarks" / "papers")
    path = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if path is None:
        raise DataError(f"the papers' tables are missing: '{name}'", expected=str(folders[0]), fix="install kdx again")
    try:
        fields: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        return fields
    except ValueError as error:  # invalid TOML, or text that is not UTF-8
        raise DataError(f"'{path}' is not valid: {error}", fix="install kdx again") from error


def _convert(name: str, fields: dict[str, Any], kind: type[S]) -> S:
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise DataError(f"'{name}' is not valid: {error}", fix="install kdx again") from error


def _check(table: Table, data: DataSet | None, where: str) -> None:
    """Check that the parts of a table are consistent; raise ``DataError`` otherwise."""
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
