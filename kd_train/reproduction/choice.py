"""The figures of a paper to reproduce: tables on a data set, and the variants they need."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kd_train.reproduction.papers import EVERY, DataSet, MethodFacts, OwnSystem, Paper, Table, data_sets, papers
from kdx.errors import OptionError


@dataclass(frozen=True)
class Column:
    """A system's column in a paper's table.

    Attributes:
        paper: The paper.
        table: The table.
        system: The column's name.
    """

    paper: Paper
    table: Table
    system: str

    @property
    def place(self) -> str:
        """The paper and table, as a footnote names them."""
        return f"{self.paper.key}, table {self.table.number}"


@dataclass(frozen=True)
class MethodVariant:
    """A method with the options of one column.

    Attributes:
        name: The column's name in an ablation; empty for the method as proposed.
        settings: The training options that it sets, by their names in ``TrainOptions``.
        columns: The columns with its figures: those of its own paper, then those that quote it.
        categories: The categories that its own columns are about; empty for all.
    """

    name: str
    settings: Mapping[str, Any]
    columns: tuple[Column, ...]
    categories: tuple[str, ...]

    @property
    def slug(self) -> str:
        """The name of its folder, made of its settings, so that tables share runs."""
        options = self.settings.get("method_options", {})
        parts = {**{key: value for key, value in self.settings.items() if key != "method_options"}, **options}
        words = [f"{key}-{value}" for key, value in sorted(parts.items())]
        return re.sub(r"[^\w.+-]+", "-", "-".join(words)).strip("-") or "as-proposed"


@dataclass(frozen=True)
class Choice:
    """The figures to compare, and the variants to train for them.

    Attributes:
        method: kdx's name of the method.
        paper: The method's paper.
        facts: The paper's description of the training.
        data: The key of the data set whose figures are shown.
        variants: The variants to train.
        cannot: The columns that kdx cannot train, with the reason for each.
    """

    method: str
    paper: Paper
    facts: MethodFacts
    data: str
    variants: tuple[MethodVariant, ...]
    cannot: Mapping[str, str]

    @property
    def data_set(self) -> DataSet:
        """The data set whose figures are shown."""
        # A data set that no paper uses, such as ELPV, has no categories to take a mean over.
        return data_sets().get(self.data, DataSet(title=self.data, categories=()))

    @property
    def tables(self) -> tuple[Column, ...]:
        """One column of each table that figures are taken from."""
        by_place = {column.place: column for variant in self.variants for column in variant.columns}
        return tuple(by_place.values())

    def variants_for(self, category: str) -> tuple[MethodVariant, ...]:
        """Return the variants to train on a category: those about it, otherwise the first."""
        about = [v for v in self.variants if not v.categories or category in v.categories]
        return tuple(about or self.variants[:1])


def choose(method: str, dataset: str | None, number: int | None = None, names: Sequence[str] = ()) -> Choice:
    """Choose the figures to train for.

    Args:
        method: kdx's name of a method.
        dataset: The key of the user's data set; None if it is not recognised.
        number: A table of the method's paper; None for all tables of the method as proposed on that
            data set.
        names: The columns of the table; empty for all.

    Raises:
        OptionError: No paper prints figures of the method, or the table or column does not exist or
            cannot be trained.
    """
    paper = _paper_of(method)
    if number is not None:
        return _from_table(method, paper, _find_table(method, paper, number), names)
    if names:
        raise OptionError("`variants` needs a table", fix="choose it with `table`")
    data = dataset or next(t.data for t in paper.table if t.is_measured and t.system_of(method) in t.own)
    return Choice(method, paper, paper.method[method], data, _as_proposed(method, paper, data), {})


def _paper_of(method: str) -> Paper:
    for paper in papers():
        if method in paper.method:
            return paper
    quoted = [
        f"{p.key}, table {t.number} ({t.caption})" for p in papers() for t in p.table if method in t.also.values()
    ]
    raise OptionError(
        f"the papers print no detection figures of '{method}'" + (f", only {'; '.join(quoted)}" if quoted else ""),
        expected=", ".join(name for paper in papers() for name in paper.method),
        fix="measure it with kdx train, kdx evaluate and kdx bench",
    )


def _find_table(method: str, paper: Paper, number: int) -> Table:
    fitting = {t.number: t for t in paper.table if t.is_measured and _own(t, method)}
    if number in fitting:
        return fitting[number]
    other = next((table for table in paper.table if table.number == number), None)
    if other is None:
        problem = f"{paper.short} has no table {number}"
    elif not other.is_measured:
        problem = f"table {number} of {paper.short} is about cost ({other.caption}): kdx bench measures that"
    else:
        problem = f"table {number} of {paper.short} has no column of '{method}'"
    raise OptionError(problem, expected="; ".join(f"{n}: {table.caption}" for n, table in fitting.items()))


def _own(table: Table, method: str) -> dict[str, OwnSystem]:
    return {name: table.own[name] for name in table.systems if name in table.own and method in table.own[name].methods}


def _from_table(method: str, paper: Paper, table: Table, names: Sequence[str]) -> Choice:
    own = _own(table, method)
    unknown = [name for name in names if name not in own]
    if unknown:
        raise OptionError(
            f"table {table.number} of {paper.short} has no column '{unknown[0]}' to train", expected=" | ".join(own)
        )
    chosen = {name: system for name, system in own.items() if not names or name in names}
    cannot = {name: system.cannot for name, system in chosen.items() if system.cannot}
    variants = tuple(
        MethodVariant(
            "" if system.main else name,
            system.settings(),
            (Column(paper, table, name),),
            _covered(table),
        )
        for name, system in chosen.items()
        if not system.cannot
    )
    if not variants:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in cannot.items())
        raise OptionError(f"table {table.number} of {paper.short} cannot be trained: {reasons}")
    return Choice(method, paper, paper.method[method], table.data, variants, cannot)


def _as_proposed(method: str, paper: Paper, data: str) -> tuple[MethodVariant, ...]:
    """Return the method as its paper proposes it for a data set, usually one variant."""
    columns = [
        Column(paper, table, name)
        for table in paper.table
        if table.data == data
        for name, system in _own(table, method).items()
        if system.main
    ]
    settings = [column.table.own[column.system].settings() for column in columns]
    distinct = [s for index, s in enumerate(settings) if s not in settings[:index]] or [{}]
    quoted = _quoted(method, paper, data)
    found = []
    for wanted in distinct:
        own = tuple(column for column, s in zip(columns, settings, strict=True) if s == wanted)
        covered = [_covered(column.table) for column in own]
        categories = () if () in covered else tuple(dict.fromkeys(c for part in covered for c in part))
        name = "" if len(distinct) == 1 else MethodVariant("", wanted, (), ()).slug
        found.append(MethodVariant(name, wanted, own if wanted else own + quoted, categories))
    return tuple(found)


def _quoted(method: str, paper: Paper, data: str) -> tuple[Column, ...]:
    """Return other papers' columns of the method, those with the most rows first."""
    columns = [
        Column(other, table, name)
        for other in papers()
        if other is not paper
        for table in other.table
        if table.data == data
        for name, also in table.also.items()
        if also == method
    ]
    return tuple(sorted(columns, key=lambda column: -len(column.table.rows())))


def _covered(table: Table) -> tuple[str, ...]:
    """Return the categories that a table is about; empty if its text names none."""
    rows = table.rows()
    if any(table.row_group(row) is not None for row in rows):
        return data_sets()[table.data].members(table.group)
    return () if rows == (EVERY,) else rows
