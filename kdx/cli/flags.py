"""Parameters in the library's messages become the options of the command that was called.

The library serves Python callers and the command line, so its messages name parameters, in
backticks: "pass `force=True`". The command line writes its option instead: "pass --force". Nothing
else in a text is changed, and a parameter that the command does not have keeps its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

_MARKED = re.compile(r"`([a-z][a-z0-9_-]*)(?:=([^`]+))?`")
_QUOTES = str.maketrans("", "", "'\"")
_NO_FLAGS: Mapping[str, str] = MappingProxyType({})
_current: ContextVar[Mapping[str, str]] = ContextVar("flags of the command that runs", default=_NO_FLAGS)


@contextmanager
def flags_of(command: Any) -> Iterator[None]:
    """Use the options of a Click command in :func:`with_flags`."""
    token = _current.set(flag_table(command))
    try:
        yield
    finally:
        _current.reset(token)


def add_flags(names: Iterable[str]) -> None:
    """Add options that the command that runs takes beside those it declares: a method's own."""
    _current.set({**_current.get(), **{name: f"--{name}" for name in names}})


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


def with_flags(text: str) -> str:
    """Replace marked parameters, like `resume` or `epochs=3`, by the command's options."""
    return _MARKED.sub(_flag, text)


def _flag(marked: re.Match[str]) -> str:
    name, value = marked.groups()
    flag = _current.get().get(name)
    if flag is None:
        return marked.group()
    if value is None or value == "True":
        return flag
    if value.startswith("("):  # a tuple of Python is a list with commas on the command line
        value = value.strip("()").replace(", ", ",").rstrip(",").translate(_QUOTES)
    elif value[0] in "'\"" and value.endswith(value[0]):
        value = value[1:-1]
    return f"{flag} {value}"
