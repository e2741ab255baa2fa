"""Paths that callers of kdx pass."""

from __future__ import annotations

import os
from pathlib import Path

from kdx.errors import OptionError


def folder_name(path: Path) -> str:
    """Return the name of a folder, which may be given as ``.``; a link has its own name."""
    return Path(os.path.abspath(path)).name  # noqa: PTH100  # resolve follows links


def require_path(value: object, parameter: str, what: str) -> Path:
    """Return a path that was passed to a function of ``import kdx``.

    Args:
        value: What was passed.
        parameter: The name of the parameter, for the message.
        what: What the path names, for the message: ``a bundle's folder``.

    Raises:
        OptionError: It is no path, or an empty text.
    """
    path = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if isinstance(path, str) and path:
        return Path(path)
    raise OptionError(
        f"`{parameter}` is not a path",
        expected=f"the path of {what}, a str or a pathlib.Path",
        received=repr(value) if isinstance(value, (str, bytes)) else type(value).__name__,
        fix="pass os.fsdecode(path)" if isinstance(value, bytes) else f'pass {what} by name, such as "NAME"',
    )
