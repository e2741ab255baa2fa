"""The check at the start of a shift: is the bundle unaltered, are verdicts right, and in time?

It takes about a second. It checks every hash; it runs the golden images through the backend that
the line will use, one at a time and, of a bundle for large frames, in the batches of a frame's
tiles, and compares them with the reference stored at export; and it compares the latency of the
whole call with the cycle time.

Frames that are read in bands may not fit into the memory. Of them, one batch of tiles is timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from kdx.bundle.bundle import Bundle
from kdx.bundle.manifest import INDEX, SIGNATURE
from kdx.bundle.open import open_bundle
from kdx.calibration.validity import CalibrationValidity
from kdx.decision.roi import why_stale
from kdx.errors import BackendError, BundleError, ForkError, OptionError
from kdx.loading.bundle_detector import detector_on
from kdx.runtime.cycle_time import measure_cycle_time, runs_needed
from kdx.runtime.detector import Detector
from kdx.runtime.tiled import graph_backend, graph_batches
from kdx.verification.backend_choice import BackendChooser
from kdx.verification.comparison import describe_difference, describe_tolerances
from kdx.verification.golden import GoldenCheck
from kdx.verification.tolerances import tolerances_of

PERCENTILE = 95.0
_RUNS, _WARM_UP = 40, 5
_CHECKS = ("files", "golden", "latency")
_T = TypeVar("_T")


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One part of the self-test.

    Attributes:
        name: ``files``, ``golden`` or ``latency``.
        passed: Whether it passed.
        seconds: How long it took.
        said: The result in words.
    """

    name: str
    passed: bool
    seconds: float
    said: str


