"""Makes the detector of an open bundle: backend, decision rule, and check of golden images."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from kdx.bundle.bundle import Bundle
from kdx.decision.rule import DecisionRule
from kdx.errors import BackendError, BundleError, ForkError, OptionError
from kdx.runtime.backend import Backend
from kdx.runtime.backend_table import runtime_of
from kdx.runtime.detector import Detector
from kdx.runtime.tiled import for_frames, graph_backend, graph_batches
from kdx.verification.backend_choice import BackendChooser
from kdx.verification.golden import GoldenCheck

T = TypeVar("T")


def detector_of(
    bundle: Bundle,
    backend: str = "auto",
    threads: int | None = None,
    precision: str | None = None,
    batch_sizes: Sequence[int] | None = None,
) -> Detector:
    """Return the detector of an open bundle, after it was compared with the golden images.

    Args:
        bundle: The bundle.
        backend: A backend's name, or ``auto`` for the fastest that decides what was trained.
        threads: Threads within an operation; None leaves it to the backend.
        precision: The precision of the graph; None takes the first of the backend's precisions that
            the bundle holds.
        batch_sizes: How many images will be judged at once; None for single images.

    Raises:
        BundleError: The bundle was replaced meanwhile: thresholds must not meet another graph.
        BackendError: The detector does not decide the golden images as the reference did.
        OptionError: Invalid batch sizes.
    """
    sizes = require_batch_sizes(batch_sizes)
    chooser = BackendChooser(bundle, backend, threads, precision)

    def opened() -> Detector:
        info, used = chooser.choose()
        detector = detector_on(bundle, info.open(bundle.graph_of(used), threads, used), used)
        try:
            compile_and_check(bundle, detector, sizes)
            bundle.require_present("loaded", fix="load it again")
        except BaseException:
            detector.close()
            raise
        return detector

    return retry_without_memory(opened, [chooser])


def retry_without_memory(open_them: Callable[[], T], choosers: Iterable[BackendChooser]) -> T:
    """Open bundles; if that fails with a remembered backend, forget the choice and try once more.

    Something may have changed that the remembered choice does not know of. A new choice excludes
    what fails.

    Args:
        open_them: Opens the bundles, and compares the golden images.
        choosers: What chooses the backends.

    Raises:
        BackendError: Nothing was remembered, or it fails again.
    """
    try:
        return open_them()
    except ForkError:
        raise
    except BackendError:
        forgotten = [chooser.forget() for chooser in choosers]
        if not any(forgotten):
            raise
    return open_them()


def require_batch_sizes(sizes: Sequence[int] | None) -> tuple[int, ...] | None:
    """Return batch sizes as plain numbers; NumPy's are accepted too.

    Raises:
        OptionError: Something else, or a number below 1.
    """
    if sizes is None:
        return None
    try:
        found = tuple(operator.index(size) for size in sizes)
    except TypeError:  # not a sequence, or not of whole numbers
        found = ()
    if not found or min(found) < 1:
        raise OptionError("invalid `batch_sizes`", expected="numbers from 1, for example (1, 8)", received=repr(sizes))
    return found


def compile_and_check(bundle: Bundle, detector: Detector, batch_sizes: Sequence[int] | None = None) -> None:
    """Compile a detector for its batch sizes, and check the golden images at each.

    Single images, and the batches that a frame's tiles make, are always among them.

    Args:
        bundle: The detector's bundle.
        detector: The detector.
        batch_sizes: How many images will be judged at once; None for single images.

    Raises:
        BackendError: It does not decide the golden images as the reference did.
        BundleError: The golden images cannot be read.
    """
    batches = graph_batches(detector.backend, batch_sizes or (1,), detector.max_batch)
    keep = getattr(graph_backend(detector.backend), "keep", None)
    if keep is not None:
        keep(batches)
    GoldenCheck(bundle).require(detector.backend, detector.precision, batches)


def detector_on(bundle: Bundle, backend: Backend, precision: str) -> Detector:
    """Return the detector of a bundle on a backend, without comparing its golden images.

    Args:
        bundle: The bundle.
        backend: A backend that has loaded the bundle's graph; it is closed if this call fails.
        precision: The precision of that graph.

    Raises:
        BundleError: Its region of interest or its level map is invalid.
    """
    try:
        rule = DecisionRule.of(bundle, precision, runtime_of(backend.name))
    except BundleError:
        backend.close()
        raise
    manifest = bundle.manifest
    return Detector(
        for_frames(backend, manifest), manifest.camera, rule, max_batch=manifest.max_batch, precision=precision
    )
