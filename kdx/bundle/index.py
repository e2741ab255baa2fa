"""``bundle.json`` on disk: how it is read, decoded and replaced."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from kdx.bundle.manifest import INDEX, NEWEST_SCHEMA, SIGNATURE, Manifest
from kdx.errors import BundleError
from kdx.storage.files import remove_leftovers, write_parts
from kdx.storage.hashed_file import require_file
from kdx.storage.json_records import RUN_INDEX, decode_record, encode_record, run_to_export
from kdx.storage.locks import locked


def read_index(path: Path) -> bytes:
    """Return the content of a bundle's ``bundle.json``.

    Raises:
        BundleError: The folder or the file does not exist, or is no folder or no file.
    """
    if not path.is_dir():
        remove_leftovers(path)  # restores the folder if an export was killed while it replaced the bundle
    if path.is_file():
        raise BundleError(
            f"'{path}' is a file, and a bundle is a folder", fix="name the folder that kdx export wrote, NAME.kdx"
        )
    if not path.is_dir():
        raise BundleError(f"there is no bundle '{path}'", fix="make one with kdx export")
    if os.path.lexists(path / INDEX):
        require_file(path, INDEX, error=BundleError, fix="copy the bundle again, or export it again")
        return (path / INDEX).read_bytes()
    if (path / RUN_INDEX).is_file():
        raise BundleError(
            f"'{path}' is not a bundle but a run folder",
            fix=f"make a bundle of it: kdx export {run_to_export(path)} -o NAME.kdx",
        )
    raise BundleError(
        f"'{path}' is not a bundle: {INDEX} is missing",
        fix="name a folder that kdx export wrote; if it is one, export it again",
    )


def decode_index(path: Path, content: bytes) -> Manifest:
    """Decode the content of a bundle's ``bundle.json``.

    Args:
        path: The bundle's folder, for messages.
        content: The content of the file.

    Raises:
        BundleError: The content is not valid, or was written by a newer kdx.
    """
    fix = "export the bundle again"
    return decode_record(content, path / INDEX, Manifest, error=BundleError, fix=fix, supported=NEWEST_SCHEMA)


def current_index(path: Path, files: Mapping[str, str], *, done: str, fix: str) -> Manifest:
    """Return the index on disk now. Its thresholds may be newer than those that were opened.

    Args:
        path: The bundle's folder.
        files: The hashes of the bundle that was opened, by relative POSIX path.
        done: What was done with the bundle meanwhile, for the message.
        fix: What the user can do.

    Raises:
        BundleError: The folder holds another bundle now.
    """
    current = decode_index(path, read_index(path))
    if current.files != files:
        raise BundleError(f"'{path}' was replaced while it was {done}", fix=fix)
    return current


def update_index(
    path: Path, files: Mapping[str, str], change: Callable[[Manifest], Manifest], *, done: str, fix: str
) -> Manifest:
    """Replace the index on disk in one step, and remove the signature of the old one.

    Args:
        path: The bundle's folder.
        files: As for :func:`current_index`.
        change: Returns the new index for the one on disk.
        done: As for :func:`current_index`.
        fix: As for :func:`current_index`.

    Returns:
        The new index.

    Raises:
        BundleError: The folder holds another bundle now.
    """
    remove_leftovers(path / INDEX)
    # Whoever replaces the bundle meanwhile takes this lock too: an index never meets another graph.
    with locked(path.resolve().parent):
        manifest = change(current_index(path, files, done=done, fix=fix))
        # Removed before the new index appears, for a signature that does not fit its index is taken
        # for an alteration; but not before the disk has taken the index.
        unsign = partial((path / SIGNATURE).unlink, missing_ok=True)
        write_parts(path / INDEX, [encode_record(manifest)], before=unsign)
    return manifest
