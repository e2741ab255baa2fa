"""A bundle with another file in it, set in one step."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec

from kdx.bundle import Bundle
from kdx.files import new_folder, sha256_file, write_atomic
from kdx.manifest import INDEX, SCHEMA, SIGNATURE, Threshold
from kdx.records import encode_record


def with_file(
    bundle: Bundle,
    name: str,
    content: bytes | None,
    calibrated: tuple[Threshold, Mapping[str, Mapping[str, Threshold]]] | None = None,
) -> Bundle:
    """Give a bundle on disk another file of a name, or none, in one step, and return it. A signature is removed.

    Args:
        bundle: The bundle.
        name: Of the file.
        content: Of the file; None removes it.
        calibrated: FP32's new threshold and those of BF16 and INT8; None leaves them as they are.

    Raises:
        BundleError: The bundle on disk is another one by now.
        OutputError: The folder around it cannot be written.
    """
    with new_folder(bundle.path, force=True) as folder:
        manifest = bundle.require_present("changed", fix="call again")
        manifest = manifest.with_thresholds(*calibrated) if calibrated else manifest
        left_out = shutil.ignore_patterns(INDEX, SIGNATURE, name)
        shutil.copytree(bundle.path, folder, copy_function=_link, ignore=left_out, dirs_exist_ok=True)
        files = {each: digest for each, digest in manifest.files.items() if each != name}
        if content is not None:
            (folder / name).write_bytes(content)
            files[name] = sha256_file(folder / name)
        changed = msgspec.structs.replace(manifest, schema=SCHEMA, files=files)
        write_atomic(folder / INDEX, encode_record(changed))
    return Bundle(bundle.path, changed)


def _link(source: str, target: str) -> None:
    """Give a file a second name; files of a bundle are replaced, never changed. A copy where that is not possible."""
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)
