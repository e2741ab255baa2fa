"""Packages that only some extras bring."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdx.imaging.images import InputSpec


class MissingPackageError(Exception):
    """A command needs an extra that is not installed."""


def require_reader(spec: InputSpec) -> None:
    """Require the package that reads the frames of a detector.

    Raises:
        MissingPackageError: They are read in bands, and ``tifffile`` is not installed.
    """
    if spec.is_in_bands:
        with needs("bands", "reading frames in bands"):
            import tifffile  # noqa: F401


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
