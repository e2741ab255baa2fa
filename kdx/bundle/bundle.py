"""The deployable: a folder ``NAME.kdx/`` with graphs, golden images, a threshold, provenance, and a hash of each file.

``bundle.json`` is the index. Everything it names is checked on load: present, inside the folder, and unaltered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from kdx.bundle.checked_files import Graph, read_checked
from kdx.bundle.manifest import (
    GOLDEN_MAPS,
    GOLDEN_SCORES,
    INDEX,
    SCHEMA,
    SIGNATURE,
    TRAINING_IMAGES,
    Manifest,
    Threshold,
)
from kdx.bundle.plain_graph import require_plain_graph
from kdx.bundle.variants import OWN_THRESHOLD, graph_file
from kdx.errors import BundleError, ImageError, KdxError
from kdx.imaging.image_identity import Identity, KnownImages
from kdx.imaging.images import read_with_levels
from kdx.storage.files import sha256_bytes, sha256_file, tidy, write_atomic
from kdx.storage.json_records import UNREADABLE, decode_record, encode_record
from kdx.storage.locks import locked
from kdx.storage.npy import decode_array
from kdx.storage.npy import encode_array as encode_array  # belongs to what others write into bundles

if TYPE_CHECKING:
    from kdx.bundle.keys import PublicKeys
    from kdx.bundle.signing import Seal
    from kdx.imaging.frame_faults import FrameLimits


class TrainingImages(msgspec.Struct, frozen=True):
    """The content of ``training_images.json`` since schema 2."""

    images: list[Identity]


@dataclass(frozen=True)
class Golden:
    """Real images with the FP32 reference's answers.

    Attributes:
        names: File names.
        images: uint8 ``(K, H, W, C)``.
        maps: float32 ``(K, h, w)``.
        scores: float32 ``(K, 1)``.
    """

    names: list[str]
    images: NDArray[np.uint8]
    maps: NDArray[np.float32]
    scores: NDArray[np.float32]


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose files were checked when it was opened.

    Attributes:
        path: Its folder.
        manifest: What it says of itself.
        seal: The signature, where one was required; it was verified then.
    """

    path: Path
    manifest: Manifest
    seal: Seal | None = None

    @property
    def graph(self) -> Graph:
        """The FP32 ONNX graph."""
        return self.graph_of("fp32")

    def read(self, name: str) -> bytes:
        """Return a file of the bundle, by relative POSIX path, as it was when the bundle was opened.

        Raises:
            BundleError: It was replaced or altered since.
        """
        return read_checked(self.path / name, self.manifest.files[name])

    def graph_of(self, precision: str) -> Graph:
        """Return the ONNX graph of a precision.

        Raises:
            BundleError: The bundle holds none.
        """
        if precision not in self.manifest.precisions:
            raise BundleError(
                f"'{self.path}' holds no {precision} graph",
                expected=" or ".join(self.manifest.precisions),
                fix=f"export it with --precision fp32,{precision}",
            )
        name = graph_file(precision)
        return Graph(self.path / name, self.manifest.files[name], self.seal)

    def golden(self) -> Golden:
        """Read the golden images and their reference answers.

        Raises:
            BundleError: They cannot be read, or do not belong together.
        """
        spec = msgspec.structs.replace(self.manifest.input, fixed_size=True)  # they were written at its size
        try:
            files = [f"golden/{name}" for name in self.manifest.golden]
            images = [read_with_levels(self.path / file, spec, self.read(file))[0] for file in files]
        except ImageError as error:
            raise BundleError(error.message, expected=error.expected, fix="export the bundle again") from error
        maps, scores = (decode_array(self.read(name), self.path / name) for name in (GOLDEN_MAPS, GOLDEN_SCORES))
        expected = (len(images), *self.manifest.map_size), (len(images), 1)
        if not images or (maps.shape, scores.shape) != expected:
            raise BundleError(
                f"the golden images of '{self.path}' do not match their reference",
                expected=f"maps {expected[0]}, scores {expected[1]}",
                received=f"{len(images)} images, maps {maps.shape}, scores {scores.shape}",
                fix="export the bundle again",
            )
        return Golden(self.manifest.golden, np.stack(images), maps, scores)

    def camera_images(self) -> NDArray[np.uint8]:
        """Return real images ``(K, H, W, C)`` of the camera's size, to time a detector with.

        The golden images; of a bundle for large frames, one frame paved with them.
        """
        golden, tiling = self.golden().images, self.manifest.tiling
        if tiling is None:
            return golden
        down, across = (-(-whole // part) for whole, part in zip(tiling.frame, golden.shape[1:3], strict=True))
        paved = np.take(golden, range(down * across), axis=0, mode="wrap")
        whole = paved.reshape(down, across, *golden.shape[1:]).swapaxes(1, 2)
        whole = whole.reshape(down * golden.shape[1], across * golden.shape[2], golden.shape[3])
        return np.ascontiguousarray(whole[None, : tiling.frame[0], : tiling.frame[1]])

    def training_images(self) -> KnownImages:
        """Return the images that the student was trained on, by which others are known again.

        Schema 1 kept a list of the files' hashes, which recognises no copy in another format.

        Raises:
            BundleError: They are not valid.
        """
        file = self.path / TRAINING_IMAGES
        try:
            kept = msgspec.json.decode(self.read(TRAINING_IMAGES), type=TrainingImages | list[str])
            if isinstance(kept, TrainingImages):
                return KnownImages(kept.images)
            return KnownImages(Identity(file=sha256) for sha256 in kept)
        except UNREADABLE as error:
            raise BundleError(f"'{file}' is not valid: {error}", fix="export the bundle again") from error

    def require_present(self, done: str, *, fix: str) -> Manifest:
        """Return the index on disk, whose thresholds may be newer.

        Args:
            done: What was done with the bundle meanwhile, for the message.
            fix: What the user can do.

        Raises:
            BundleError: Another bundle stands in this one's place by now.
        """
        current = _decode(self.path, read_index(self.path))
        if current.files != self.manifest.files:
            raise BundleError(f"'{self.path}' was replaced while it was {done}", fix=fix)
        return current

    def uncalibrated(self) -> Bundle:
        """Return the bundle as it would be loaded without its thresholds, to be calibrated; on disk it stays."""
        bare = msgspec.structs.replace(self.manifest, threshold=None, thresholds={}, runtime_thresholds={})
        return replace(self, manifest=bare)

    def with_thresholds(
        self,
        threshold: Threshold,
        own: Mapping[str, Mapping[str, Threshold]] | None = None,
        frame_limits: FrameLimits | None = None,
    ) -> Bundle:
        """Store a calibration in the bundle on disk, in one step, and return the updated bundle.

        A signature is removed: it was for what stood there before.

        Args:
            threshold: As for :meth:`kdx.bundle.manifest.Manifest.with_thresholds`.
            own: Likewise.
            frame_limits: Likewise.

        Raises:
            BundleError: The bundle on disk is another one by now.
        """
        tidy(self.path / INDEX)
        # Whoever replaces the bundle meanwhile takes this lock too: an index never meets another graph.
        with locked(self.path.resolve().parent):
            current = self.require_present("calibrated", fix="calibrate again")
            manifest = current.with_thresholds(threshold, own, frame_limits)
            write_atomic(self.path / INDEX, encode_record(manifest))
            (self.path / SIGNATURE).unlink(missing_ok=True)
        return Bundle(self.path, manifest)


def open_bundle(path: str | Path, *, require_signature: PublicKeys | None = None) -> Bundle:
    """Open a bundle and check it: schema, paths, presence and hash of every file, and that graphs hold nothing foreign.

    Args:
        path: The folder.
        require_signature: Public keys, by one of which it must be signed: a PEM file's path, its content as bytes, or
            several of them. None takes bundles as they are.

    Raises:
        BundleError: Whatever is wrong with it, naming the file.
        OptionError: A key cannot be read, or the package cryptography is missing.
    """
    path = Path(path)
    index = read_index(path)
    if require_signature is None:
        return bundle_of(path, index)
    from kdx.bundle.signing import verify_signature

    seal = verify_signature(path, index, require_signature)
    return replace(bundle_of(path, index), seal=seal)


def read_index(path: Path) -> bytes:
    """Return the content of a bundle's ``bundle.json``; raise ``BundleError`` where there is none."""
    if not path.is_dir():
        tidy(path)  # an export that was killed while it replaced the bundle
    if not path.is_dir():
        raise BundleError(f"there is no bundle '{path}'", fix="make one with kdx export")
    index = path / INDEX
    if not index.is_file():
        raise BundleError(f"'{path}' is not a bundle: {INDEX} is missing", fix="export it again with kdx export")
    return index.read_bytes()


def bundle_of(path: Path, index: bytes) -> Bundle:
    """Return the bundle whose ``bundle.json`` was read already, checked as by :func:`open_bundle`."""
    manifest = _decode(path, index)
    graphs = [graph_file(precision) for precision in manifest.precisions]
    for required in (*graphs, GOLDEN_MAPS, GOLDEN_SCORES, TRAINING_IMAGES, *(f"golden/{n}" for n in manifest.golden)):
        if required not in manifest.files:
            raise BundleError(f"{INDEX} of '{path}' does not list '{required}'", fix="export the bundle again")
    for name, expected in manifest.files.items():
        _check_file(path, name, expected)
    _check_tiling(path, manifest)
    _check_frame_limits(path, manifest)
    for precision in manifest.precisions:
        is_own = precision in OWN_THRESHOLD
        stored = manifest.own_thresholds(precision).values() if is_own else [manifest.threshold]
        calibrated_on = manifest.files[graph_file(precision if is_own else "fp32")]
        if any(threshold is not None and threshold.graph_sha256 != calibrated_on for threshold in stored):
            raise BundleError(
                f"the threshold of '{path}' was calibrated on another graph", fix="export and calibrate again"
            )
    from kdx.decision.level_map import level_of

    bundle = Bundle(path, manifest)
    level_of(bundle)  # refuses what cannot be one
    return bundle


def _check_frame_limits(path: Path, manifest: Manifest) -> None:
    found = len(manifest.frame_limits.channels)
    if found not in {0, manifest.input.channels}:
        raise BundleError(
            f"{INDEX} of '{path}' is not valid: its frame limits are of {found} channels",
            expected=f"{manifest.input.channels}, or none",
            fix="calibrate again",
        )


def _check_tiling(path: Path, manifest: Manifest) -> None:
    if manifest.tiling is None:
        return
    try:
        manifest.tiling.require_fits((manifest.input.height, manifest.input.width), manifest.map_size)
        manifest.camera  # noqa: B018 - a frame too large to be one is refused here
    except KdxError as error:
        raise BundleError(
            f"{INDEX} of '{path}' is not valid: {error.message}", fix="export the bundle again"
        ) from error


def _decode(path: Path, index: bytes) -> Manifest:
    fix = "export the bundle again"
    return decode_record(index, path / INDEX, Manifest, error=BundleError, fix=fix, supported=SCHEMA)


def hash_files(root: Path) -> dict[str, str]:
    """Return the hash of every file under a bundle folder but index and signature, by relative POSIX path."""
    files = sorted(file for file in root.rglob("*") if file.is_file() and file.name not in {INDEX, SIGNATURE})
    return {file.relative_to(root).as_posix(): sha256_file(file) for file in files}


def write_manifest(root: Path, manifest: Manifest) -> Bundle:
    """Write ``bundle.json`` into a folder that holds every other file, with their hashes."""
    manifest = msgspec.structs.replace(manifest, files=hash_files(root))
    write_atomic(root / INDEX, encode_record(manifest))
    return Bundle(root, manifest)


def write_files(root: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a bundle folder under construction, by relative POSIX path."""
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def _check_file(root: Path, name: str, expected: str) -> None:
    try:
        _require_same(root, name, expected)
    # A name that the system does not take, a link to itself, a file that may not be read.
    except (OSError, RuntimeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise BundleError(
            f"'{name[:255]}' in '{root}' cannot be read: {reason}", fix="copy the bundle again, or export it again"
        ) from error


def _require_same(root: Path, name: str, expected: str) -> None:
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or any(character in name for character in "\\:\0"):
        raise BundleError(f"'{root}' names a file outside the bundle: '{name}'", fix="do not use this bundle")
    file = root / name
    # Caches of model hubs keep content elsewhere and links to it here: what counts is the content.
    leads_outside = not file.resolve().is_relative_to(root.resolve())
    if not file.is_file():
        raise BundleError(f"'{name}' is missing from '{root}'", fix="copy the bundle again, or export it again")
    # A graph is looked into as well, and then in the very bytes that were hashed.
    graph = file.read_bytes() if file.suffix == ".onnx" else None
    received = sha256_file(file) if graph is None else sha256_bytes(graph)
    if received != expected and leads_outside:
        raise BundleError(
            f"'{name}' in '{root}' is a link to a file outside the bundle, with other content than was exported",
            expected=f"sha256 {expected}",
            received=f"a link to '{file.resolve()}'",
            fix="copy the bundle again with what its links lead to (cp -rL), or export it again",
        )
    if received != expected:
        raise BundleError(
            f"'{name}' in '{root}' was altered",
            expected=f"sha256 {expected}",
            received=f"sha256 {received}",
            fix="copy the bundle again, or export it again",
        )
    if graph is not None:
        require_plain_graph(graph, name, root)
