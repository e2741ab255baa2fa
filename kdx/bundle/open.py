"""Opening a bundle: every file that its index names is checked before anything is used."""

from __future__ import annotations

from pathlib import Path

from kdx.bundle.bundle import Bundle
from kdx.bundle.index import decode_index, read_index
from kdx.bundle.keys import PublicKeys
from kdx.bundle.listed_files import require_listed_file
from kdx.bundle.manifest import INDEX, TRAINING_IMAGES
from kdx.bundle.manifest_checks import require_consistent
from kdx.bundle.seal import Seal
from kdx.bundle.signature import read_seal
from kdx.bundle.stored_level import read_level
from kdx.bundle.variants import graph_file
from kdx.errors import BundleError
from kdx.storage.files import sha256_bytes
from kdx.storage.path_arguments import require_path


def open_bundle(path: str | Path, *, require_signature: PublicKeys | None = None) -> Bundle:
    """Open a bundle and check its schema, its paths, the hash of every file, and its graphs.

    Args:
        path: The bundle's folder.
        require_signature: Public keys, by one of which the bundle must be signed: a PEM file's
            path, its content as bytes, or several of them. None requires no signature; one that the
            bundle carries must nevertheless be of this ``bundle.json``.

    Raises:
        BundleError: A check failed; the message names the file.
        OptionError: The path is not one; a key cannot be read, or the package cryptography is
            missing.
    """
    path = require_path(path, "path", "a bundle's folder")
    index = read_index(path)
    seal = read_seal(path, index, require_signature)  # raises if the bundle carries one of another index
    return bundle_of(path, index, None if require_signature is None else seal)


def bundle_of(path: Path, index: bytes, seal: Seal | None = None) -> Bundle:
    """Return a bundle from the content of its ``bundle.json``, checked as by :func:`open_bundle`.

    Args:
        path: The bundle's folder.
        index: The content of its ``bundle.json``.
        seal: The signature that was verified, or None.

    Raises:
        BundleError: A check failed; the message names the file.
    """
    manifest = decode_index(path, index)
    graphs = [graph_file(precision) for precision in manifest.precisions]
    references = [file for precision in manifest.precisions for file in manifest.reference_files(precision)]
    for required in (*graphs, *references, TRAINING_IMAGES, *(f"golden/{name}" for name in manifest.golden)):
        if required not in manifest.files:
            raise BundleError(f"{INDEX} of '{path}' does not list '{required}'", fix="export the bundle again")
    for name, sha256 in manifest.files.items():
        require_listed_file(path, name, sha256)
    require_consistent(manifest, path)
    bundle = Bundle(path, manifest, seal, sha256_bytes(index))
    read_level(bundle)  # raises if the level map is not valid
    return bundle
