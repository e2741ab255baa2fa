"""The bundle: a folder ``NAME.kdx/`` with graphs, golden images, thresholds and provenance.

``bundle.json`` is the index. :func:`kdx.bundle.open.open_bundle` checks everything that it names.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from kdx.bundle.checked_files import Graph, read_checked
from kdx.bundle.index import current_index, update_index
from kdx.bundle.manifest import TRAINING_IMAGES, Manifest
from kdx.bundle.seal import Seal
from kdx.bundle.stored_threshold import Threshold
from kdx.bundle.variants import PRECISIONS, graph_file
from kdx.errors import BundleError, ImageError
from kdx.imaging.frame_faults import FrameLimits
from kdx.imaging.image_identity import Identity, KnownImages
from kdx.imaging.images import decode_file
from kdx.storage.json_records import UNREADABLE, describe_invalid
from kdx.storage.npy import decode_array


class TrainingImages(msgspec.Struct, frozen=True, omit_defaults=True):
    """The content of ``training_images.json`` since schema 2.

    Attributes:
        images: The images that were trained on.
        left_out: Odd good images that the training left out.
    """

    images: list[Identity]
    left_out: list[Identity] = []


@dataclass(frozen=True)
class Golden:
    """Real images with the answers of the reference.

    The reference is FP32 in PyTorch; for INT8 students, it is the fake-quantised module that they
    were trained as.

    Attributes:
        names: The file names of the images.
        images: The images, uint8 ``(K, H, W, C)``.
        maps: The reference's maps, float32 ``(K, h, w)``.
        scores: The reference's scores, float32 ``(K, 1)``.
    """

    names: list[str]
    images: NDArray[np.uint8]
    maps: NDArray[np.float32]
    scores: NDArray[np.float32]


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose files were checked when it was opened.

    Attributes:
        path: The bundle's folder.
        manifest: The content of its ``bundle.json``.
        seal: The signature, if one was required when the bundle was opened; it was verified then.
        index_sha256: The hash of its ``bundle.json`` when it was opened, which holds the hash of
            every other file; empty for a bundle that was not opened.
    """

    path: Path
    manifest: Manifest
    seal: Seal | None = None
    index_sha256: str = ""

    @property
    def graph(self) -> Graph:
        """The FP32 ONNX graph."""
        return self.graph_of("fp32")

    def read(self, name: str) -> bytes:
        """Return the content of a file of the bundle as it was when the bundle was opened.

        Args:
            name: The file's relative POSIX path, one of the manifest's ``files``.

        Raises:
            BundleError: The file was replaced, altered or removed since.
        """
        return read_checked(self.path / name, self.manifest.files[name])

    def graph_of(self, precision: str) -> Graph:
        """Return the ONNX graph of a precision.

        Args:
            precision: ``fp32``, ``fp16``, ``bf16`` or ``int8``; for ``bf16``, which a runtime
                computes from the FP32 graph, it is that graph.

        Raises:
            BundleError: The bundle holds no graph of this precision.
        """
        if precision not in self.manifest.precisions:
            is_known = precision in PRECISIONS
            raise BundleError(
                f"'{self.path}' holds no {precision} graph",
                expected=" or ".join(self.manifest.precisions),
                fix=f"export it again: kdx export RUN --precision fp32,{precision}"
                if is_known
                else "choose one of these",
            )
        name = graph_file(precision)
        return Graph(self.path / name, self.manifest.files[name], self.seal)

    def golden(self, precision: str = "fp32") -> Golden:
        """Read the golden images and the answers that a precision is compared with.

        Args:
            precision: The precision. All have the answers of FP32, except INT8 where the students
                were trained as INT8 networks.

        Raises:
            BundleError: A file cannot be read, or the files do not belong together.
        """
        spec = msgspec.structs.replace(self.manifest.input, fixed_size=True)  # they were written at its size
        try:
            files = [f"golden/{name}" for name in self.manifest.golden]
            images = [decode_file(self.path / file, spec, self.read(file)).pixels for file in files]
        except ImageError as error:
            raise BundleError(error.message, expected=error.expected, fix="export the bundle again") from error
        maps, scores = read_reference(self, precision)
        return Golden(self.manifest.golden, np.stack(images), maps, scores)

    def camera_images(self) -> NDArray[np.uint8]:
        """Return real images of the camera's size, to time a detector with.

        They are the golden images or, in a bundle for large frames, one frame that is filled with
        copies of them.

        Returns:
            uint8 ``(K, H, W, C)``.

        Raises:
            BundleError: As for :meth:`golden`.
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
        """Return the images that the student was trained on, so that copies of them are recognised.

        In a bundle of schema 1, a copy in another image format is not recognised: it lists only the
        hashes of the files.

        Raises:
            BundleError: The file was replaced or altered, or its content is not valid.
        """
        return KnownImages(self._listed_images().images)

    def left_out_images(self) -> KnownImages:
        """Return the odd good images that the training left out; none in earlier bundles.

        Raises:
            BundleError: The file was replaced or altered, or its content is not valid.
        """
        return KnownImages(self._listed_images().left_out)

    def _listed_images(self) -> TrainingImages:
        file = self.path / TRAINING_IMAGES
        try:
            kept = msgspec.json.decode(self.read(TRAINING_IMAGES), type=TrainingImages | list[str])
            if isinstance(kept, TrainingImages):
                return kept
            return TrainingImages([Identity(file=sha256) for sha256 in kept])
        except UNREADABLE as error:
            raise BundleError(
                f"'{file}' is not valid: {describe_invalid(error)}", fix="export the bundle again"
            ) from error

    def require_present(self, done: str, *, fix: str) -> Manifest:
        """Return the index on disk, whose thresholds may be newer.

        Args:
            done: What was done with the bundle meanwhile, for the message.
            fix: What the user can do.

        Raises:
            BundleError: The folder holds another bundle now.
        """
        return current_index(self.path, self.manifest.files, done=done, fix=fix)

    def uncalibrated(self) -> Bundle:
        """Return the bundle without its thresholds, to be calibrated; the files do not change."""
        bare = msgspec.structs.replace(self.manifest, threshold=None, thresholds={}, runtime_thresholds={})
        return replace(self, manifest=bare)

    def with_thresholds(
        self,
        threshold: Threshold,
        own: Mapping[str, Mapping[str, Threshold]] | None = None,
        frame_limits: FrameLimits | None = None,
        images: Collection[str] | None = None,
    ) -> Bundle:
        """Store a calibration in the bundle on disk, in one step, and return the updated bundle.

        The signature is removed, because it belongs to the earlier calibration.

        Args:
            threshold: As for :meth:`kdx.bundle.manifest.Manifest.with_thresholds`.
            own: As for :meth:`kdx.bundle.manifest.Manifest.with_thresholds`.
            frame_limits: As for :meth:`kdx.bundle.manifest.Manifest.with_thresholds`.
            images: As for :meth:`kdx.bundle.manifest.Manifest.with_thresholds`.

        Raises:
            BundleError: The folder holds another bundle now.
        """

        def calibrated(current: Manifest) -> Manifest:
            return current.with_thresholds(threshold, own, frame_limits, images)

        manifest = update_index(self.path, self.manifest.files, calibrated, done="calibrated", fix="calibrate again")
        return Bundle(self.path, manifest)


def read_reference(bundle: Bundle, precision: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Read the maps and the scores of golden images that a precision is compared with.

    Raises:
        BundleError: A file cannot be read, or the files do not belong together.
    """
    manifest = bundle.manifest
    files = manifest.reference_files(precision)
    maps, scores = (decode_array(bundle.read(name), bundle.path / name) for name in files)
    images = len(manifest.golden)
    expected = (images, *manifest.map_size), (images, 1)
    if not images or (maps.shape, scores.shape) != expected:
        raise BundleError(
            f"the golden images of '{bundle.path}' do not match their reference",
            expected=f"maps {expected[0]}, scores {expected[1]}",
            received=f"{images} images, maps {maps.shape}, scores {scores.shape}",
            fix="export the bundle again",
        )
    return maps, scores
