"""Remembers the fastest backend for a bundle, a machine, software and candidates."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from kdx import __version__
from kdx.bundle.bundle import Bundle
from kdx.bundle.engine_record import engines_of
from kdx.bundle.manifest import Manifest
from kdx.runtime.backend_table import BackendInfo
from kdx.runtime.gpu import gpus
from kdx.runtime.machine import (
    RTX_PACKAGES,
    TENSORRT_PACKAGES,
    cpu_features,
    describe_machine,
    package_versions,
    usable_cores,
)
from kdx.storage.cache import cache_folder, warn_not_kept
from kdx.storage.files import sha256_bytes, write_atomic
from kdx.storage.json_records import UNREADABLE, encode_record
from kdx.storage.private_folder import private_cache

_PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "openvino", *TENSORRT_PACKAGES, *RTX_PACKAGES)


class BackendCandidate(msgspec.Struct, frozen=True, kw_only=True):
    """A backend and a precision in which it could run a bundle.

    Attributes:
        backend: The backend's name.
        precision: The precision of the graph.
        p50_ms: Median latency of a call, with one image, or with the tiles that go through the
            graph at once; None for a candidate that was not timed.
        reason: Why the candidate may not be chosen, or an empty string.
    """

    backend: str
    precision: str
    p50_ms: float | None = None
    reason: str = ""


class BackendChoice(msgspec.Struct, frozen=True, kw_only=True):
    """The fastest backend and precision, and what they were chosen from.

    Attributes:
        backend: The backend's name.
        precision: The precision of the graph.
        candidates: All candidates.
        created: UTC time, ISO 8601.
    """

    backend: str
    precision: str
    candidates: list[BackendCandidate]
    created: str


class ChoiceFile:
    """The file in the user's cache that remembers a choice.

    Where a signature was required of the bundle, the file is private to this user, or there is
    none.

    Args:
        bundle: The bundle.
        pairs: The candidates: backends and precisions.
        threads: Threads within an operation; None leaves it to the backend.

    Attributes:
        path: Where the choice is; None where nothing is remembered.
    """

    def __init__(self, bundle: Bundle, pairs: Sequence[tuple[BackendInfo, str]], threads: int | None) -> None:
        self._is_private = bundle.seal is not None
        cache = cache_folder()
        folder = private_cache("choices") if self._is_private else cache / "choices" if cache else None
        self.path = folder / f"{_key(bundle, pairs, threads)}.json" if folder else None

    def read(self) -> BackendChoice | None:
        """Return what is remembered; None if there is no file, or an unreadable one."""
        if self.path is None:
            return None
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=BackendChoice)
        except (OSError, *UNREADABLE):
            return None

    def write(self, choice: BackendChoice) -> None:
        """Remember a choice; warn with ``RuntimeWarning`` if the cache cannot be written."""
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path, encode_record(choice), private=self._is_private)
        except OSError as error:
            warn_not_kept(self.path.parent, error)

    def remove(self) -> bool:
        """Forget the choice; return whether there was one."""
        if self.path is None:
            return False
        try:
            self.path.unlink()
        except OSError:
            return False
        return True


def images_at_once(manifest: Manifest) -> int:
    """Return how many images go through the graph at once on a line: tiles of a frame, or one."""
    tiling = manifest.tiling
    return 1 if tiling is None else min(tiling.batch, tiling.count)


def _key(bundle: Bundle, pairs: Sequence[tuple[BackendInfo, str]], threads: int | None) -> str:
    """Return a hash of all that could change the choice: bundle, candidates, machine, software."""
    versions = {"kdx": __version__, **package_versions(_PACKAGES)}
    parts = {
        "files": bundle.manifest.files,
        "thresholds": [bundle.manifest.threshold, bundle.manifest.runtime_thresholds, bundle.manifest.thresholds],
        "ways": [(info.name, precision) for info, precision in pairs],
        "engines": [engine.record.plan_sha256 for engine in engines_of(bundle.path)],
        "machine": describe_machine(threads or usable_cores(), versions),
        "features": cpu_features(),
        "threads": threads,
        "images_at_once": images_at_once(bundle.manifest),
        "gpus": [(gpu.name, gpu.driver) for gpu in gpus()],
    }
    return sha256_bytes(msgspec.json.encode(parts))[:32]
