"""From a path to a detector."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from kdx.bundle.bundle import Bundle, open_bundle
from kdx.bundle.manifest import Manifest
from kdx.bundle.variants import OWN_THRESHOLD, graph_file
from kdx.calibration.validity import warn_of_calibration
from kdx.decision.answers import AnswerLimits, answer_limits
from kdx.decision.level_map import level_of
from kdx.decision.roi import RoiFrame, roi_of
from kdx.errors import BackendError, BundleError, OptionError
from kdx.imaging.tiling import Stitcher
from kdx.runtime.backend import BACKENDS, Backend, BackendInfo, find_backend, require_threads, runtime_of
from kdx.runtime.detector import Detector
from kdx.runtime.tiled import Tiled, graph_backend, graph_batches
from kdx.storage.json_records import RUN_INDEX
from kdx.verification.backend_choice import choose, forget
from kdx.verification.golden import require_golden

if TYPE_CHECKING:
    from kdx.bundle.keys import PublicKeys
    from kdx.monitoring.prometheus import Registry

T = TypeVar("T")


def load(
    path: str | Path,
    backend: str = "auto",
    threads: int | None = None,
    checkpoint: str | None = None,
    precision: str | None = None,
    *,
    require_signature: PublicKeys | None = None,
    log: str | Path | None = None,
    metrics: Registry | None = None,
    batch_sizes: Sequence[int] | None = None,
) -> Detector:
    """Load a bundle (or, with torch installed, a training run) and return its detector.

    Warns with :class:`kdx.decision.roi.StaleCalibrationWarning` where the region of interest or the level map was
    changed
    after the calibration, and with :class:`kdx.calibration.validity.CalibrationWarning` where BF16 or INT8 has no
    threshold that
    was measured by the runtime that runs it here, or where an older kdx did not record which runtime measured it.

    Args:
        path: A bundle folder, or a run folder of ``kdx train``, which runs in eager PyTorch and has no threshold.
        backend: A backend's name; ``auto`` takes the fastest that decides what was trained, see
        :mod:`kdx.verification.backend_choice`.
        threads: Threads within an operation; None leaves it to the backend.
        checkpoint: Of a run: ``last`` or ``best``; None for the one that its recipe names.
        precision: Of the bundle's graphs; None takes what the backend is for, and with ``auto`` the fastest.
        require_signature: Public keys, by one of which the bundle must be signed, see :func:`kdx.open_bundle`. Engines
            in it are then used only if the signature covers them.
        log: File to which every verdict is written, for ``kdx drift``, see :mod:`kdx.monitoring.verdict_log`; of
        bundles only.
        metrics: Counts verdicts, latency and drift for Prometheus, see :mod:`kdx.monitoring.prometheus`: True for
        its default
            registry, or a ``CollectorRegistry``; of bundles only.
        batch_sizes: How many images will be judged at once, for example ``(1, 8)``: these are compiled now, and kept,
            and golden images are compared at each. Any other number is compiled when it first comes, which the call
            that brings it waits for; others go on. None for single images; of bundles only.

    Raises:
        BundleError: The bundle is incomplete, altered, too new, or not signed as required.
        OutputError: The log cannot be written, or belongs to another graph.
        BackendError: The backend is unknown, missing, or cannot load the graph; or it does not decide the bundle's
            golden images as the reference did, at a batch size that will be used, whichever way it was chosen.
        OptionError: A bundle has one checkpoint only, a run one precision; a batch size below 1; threads out of range;
            a key that cannot be read; metrics without the package ``prometheus_client``.
    """
    path = Path(path)
    require_threads(threads)
    if not is_run(path):
        if checkpoint is not None:
            raise OptionError(f"'{path}' is no run: it holds one checkpoint", fix="leave out the checkpoint")
        bundle = open_bundle(path, require_signature=require_signature)
        detector = detector_of(bundle, backend, threads, precision, batch_sizes)
        try:
            warn_of_calibration(bundle, detector.precision, runtime_of(detector.backend.name))
            _watch(detector, bundle, log, metrics)
        except BaseException:
            detector.close()
            raise
        return detector
    if log is not None or metrics is not None:
        raise OptionError(f"'{path}' is a run: only bundles keep a log or metrics", fix="export it first")
    if batch_sizes is not None:
        raise OptionError(f"'{path}' is a run: nothing is compiled for it", fix="leave out the batch sizes")
    if require_signature is not None:
        raise BundleError(f"'{path}' is a run, and only bundles are signed", fix="export it, and sign the bundle")
    if precision not in {None, "fp32"}:
        raise OptionError(f"a run folder runs in FP32, not in '{precision}'", fix="export it with --precision")
    if backend not in {"auto", "torch"}:
        raise BackendError(
            f"a run folder runs in torch, not in '{backend}'", fix="export it first: kdx export RUN -o NAME.kdx"
        )
    try:
        # Only a run needs torch, and only here.
        from kd_train.evaluation.reference_detector import load_detector
    except ImportError as error:
        raise BackendError(
            f"a run folder needs the package '{error.name}', which is not installed", fix='pip install "kdx[train,cpu]"'
        ) from error
    return load_detector(path, which=checkpoint, threads=threads)


def _watch(detector: Detector, bundle: Bundle, log: str | Path | None, metrics: Registry | None) -> None:
    """Let a detector's verdicts be logged and counted, where that is asked for."""
    if metrics is not None:
        from kdx.monitoring.prometheus import Metrics

        detector.metrics = Metrics(metrics, bundle, detector.precision, runtime_of(detector.backend.name))
    if log is not None:
        from kdx.monitoring.verdict_log import LogFacts, VerdictLog

        graph = bundle.manifest.files[graph_file(detector.precision)]
        manifest = bundle.manifest
        # Scores of FP32 and FP16 may come from any runtime.
        runtime = runtime_of(detector.backend.name) if detector.precision in OWN_THRESHOLD else None
        region, level = manifest.roi_sha256, manifest.level_sha256
        facts = LogFacts(bundle.path.name, graph, detector.precision, region, level, runtime)
        detector.log = VerdictLog(log, facts)


