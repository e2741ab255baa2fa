"""Reads a method's own options, which no command declares, from words of a command line."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from kdx.errors import OptionError
from kdx.text import near_names


def read_method_options(words: Sequence[str], method: str, known: Collection[str]) -> dict[str, str]:
    """Return the values of a method's own options, by name.

    Args:
        words: What the command left over of its command line.
        method: The method's name.
        known: The command's own options, with their dashes, from which near names are suggested.

    Raises:
        OptionError: A word is no option of the method, or an option has no value.
    """
    from kd_train.methods import find_method, methods
    from kdx.workflows.many.catalog import REMOVED

    own = {option.name for option in find_method(method).options}
    found: dict[str, str] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, has_value, value = word.partition("=")
        if not name.startswith("--"):
            raise OptionError(f"'{word}' was not expected", fix="see kdx train --help")
        if name[2:] in REMOVED:
            raise OptionError(f"{name} is no longer an option", fix=REMOVED[name[2:]])
        if name[2:] not in own:
            others = [each.name for each in methods().values() if name[2:] in {option.name for option in each.options}]
            near = [f"--method {other}" for other in others] or near_names(
                name, [*known, *(f"--{other}" for other in own)], 2
            )
            raise OptionError(
                f"{method} has no option {name}",
                expected=" or ".join(near or sorted(f"--{other}" for other in own)) or "none of its own",
                fix="see kdx train --help, and kdx methods for what each method adds",
            )
        if not has_value:
            if not rest:
                raise OptionError(f"{name} needs a value")
            value = rest.pop(0)
        found[name[2:]] = value
    return found
