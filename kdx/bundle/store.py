"""Writing bundles: a new one into its folder, or one on disk with another file in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

import msgspec

from kdx.bundle.bundle import Bundle
from kdx.bundle.index import read_index
from kdx.bundle.manifest import INDEX, SIGNATURE, Manifest
from kdx.errors import BundleError
from kdx.storage.files import new_folder, sha256_bytes, sha256_file, write_atomic
from kdx.storage.json_records import encode_record


def write_manifest(root: Path, manifest: Manifest) -> Bundle:
    """Write ``bundle.json`` into a folder that holds every other file of a bundle.

    Args:
        root: The folder.
        manifest: The content; the hashes of the files are added to it.
    """
    manifest = msgspec.structs.replace(manifest, files=hash_files(root))
    write_atomic(root / INDEX, encode_record(manifest))
    return Bundle(root, manifest)


def hash_files(root: Path) -> dict[str, str]:
    """Return the hash of every file of a bundle but index and signature, by relative POSIX path."""
    files = sorted(file for file in root.rglob("*") if file.is_file() and file.name not in {INDEX, SIGNATURE})
    return {file.relative_to(root).as_posix(): sha256_file(file) for file in files}


def write_files(root: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a bundle folder under construction, by relative POSIX path."""
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def with_file(
    bundle: Bundle,
    name: str,
    content: bytes | None,
    calibrated: Callable[[Manifest], Manifest] | None = None,
) -> Bundle:
    """Replace, add or remove a file of a bundle in one step; this removes its signature.

    Args:
        bundle: The bundle.
        name: The name of the file.
        content: The content of the file; None removes it.
        calibrated: Returns the manifest with a new calibration; None keeps the stored one.

    Raises:
        BundleError: The folder holds another bundle now, or another call changed it meanwhile.
        OutputError: The folder around the bundle cannot be written.
    """
    copied: tuple[bytes, set[tuple[Path, int]]] | None = None

    def require_unchanged() -> None:
        # What changed after it was copied would be lost: thresholds, an engine, a signature.
        if _state(bundle.path) != copied:
            raise BundleError(f"'{bundle.path}' was changed by another call meanwhile", fix="call again")

    with new_folder(bundle.path, force=True, check=require_unchanged) as folder:
        copied = _state(bundle.path)
        manifest = bundle.require_present("changed", fix="call again")
        manifest = calibrated(manifest) if calibrated else manifest
        files = {each: digest for each, digest in manifest.files.items() if each != name}
        for each in files:
            _copy_listed(bundle, each, folder / each)
        _copy_others(bundle.path, folder, {*manifest.files, INDEX, SIGNATURE, name})
        if content is not None:
            (folder / name).write_bytes(content)
            files[name] = sha256_bytes(content)
        changed = msgspec.structs.replace(manifest, schema=manifest.needed_schema, files=files)
        write_atomic(folder / INDEX, encode_record(changed))
    return Bundle(bundle.path, changed)


def _state(root: Path) -> tuple[bytes, set[tuple[Path, int]]]:
    """Return the index of a bundle, and paths and inodes of its files and folders.

    A file or folder that is replaced, as an engine is by a new build, has another inode.
    """

    def inode(path: Path) -> int:
        try:
            return path.lstat().st_ino
        except FileNotFoundError:  # another call's temporary file
            return 0

    return read_index(root), {(path, inode(path)) for path in root.rglob("*")}


def _copy_listed(bundle: Bundle, name: str, target: Path) -> None:
    """Copy a file that the index lists; of a link, its content, because the target may change."""
    source = bundle.path / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.resolve() != bundle.path.resolve() / name:
        target.write_bytes(bundle.read(name))
        return
    _link(source, target)


def _copy_others(source: Path, target: Path, left_out: set[str]) -> None:
    """Copy the files that the index does not list, such as engines. Links are copied as links."""
    folders = {parent.as_posix() for name in left_out for parent in PurePosixPath(name).parents}

    def ignored(folder: str, names: list[str]) -> list[str]:
        paths = {name: Path(folder, name).relative_to(source).as_posix() for name in names}
        # A link to a folder of listed files is left out: their content was copied.
        return [
            name
            for name, path in paths.items()
            if path in left_out or (path in folders and Path(folder, name).is_symlink())
        ]

    shutil.copytree(source, target, symlinks=True, copy_function=_link, ignore=ignored, dirs_exist_ok=True)


def _link(source: str | Path, target: str | Path) -> None:
    """Link a file, which is never changed in place, or copy it if the system has no links."""
    try:
        os.link(source, target, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copy2(source, target, follow_symlinks=False)
