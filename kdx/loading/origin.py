"""What a detector was loaded from, by which another process loads the same one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdx.bundle.bundle import Bundle
from kdx.bundle.manifest import INDEX
from kdx.bundle.open import open_bundle
from kdx.calibration.validity import warn_of_calibration
from kdx.errors import BundleError
from kdx.loading.bundle_detector import detector_of
from kdx.monitoring.observers import with_observers
from kdx.runtime.backend_table import runtime_of
from kdx.runtime.detector import Detector

if TYPE_CHECKING:
    from kdx.bundle.keys import PublicKeys
    from kdx.monitoring.prometheus import Registry


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A bundle, and the options of :func:`kdx.load`.

    Attributes:
        path: The bundle's folder, absolute.
        sha256: The hash of its ``bundle.json``.
        backend: A backend's name, or ``auto`` before one was chosen.
        threads: Threads within an operation; None leaves it to the backend.
        precision: The precision of the graph; None before one was chosen.
        require_signature: Public keys, by one of which the bundle must be signed, with absolute
            paths, or None.
        log: The file to which verdicts are written, absolute, or None.
        metrics: The registry of the metrics, or None.
        batch_sizes: How many images are judged at once; None for single images.
    """

    path: Path
    sha256: str
    backend: str = "auto"
    threads: int | None = None
    precision: str | None = None
    require_signature: PublicKeys | None = None
    log: Path | None = None
    metrics: Registry | None = None
    batch_sizes: tuple[int, ...] | None = None

    def reopen(self) -> Bundle:
        """Open the bundle.

        Raises:
            BundleError: It is not the bundle that the detector was loaded from, or a check failed.
        """
        bundle = open_bundle(self.path, require_signature=self.require_signature)
        if bundle.index_sha256 != self.sha256:
            raise BundleError(
                f"'{self.path}' was changed since the detector was loaded that is unpickled here",
                expected=f"{INDEX} of sha256 {self.sha256}",
                received=f"sha256 {bundle.index_sha256}",
                fix="load the bundle again and pickle that detector, or give every machine the same bundle",
            )
        return bundle

    def detector(self, bundle: Bundle) -> Detector:
        """Return the detector of the open bundle, which remembers this origin.

        Raises:
            KdxError: As for :func:`kdx.load`.
        """
        detector = detector_of(bundle, self.backend, self.threads, self.precision, self.batch_sizes)
        try:
            warn_of_calibration(bundle, detector.precision, runtime_of(detector.backend.name))
            observed = with_observers(detector, bundle, self.log, self.metrics)
        except BaseException:
            detector.close()
            raise
        observed.origin = self.chosen(observed)
        return observed

    def chosen(self, detector: Detector) -> Origin:
        """Return this origin with the backend and the precision of a detector."""
        return replace(self, backend=detector.backend.name, precision=detector.precision)

    def restore(self, changed: Mapping[str, Any]) -> Detector:
        """Load the detector again, with the changed fields of its rule.

        Raises:
            BundleError: The bundle was changed, or a check failed.
            KdxError: As for :func:`kdx.load`.
        """
        detector = self.detector(self.reopen())
        detector.rule = replace(detector.rule, **changed)
        return detector
