"""The methods of the papers, one file each; every module here that defines ``METHOD`` is one."""

from __future__ import annotations

import difflib
import pkgutil
from importlib import import_module

from kd_train.pair import Method
from kdx.errors import OptionError


def methods() -> dict[str, Method]:
    """Return every method by name."""
    found: dict[str, Method] = {}
    for module in pkgutil.iter_modules(__path__):
        method = getattr(import_module(f"{__name__}.{module.name}"), "METHOD", None)
        if isinstance(method, Method):
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