class SelfTest(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a self-test.

    Attributes:
        bundle: The bundle's folder.
        backend: The backend that ran; empty if none could.
        precision: The precision of the graph that ran.
        checks: The checks in the order they were made; the first that fails is the last.
        seconds: How long all checks took together.
        passed: Whether all three were made and passed.
    """

    bundle: str
    backend: str = ""
    precision: str = ""
    checks: list[Check]
    seconds: float
    passed: bool


def run_selftest(
    path: str | Path,
    backend: str = "auto",
    threads: int | None = None,
    precision: str | None = None,
    *,
    budget_ms: float | None = None,
    percentile: float = PERCENTILE,
    runs: int | None = None,
) -> SelfTest:
    """Check a bundle as the line uses it.

    Args:
        path: The bundle's folder.
        backend: A backend's name, or ``auto``, see :func:`kdx.load`.
        threads: Threads within an operation; None leaves it to the backend.
        precision: The precision of the graph; None as for :func:`kdx.load`.
        budget_ms: Milliseconds that a call may take from the array to the verdict; None only
            measures.
        percentile: The percentile of the calls that must be within the budget.
        runs: Calls that are timed; None for 40, or as many as the percentile needs.

    Raises:
        OptionError: An invalid budget, percentile, backend or number of runs; or a budget for a
            bundle that reads frames in bands.
    """
    started = time.perf_counter()
    checks: list[Check] = []
    opened = _timed(checks, "files", lambda: _open(Path(path)))
    if opened is None:
        return _result(path, "", "", checks, started)
    bundle, check = opened
    if budget_ms is not None and bundle.manifest.camera.is_in_bands:
        raise OptionError(
            "the time of a verdict cannot be compared with `budget_ms`: the bundle reads frames in bands, and the "
            "self-test times one batch of tiles",
            fix="leave out `budget_ms`, and time detector.judge_file(FILE) on a frame of the line",
        )
    found = _timed(checks, "golden", lambda: _check_golden(bundle, check, backend, threads, precision))
    if found is None:
        return _result(path, "", "", checks, started)
    detector, used = found
    with detector:
        counted = max(_RUNS, runs_needed(percentile) if 0 < percentile < 100 else 0) if runs is None else runs
        _timed(checks, "latency", lambda: _check_latency(detector, bundle, budget_ms, percentile, counted))
        return _result(path, detector.backend.name, used, checks, started)


def _result(path: str | Path, backend: str, precision: str, checks: list[Check], started: float) -> SelfTest:
    return SelfTest(
        bundle=str(path),
        backend=backend,
        precision=precision,
        checks=checks,
        seconds=round(time.perf_counter() - started, 3),
        passed=len(checks) == len(_CHECKS) and all(check.passed for check in checks),
    )


class _FailedError(Exception):
    """A check failed for the reason given."""


class _DiffersError(_FailedError):
    """A backend does not give the golden answers."""


def _timed(checks: list[Check], name: str, check: Callable[[], tuple[_T, str]]) -> _T | None:
    """Make a check, add it to the list, and return what it found; None where it failed."""
    started = time.perf_counter()
    found: _T | None
    try:
        found, said = check()
    except (BundleError, BackendError, _FailedError) as error:
        found, said = None, str(error)
    seconds = round(time.perf_counter() - started, 3)
    checks.append(Check(name=name, passed=found is not None, seconds=seconds, said=said))
    return found


def _open(path: Path) -> tuple[tuple[Bundle, GoldenCheck], str]:
    bundle = open_bundle(path)
    check = GoldenCheck(bundle)
    _ = check.golden  # raises if the golden images cannot be read
    # Opening checked that a signature is of this index; no hash covers it otherwise.
    index = "as it was signed" if (path / SIGNATURE).is_file() else "has no hash: kdx sign protects it"
    return (bundle, check), f"{len(bundle.manifest.files)} files as they were exported; {INDEX} {index}"


def _check_golden(
    bundle: Bundle, check: GoldenCheck, backend: str, threads: int | None, precision: str | None
) -> tuple[tuple[Detector, str], str]:
    # Before seconds are spent on choosing a backend: a stale calibration concerns every precision.
    stale = why_stale(bundle.manifest)
    if stale:
        raise _FailedError(stale)
    if bundle.manifest.threshold is None:
        raise _FailedError(f"not calibrated: every verdict is undecided; run kdx calibrate {bundle.path} DATA")
    chooser = BackendChooser(bundle, backend, threads, precision)
    try:
        return _compared(bundle, check, chooser, threads)
    except ForkError:
        raise
    except (BackendError, _DiffersError):  # as kdx.load: perhaps a remembered choice that no longer holds
        if not chooser.forget():
            raise
    return _compared(bundle, check, chooser, threads)


def _compared(
    bundle: Bundle, check: GoldenCheck, chooser: BackendChooser, threads: int | None
) -> tuple[tuple[Detector, str], str]:
    """Open the chosen backend, and compare its answers with the golden ones."""
    info, used = chooser.choose()
    validity = CalibrationValidity(bundle.manifest, used, info.runtime)
    undecided = validity.why_undecided
    if undecided:
        raise _FailedError(undecided)
    detector = detector_on(bundle, info.open(bundle.graph_of(used), threads, used), used)
    try:
        found = check.compare(detector.backend, used, graph_batches(detector.backend, (1,), detector.max_batch))
    except BaseException:
        detector.close()
        raise
    compared = next((each for each in found if not each.passed), found[0])
    batch = f" in batches of {compared.batch}" if compared.batch > 1 else ""
    said = f"{compared.images} golden images{batch}: {describe_difference(compared)}"
    uncertain = validity.why_uncertain
    if uncertain:
        said = f"{said}; {uncertain}"
    if compared.passed:
        return (detector, used), said
    detector.close()
    raise _DiffersError(f"{said}; expected {describe_tolerances(tolerances_of(bundle.manifest, used))}")


def _check_latency(
    detector: Detector, bundle: Bundle, budget_ms: float | None, percentile: float, runs: int
) -> tuple[object, str]:
    call: Callable[[NDArray[np.uint8]], object] | None = None
    ending, tiling = "; no budget to compare with", bundle.manifest.tiling
    if tiling is not None and bundle.manifest.camera.is_in_bands:
        count = max(graph_batches(detector.backend, (1,), detector.max_batch))
        images = np.take(bundle.golden().images, range(count), axis=0, mode="wrap")[None]
        call = graph_backend(detector.backend).run
        ending = f" with {count} of the {tiling.count} tiles of a frame: frames are read in bands, no verdict was timed"
    else:
        images = bundle.camera_images()
    measured = measure_cycle_time(
        detector, images, call=call, budget_ms=budget_ms, percentile=percentile, runs=runs, warm_up=_WARM_UP
    )
    said = f"p{percentile:g} {measured.measured_ms:.2f} ms, median {measured.p50_ms:.2f} ms of {measured.runs} calls"
    if budget_ms is None:
        return measured, said + ending
    if not measured.is_met:
        raise _FailedError(f"{said}: over the budget of {budget_ms:g} ms")
    return measured, f"{said}: within {budget_ms:g} ms"
