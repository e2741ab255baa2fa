"""Checking a file that the index lists: it is inside the bundle, unaltered, and nothing foreign."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath

from kdx.bundle.plain_graph import require_plain_graph
from kdx.errors import BundleError
from kdx.storage.hashed_file import HashedFile

_COPY_AGAIN = "copy the bundle again, or export it again"


def require_listed_file(root: Path, name: str, sha256: str) -> None:
    """Check a file of a bundle.

    Args:
        root: The bundle's folder.
        name: The file's relative POSIX path.
        sha256: The hash that the index lists.

    Raises:
        BundleError: The file is outside the bundle, missing, altered, or a graph that refers to
            other files.
    """
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or any(character in name for character in "\\:\0"):
        raise BundleError(f"'{root}' names a file outside the bundle: '{name}'", fix="do not use this bundle")
    listed = HashedFile(root, name, sha256, BundleError, _COPY_AGAIN)
    if (target := _outside(root / name, root)) is not None:
        # Caches of model hubs keep the content elsewhere and a link to it here: only the content
        # counts. The hash of a foreign file is not disclosed.
        listed = replace(
            listed,
            changed="is a link to a file outside the bundle, with other content than was exported",
            received=f"a link to '{target}'",
            fix="copy the bundle again with the files that its links lead to (cp -rL), or export it again",
        )
    if pure.suffix == ".onnx":  # the graph is checked in the very bytes that were hashed
        require_plain_graph(listed.read(), name, root)
    else:
        listed.check()


def _outside(file: Path, root: Path) -> Path | None:
    """Return where a file leads if that is outside the bundle, else None."""
    try:
        target = file.resolve()
        return None if target.is_relative_to(root.resolve()) else target
    except (OSError, RuntimeError, ValueError):  # a name that the system does not accept, or a link to itself
        return None
