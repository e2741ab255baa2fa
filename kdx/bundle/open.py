"""Opening a bundle: every file that its index names is checked before anything is used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath

from kdx.bundle.bundle import Bundle
from kdx.bundle.index import decode_index, read_index
from kdx.bundle.keys import PublicKeys
from kdx.bundle.manifest import GOLDEN_MAPS, GOLDEN_SCORES, INDEX, TRAINING_IMAGES, Manifest
from kdx.bundle.plain_graph import require_plain_graph
from kdx.bundle.signature import verify_signature
from kdx.bundle.stored_level import read_level
from kdx.bundle.variants import OWN_THRESHOLD, graph_file
from kdx.errors import BundleError, KdxError
from kdx.storage.hashed_file import read_hashed

_COPY_AGAIN = "copy the bundle again, or export it again"


def open_bundle(path: str | Path, *, require_signature: PublicKeys | None = None) -> Bundle:
    """Open a bundle and check its schema, its paths, the hash of every file, and that graphs hold nothing foreign.

    Args:
        path: The bundle's folder.
        require_signature: Public keys, by one of which the bundle must be signed: a PEM file's path, its content as
            bytes, or several of them. None requires no signature.

    Raises:
        BundleError: A check failed; the message names the file.
        OptionError: A key cannot be read, or the package cryptography is missing.
    """
    path = Path(path)
    index = read_index(path)
    if require_signature is None:
        return bundle_of(path, index)
    seal = verify_signature(path, index, require_signature)
    return replace(bundle_of(path, index), seal=seal)


def bundle_of(path: Path, index: bytes) -> Bundle:
    """Return a bundle from the content of its ``bundle.json``, checked as by :func:`open_bundle`."""
    manifest = decode_index(path, index)
    graphs = [graph_file(precision) for precision in manifest.precisions]
    for required in (*graphs, GOLDEN_MAPS, GOLDEN_SCORES, TRAINING_IMAGES, *(f"golden/{n}" for n in manifest.golden)):
        if required not in manifest.files:
            raise BundleError(f"{INDEX} of '{path}' does not list '{required}'", fix="export the bundle again")
    for name, sha256 in manifest.files.items():
        _check_file(path, name, sha256)
    _check_tiling(path, manifest)
    _check_frame_limits(path, manifest)
    _check_thresholds(path, manifest)
    bundle = Bundle(path, manifest)
    read_level(bundle)  # raises if the level map is not valid
    return bundle


def _check_file(root: Path, name: str, sha256: str) -> None:
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or any(character in name for character in "\\:\0"):
        raise BundleError(f"'{root}' names a file outside the bundle: '{name}'", fix="do not use this bundle")
    file = root / name
    if (target := _outside(file, root)) is None:
        content = read_hashed(root, name, sha256, error=BundleError, fix=_COPY_AGAIN)
    else:
        # Caches of model hubs keep the content elsewhere and a link to it here: only the content counts. The hash of a
        # foreign file is not disclosed.
        content = read_hashed(
            root,
            name,
            sha256,
            error=BundleError,
            changed="is a link to a file outside the bundle, with other content than was exported",
            received=f"a link to '{target}'",
            fix="copy the bundle again with the files that its links lead to (cp -rL), or export it again",
        )
    if file.suffix == ".onnx":  # the graph is checked in the very bytes that were hashed
        require_plain_graph(content, name, root)


def _outside(file: Path, root: Path) -> Path | None:
    """Return where a file leads if that is outside the bundle, else None."""
    try:
        target = file.resolve()
        return None if target.is_relative_to(root.resolve()) else target
    except (OSError, RuntimeError):  # a name that the system does not accept, or a link to itself
        return None


def _check_tiling(path: Path, manifest: Manifest) -> None:
    if manifest.tiling is None:
        return
    try:
        manifest.tiling.require_fits((manifest.input.height, manifest.input.width), manifest.map_size)
        manifest.camera  # noqa: B018 - raises for a frame that is too large
    except KdxError as error:
        raise BundleError(
            f"{INDEX} of '{path}' is not valid: {error.message}", fix="export the bundle again"
        ) from error


def _check_frame_limits(path: Path, manifest: Manifest) -> None:
    channels = len(manifest.frame_limits.channels)
    if channels not in {0, manifest.input.channels}:
        raise BundleError(
            f"{INDEX} of '{path}' is not valid: its frame limits have {channels} channels",
            expected=f"{manifest.input.channels}, or none",
            fix="calibrate again",
        )


def _check_thresholds(path: Path, manifest: Manifest) -> None:
    for precision in manifest.precisions:
        is_own = precision in OWN_THRESHOLD
        stored = manifest.own_thresholds(precision).values() if is_own else [manifest.threshold]
        calibrated_on = manifest.files[graph_file(precision if is_own else "fp32")]
        if any(threshold is not None and threshold.graph_sha256 != calibrated_on for threshold in stored):
            raise BundleError(
                f"the threshold of '{path}' was calibrated on another graph", fix="export and calibrate again"
            )
