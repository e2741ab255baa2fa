"""Packages that only some extras bring."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class MissingPackageError(Exception):
    """A command needs an extra that is not installed."""


@contextmanager
def needs(extra: str, purpose: str) -> Iterator[None]:
    """Name the extra to install when an import inside the block fails.

    Raises:
        MissingPackageError: An import failed.
    """
    try:
        yield
    except ImportError as error:
        name = (error.name or str(error)).split(".")[0]
        raise MissingPackageError(
            f"{purpose} needs the package '{name}', which is not installed\n  fix: pip install \"kdx[{extra}]\""
        ) from error
