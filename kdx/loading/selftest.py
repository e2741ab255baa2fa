"""The check at the start of a shift: is this still the bundle, and does it still decide, here, in time?

It takes about a second: every hash, the golden images through the backend that the line will use, one at a time as on
the line, against the reference stored at export, and the latency of the whole call against the cycle time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from kdx.bundle.bundle import Bundle, Golden, open_bundle
from kdx.calibration.validity import doubt_said, undecided_said
from kdx.decision.roi import stale_said
from kdx.errors import BackendError, BundleError
from kdx.loading.load import detector_on, way_of
from kdx.runtime.cycle_time import hold_to, runs_needed
from kdx.runtime.detector import Detector
from kdx.verification.golden import allowed_said, compare_golden, difference_said

PERCENTILE = 95.0
_RUNS, _WARM_UP = 40, 5
_CHECKS = ("files", "golden", "latency")
_T = TypeVar("_T")


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One part of the self-test.

    Attributes:
        name: ``files``, ``golden`` or ``latency``.
        passed: Whether it passed.
        seconds: What it took.
        said: What was found, in words.
    """

    name: str
    passed: bool
    seconds: float
    said: str


class SelfTest(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a self-test.

    Attributes:
        bundle: The bundle's folder.
        backend: What ran; empty where nothing could.
        precision: In which it ran.
        checks: In the order they were made; nothing is checked behind the first that failed.
        seconds: Of all of them.
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
        backend: As for :func:`kdx.load`.
        threads: As for :func:`kdx.load`.
        precision: As for :func:`kdx.load`.
        budget_ms: Milliseconds from the array to the verdict; None measures and holds to nothing.
        percentile: At which the budget must be kept.
        runs: Calls that are timed; None for 40, or as many as the percentile needs.

    Raises:
        OptionError: A budget, percentile, backend or number of runs that cannot be.
    """
    started = time.perf_counter()
    checks: list[Check] = []
    opened = _timed(checks, "files", lambda: _open(Path(path)))
    if opened is None:
        return _result(path, "", "", checks, started)
    bundle, golden = opened
    found = _timed(checks, "golden", lambda: _judge(bundle, golden, backend, threads, precision))
    if found is None:
        return _result(path, "", "", checks, started)
    detector, used = found
    with detector:
        counted = runs or max(_RUNS, runs_needed(percentile) if 0 < percentile < 100 else 0)
        _timed(checks, "latency", lambda: _time(detector, bundle, budget_ms, percentile, counted))
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


def _open(path: Path) -> tuple[tuple[Bundle, Golden], str]:
    bundle = open_bundle(path)
    golden = bundle.golden()
    return (bundle, golden), f"{len(bundle.manifest.files)} files as they were exported"


def _judge(
    bundle: Bundle, golden: Golden, backend: str, threads: int | None, precision: str | None
) -> tuple[tuple[Detector, str], str]:
    # Found before seconds are spent on choosing a backend: calibration is of every precision.
    stale = stale_said(bundle.manifest)
    if stale:
        raise _FailedError(stale)
    info, used = way_of(bundle, backend, threads, precision)
    undecided = undecided_said(bundle.manifest, used, info.runtime)
    if undecided:
        raise _FailedError(undecided)
    detector = detector_on(bundle, info.open(bundle.graph_of(used), threads, used), used)
    try:
        compared = compare_golden(bundle, detector.backend, used, golden=golden)
    except BaseException:
        detector.close()
        raise
    said = f"{compared.images} golden images: {difference_said(compared)}"
    doubt = doubt_said(bundle.manifest, used, info.runtime)
    if doubt:
        said = f"{said}; {doubt}"
    if compared.passed:
        return (detector, used), said
    detector.close()
    raise _FailedError(f"{said}; expected {allowed_said(used)}")


def _time(
    detector: Detector, bundle: Bundle, budget_ms: float | None, percentile: float, runs: int
) -> tuple[object, str]:
    images = bundle.camera_images()
    contract = hold_to(detector, images, budget_ms=budget_ms, percentile=percentile, runs=runs, warm_up=_WARM_UP)
    said = f"p{percentile:g} {contract.measured_ms:.2f} ms, median {contract.p50_ms:.2f} ms of {contract.runs} calls"
    if budget_ms is None:
        return contract, f"{said}; no budget to hold it to"
    if not contract.is_met:
        raise _FailedError(f"{said}: over the budget of {budget_ms:g} ms")
    return contract, f"{said}: within {budget_ms:g} ms"
