"""From a path to a detector: ``kdx.load``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from kdx.bundle.keys import absolute_keys
from kdx.bundle.manifest import INDEX
from kdx.bundle.open import open_bundle
from kdx.errors import BackendError, BundleError, OptionError, OutputError
from kdx.loading.bundle_detector import require_batch_sizes
from kdx.loading.origin import Origin
from kdx.runtime.backend import require_threads
from kdx.runtime.detector import Detector
from kdx.storage.files import refuse_existing
from kdx.storage.json_records import RUN_INDEX
from kdx.storage.path_arguments import require_path

if TYPE_CHECKING:
    from kdx.bundle.keys import PublicKeys
    from kdx.monitoring.prometheus import Registry

# ``module:function``, as in BACKENDS: a run needs PyTorch, and nothing else in this package does.
_RUN_LOADER = "kd_train.evaluation.reference_detector:load_detector"


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

    Warns with :class:`kdx.decision.roi.StaleCalibrationWarning` if the region of interest or the
    level map was changed after the calibration. Warns with
    :class:`kdx.calibration.validity.CalibrationWarning` if BF16 or INT8 has no threshold that was
    measured by the runtime that runs it here, or if an older kdx did not record that runtime. Warns
    with ``RuntimeWarning`` if ``auto`` had to leave out a GPU on which a backend failed, and if the
    cache cannot be written.

    Args:
        path: A bundle folder, or a run folder of ``kdx train``, which runs in eager PyTorch and has
            no threshold.
        backend: A backend's name; ``auto`` takes the fastest that decides what was trained, see
            :mod:`kdx.verification.backend_choice`.
        threads: Threads within an operation; None leaves it to the backend.
        checkpoint: The checkpoint of a run: ``last`` or ``best``; None for the one that its recipe
            names.
        precision: The precision of a bundle's graph; None takes the first of the backend's
            precisions that the bundle holds, and with ``auto`` the fastest.
        require_signature: Public keys, by one of which the bundle must be signed, see
            :func:`kdx.open_bundle`. Engines in it are then used only if the signature covers them.
        log: File to which every verdict of a bundle is written, for ``kdx drift``, see
            :mod:`kdx.monitoring.verdict_log`.
        metrics: Counts verdicts, latency and drift of a bundle for Prometheus, see
            :mod:`kdx.monitoring.prometheus`: True for the default registry, or a
            ``CollectorRegistry``.
        batch_sizes: How many images a bundle will judge at once, for example ``(1, 8)``: these
            sizes are compiled now, and golden images are compared at each. Any other size is
            compiled when it first comes, and the call that brings it waits for that. None for
            single images.

    Raises:
        BundleError: The bundle is incomplete, altered, too new, or not signed as required.
        OutputError: The log cannot be written, belongs to another graph, or would lie in a bundle
            or a run, which other commands replace as a whole.
        BackendError: The backend is unknown, missing, or cannot load the graph; or it does not
            decide the bundle's golden images as the reference did, at a batch size that will be
            used.
        OptionError: A bundle has only one checkpoint, a run only one precision; a batch size below
            1; threads out of range; an argument of a wrong type; a key that cannot be read; metrics
            without the package ``prometheus_client``.
    """
    if log is not None:
        log = require_path(log, "log", "the log's file")
        require_outside_bundles(log.parent, "log", log)
    threads = require_threads(threads)
    if isinstance(path, (str, os.PathLike)) and path and is_run(Path(path)):
        path = Path(path)
        given = {"log": log, "metrics": metrics, "batch_sizes": batch_sizes, "require_signature": require_signature}
        _refuse_for_run(path, backend, precision, given)
        return _load_run(path, checkpoint, threads)
    if checkpoint is not None:
        raise OptionError(f"'{path}' is not a run: it holds one checkpoint", fix="leave out `checkpoint`")
    try:
        bundle = open_bundle(path, require_signature=require_signature)
    except BundleError as error:
        if Path(path).exists():
            raise
        fix = "make a run with kdx train, or a bundle with kdx export"
        raise BundleError(f"there is no run folder or bundle '{path}'", fix=fix) from error
    origin = Origin(
        path=bundle.path.absolute(),
        sha256=bundle.index_sha256,
        backend=backend,
        threads=threads,
        precision=precision,
        require_signature=absolute_keys(require_signature),
        log=None if log is None else log.absolute(),
        metrics=metrics,
        batch_sizes=require_batch_sizes(batch_sizes),
    )
    return origin.detector(bundle)


def is_run(path: Path) -> bool:
    """Whether a path is a run folder of ``kdx train``."""
    return (path / RUN_INDEX).is_file()


def require_new_file(file: Path | None, option: str, *, force: bool) -> None:
    """Check before long work that a file can be written, and that it then stays.

    Args:
        file: The file; None for none.
        option: The parameter that names it.
        force: Whether a file of this name is replaced.

    Raises:
        OutputError: The file exists, cannot be written, or lies in a bundle or a run.
    """
    if file is not None:
        refuse_existing(file, force=force)
        require_outside_bundles(file.parent, option, file)


def require_outside_bundles(output: Path, option: str, given: Path | None = None) -> None:
    """Refuse an output in a bundle or a run, which other commands replace as a whole.

    Args:
        output: The folder.
        option: The parameter that names it.
        given: What the user gave, for the message; None for the folder itself.

    Raises:
        OutputError: The folder is, or lies in, a bundle or a run.
    """
    real = Path(os.path.realpath(output))
    for folder in (real, *real.parents):
        if (folder / INDEX).is_file() or is_run(folder):
            raise OutputError(
                f"the output would lie in '{folder}', which is a {'run' if is_run(folder) else 'bundle'}",
                received=f"`{option}={given or output}`",
                fix="choose a folder outside of it",
            )


def _refuse_for_run(path: Path, backend: str, precision: str | None, given: Mapping[str, object]) -> None:
    """Raise an error for options that only bundles take."""
    if given["log"] is not None or given["metrics"] is not None:
        raise OptionError(f"'{path}' is a run: only bundles keep a log or metrics", fix="export it first")
    if given["batch_sizes"] is not None:
        raise OptionError(f"'{path}' is a run: nothing is compiled for it", fix="leave out `batch_sizes`")
    if given["require_signature"] is not None:
        raise BundleError(f"'{path}' is a run, and only bundles are signed", fix="export it, and sign the bundle")
    if precision not in {None, "fp32"}:
        raise OptionError(
            f"a run folder runs as it was trained, not in '{precision}'",
            fix="leave out `precision`, or export the run in that precision",
        )
    if backend not in {"auto", "torch"}:
        raise BackendError(
            f"a run folder runs in torch, not in '{backend}'", fix="export it first: kdx export RUN -o NAME.kdx"
        )


def _load_run(path: Path, checkpoint: str | None, threads: int | None) -> Detector:
    """Return the detector of a run folder, in eager PyTorch.

    Raises:
        BackendError: The training packages are not installed.
    """
    module, function = _RUN_LOADER.split(":")
    try:
        load_detector = getattr(import_module(module), function)
    except ImportError as error:
        raise BackendError(
            f"a run folder needs the package '{error.name}', which is not installed", fix='pip install "kdx[train,cpu]"'
        ) from error
    detector: Detector = load_detector(path, which=checkpoint, threads=threads)
    return detector
