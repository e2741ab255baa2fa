"""How users of the command line give the parameters that the library's messages name.

The library names parameters, in backticks: "pass `force=True`". A command writes its option
instead, "pass --force", in whatever it prints and in the reports that it writes. A parameter that
the command does not have keeps its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from kdx.text import spelling

_QUOTES = str.maketrans("", "", "'\"")


@contextmanager
def flags_of(command: Any) -> Iterator[None]:
    """Give parameters as the options of a Click command."""
    token = spelling.set(partial(_flag, flag_table(command)))
    try:
        yield
    finally:
        spelling.reset(token)


def add_flags(names: Iterable[str]) -> None:
    """Add options that the command that runs takes beside those it declares: a method's own."""
    declared, own = spelling.get(), {name: f"--{name}" for name in names}
    assert declared is not None
    spelling.set(lambda name, value: declared(name, value) or _flag(own, name, value))


def flag_table(command: Any) -> dict[str, str]:
    """Return the flag of each parameter of a Click command: ``{"good_folders": "--good-folder"}``.

    Python's name of an option that may be repeated is its plural.
    """
    table: dict[str, str] = {}
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            table[parameter.name] = parameter.name.upper()
            continue
        flag = parameter.opts[0]
        name = flag.lstrip("-").replace("-", "_")
        table[parameter.name] = table[name] = flag
        table[f"{name[:-1]}ies" if name.endswith("y") else f"{name}s"] = flag
    return table


def _flag(table: Mapping[str, str], name: str, value: str | None) -> str | None:
    flag = table.get(name)
    if flag is None or value is None or value == "True":
        return flag
    if value.startswith("("):  # a tuple of Python is a list with commas on the command line
        value = value.strip("()").replace(", ", ",").rstrip(",").translate(_QUOTES)
    elif value[0] in "'\"" and value.endswith(value[0]):
        value = value[1:-1]
    return f"{flag} {value}"
