"""The methods of the papers, one file each.

Every module of this package that defines ``METHOD`` is a method. Other packages add methods by an
entry point of the group ``kdx.methods`` that names a :class:`~kd_train.models.pair.Method`.
"""

from __future__ import annotations

import difflib
import functools
import pkgutil
import sys
from importlib import import_module
from importlib.metadata import EntryPoints, entry_points

from kd_train.models.pair import Method
from kdx.errors import OptionError

_GROUP = "kdx.methods"


def methods() -> dict[str, Method]:
    """Return every method by name.

    Raises:
        OptionError: An installed package's entry point is not a method, or its name exists already.
    """
    by_name: dict[str, Method] = {}
    for module in pkgutil.iter_modules(__path__):
        method = getattr(import_module(f"{__name__}.{module.name}"), "METHOD", None)
        if isinstance(method, Method):
            by_name[method.name] = method
    for point in _entry_points(tuple(sys.path)):
        method = point.load()
        if not isinstance(method, Method):
            raise OptionError(
                f"the entry point '{point.name}' of '{_GROUP}' is not a method",
                expected="a kd_train.models.pair.Method",
                received=type(method).__name__,
            )
        if method.name in by_name:
            raise OptionError(f"'{point.value}' adds a method '{method.name}', which exists already", fix="rename it")
        by_name[method.name] = method
    return by_name


@functools.cache
def _entry_points(path: tuple[str, ...]) -> EntryPoints:
    """Return the entry points of the packages on a search path, which is that of Python.

    The metadata of every installed package is read for them, and a training asks several times.
    """
    return entry_points(group=_GROUP)


def find_method(name: str) -> Method:
    """Return a method by name.

    Raises:
        OptionError: There is no such method; the message lists similar names.
    """
    known = methods()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.3)
        raise OptionError(f"there is no method '{name}'", expected=" or ".join(near or sorted(known)))
    return known[name]