def detector_of(
    bundle: Bundle,
    backend: str = "auto",
    threads: int | None = None,
    precision: str | None = None,
    batch_sizes: Sequence[int] | None = None,
) -> Detector:
    """Return the detector of a bundle that is open already, after it was compared as :func:`prepare` does it.

    Raises:
        BundleError: The bundle was replaced meanwhile: thresholds must not meet another graph.
        BackendError: It does not decide the golden images as the reference did.
        OptionError: A batch size that is not possible.
    """
    sizes = require_batch_sizes(batch_sizes)

    def opened() -> Detector:
        info, used = way_of(bundle, backend, threads, precision)
        detector = detector_on(bundle, info.open(bundle.graph_of(used), threads, used), used)
        try:
            prepare(bundle, detector, sizes)
            bundle.require_present("loaded", fix="load it again")
        except BaseException:
            detector.close()
            raise
        return detector

    return measured_again(opened, [bundle] if backend == "auto" else [], threads, precision)


def measured_again(
    open_them: Callable[[], T], bundles: Iterable[Bundle], threads: int | None, precision: str | None
) -> T:
    """Open bundles; where that fails in a way that was remembered, forget it, so that it is measured again, once.

    Something may have changed that a remembered choice does not know of. What is measured again excludes what fails.

    Args:
        open_them: Opens the bundles, and compares the golden images.
        bundles: Those whose way to run was chosen automatically.
        threads: As for the choice.
        precision: As for the choice.

    Raises:
        BackendError: Nothing was remembered, or it fails again.
    """
    try:
        return open_them()
    except BackendError:
        forgotten = [forget(bundle, threads, precision) for bundle in bundles]
        if not any(forgotten):
            raise
    return open_them()


