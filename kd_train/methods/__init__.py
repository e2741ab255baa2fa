"""The methods of the papers, one file each; every module here that defines ``METHOD`` is one.

Other packages add theirs by an entry point of the group ``kdx.methods`` that names such an object.
"""

from __future__ import annotations

import difflib
import pkgutil
from importlib import import_module
from importlib.metadata import entry_points

from kd_train.models.pair import Method
from kdx.errors import OptionError

_GROUP = "kdx.methods"


def methods() -> dict[str, Method]:
    """Return every method by name.

    Raises:
        OptionError: An installed package's entry point is no method, or takes a name that exists.
    """
    found: dict[str, Method] = {}
    for module in pkgutil.iter_modules(__path__):
        method = getattr(import_module(f"{__name__}.{module.name}"), "METHOD", None)
        if isinstance(method, Method):
            found[method.name] = method
    for point in entry_points(group=_GROUP):
        method = point.load()
        if not isinstance(method, Method):
            raise OptionError(
                f"the entry point '{point.name}' of '{_GROUP}' is not a method",
                expected="a kd_train.models.pair.Method",
                received=type(method).__name__,
            )
        if method.name in found:
            raise OptionError(f"'{point.value}' adds a method '{method.name}', which exists", fix="rename it")
        found[method.name] = method
    return found


def find_method(name: str) -> Method:
    """Return a method by name.

    Raises:
        OptionError: Unknown; the message lists the near ones.
    """
    known = methods()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.3)
        raise OptionError(f"there is no method '{name}'", expected=" or ".join(near or sorted(known)))
    return known[name]