def require_batch_sizes(sizes: Sequence[int] | None) -> tuple[int, ...] | None:
    """Return batch sizes as plain numbers; NumPy's are accepted too.

    Raises:
        OptionError: They are not possible.
    """
    if sizes is None:
        return None
    try:
        found = tuple(operator.index(size) for size in sizes)
    except TypeError:  # no sequence, or not of whole numbers
        found = ()
    if not found or min(found) < 1:
        raise OptionError(
            "these batch sizes are not possible", expected="numbers from 1, for example (1, 8)", received=repr(sizes)
        )
    return found


def prepare(bundle: Bundle, detector: Detector, batch_sizes: Sequence[int] | None = None) -> None:
    """Compare a bundle's detector with the golden images, one at a time and at the batch sizes that will be used.

    Those of a frame's tiles are always among them. What the backend compiles for these is kept.

    Raises:
        BackendError: It does not decide the golden images as the reference did.
        BundleError: The golden images cannot be read.
    """
    batches = graph_batches(detector.backend, batch_sizes or (1,), detector.max_batch)
    keep = getattr(graph_backend(detector.backend), "keep", None)
    if keep is not None:
        keep(batches)
    require_golden(bundle, detector.backend, detector.precision, batches)


def way_of(
    bundle: Bundle, backend: str = "auto", threads: int | None = None, precision: str | None = None
) -> tuple[BackendInfo, str]:
    """Return the backend and the precision in which a bundle is run, see :func:`load`.

    Raises:
        BundleError: A signature was required, and an engine that might be run is not covered by it.
    """
    considered = BACKENDS.values() if backend == "auto" else [find_backend(backend)]
    if bundle.seal is not None and any(info.engine and info.is_usable() for info in considered):
        from kdx.bundle.signing import require_signed_engines

        require_signed_engines(bundle)
    if backend == "auto":
        choice = choose(bundle, threads, precision)
        backend, precision = choice.backend, choice.precision
    info = find_backend(backend)
    manifest = bundle.manifest
    if precision is None:
        decided = [each for each in manifest.precisions if manifest.decides_alike(each, info.runtime)]
        precision = info.choose_precision(decided)
    info.require_precision(precision)
    return info, precision


def for_frames(backend: Backend, manifest: Manifest) -> Backend:
    """Return a backend for what the camera delivers, from one that holds a bundle's graph: that one, or on tiles."""
    if manifest.tiling is None:
        return backend
    tile = manifest.input.height, manifest.input.width
    return Tiled(backend, Stitcher(manifest.tiling, tile, manifest.map_size), limits_of_answers(manifest))


def limits_of_answers(manifest: Manifest) -> AnswerLimits:
    """Return the lowest map value and score that a bundle's method can give."""
    return answer_limits(manifest.pair_spec, manifest.map_size)


def detector_on(bundle: Bundle, backend: Backend, precision: str) -> Detector:
    """Return the detector of a bundle on a backend that holds its graph of a precision.

    Raises:
        BundleError: Its region of interest or its level map cannot be used.
    """
    manifest = bundle.manifest
    try:
        roi, level = roi_of(bundle), level_of(bundle)
    except BundleError:
        backend.close()
        raise
    calibrated = manifest.threshold_of(precision, runtime_of(backend.name))
    threshold, pixel = (calibrated.score, calibrated.pixel) if calibrated else (None, None)
    return Detector(
        for_frames(backend, manifest),
        manifest.camera,
        threshold,
        max_batch=manifest.max_batch,
        field_of_view=manifest.field_of_view,
        pixel_threshold=pixel,
        frame_limits=manifest.frame_limits,
        precision=precision,
        review_threshold=calibrated.review.score if calibrated and calibrated.review else None,
        roi=roi,
        roi_frame=RoiFrame.of(manifest),
        level=level,
        answer_limits=limits_of_answers(manifest),
    )


def is_run(path: Path) -> bool:
    """Tell whether a path is a run folder of ``kdx train``."""
    return (path / RUN_INDEX).is_file()
