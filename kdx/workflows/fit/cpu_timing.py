"""Latency of a bundle by every CPU backend and precision, from the uint8 array to the verdict."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from kdx.bundle.bundle import Bundle
from kdx.errors import BackendError
from kdx.loading.bundle_detector import detector_of, detector_on
from kdx.runtime.backend_table import find_backend
from kdx.runtime.cycle_time import CycleTime, measure_cycle_time, runs_needed
from kdx.runtime.detector import Detector
from kdx.verification.backend_choice import BackendChooser, backend_precision_pairs
from kdx.workflows.fit.trial_records import Timing

# A first look: enough calls for a median, so that what takes several times the budget costs seconds
# and not minutes.
_LOOK_RUNS, _LOOK_WARM_UP = 10, 5
# No noise of a machine doubles a median.
HOPELESS = 2.0
# A percentile of few calls varies. What is over the budget in every one of these rounds is so by
# more than noise, and where even the lower percentile is, the wanted one is all the more.
_ROUNDS = 3
_ROUND_RUNS = 100
SCREENING_PERCENTILE = 99.0
# Of two backends whose medians are further apart than this, no percentile is going to prefer the
# slower.
_NEAR = 1.5
# As kdx bench measures, unless that takes longer than this for one backend.
_FINAL_RUNS = 1000
_FINAL_MS = 30_000.0


def cpu_backend_precision_pairs(bundle: Bundle, precisions: list[str]) -> list[tuple[str, str]]:
    """Return the pairs of CPU backend and precision that can decide on this machine."""
    decides = bundle.manifest.decides_alike
    return [
        (info.name, precision)
        for info, precision in backend_precision_pairs(bundle)
        if not info.needs_gpu and precision in precisions and decides(precision, info.runtime)
    ]


def screen_backend(
    bundle: Bundle,
    pair: tuple[str, str],
    images: NDArray[np.uint8],
    *,
    budget_ms: float,
    percentile: float,
    threads: int,
) -> Timing:
    """Time a backend and precision just long enough to tell whether it may keep the budget.

    Args:
        bundle: Trained or not: latency does not depend on weights.
        pair: The backend and the precision.
        images: uint8 ``(K, H, W, C)``.
        budget_ms: Milliseconds.
        percentile: The percentile at which the budget must be kept.
        threads: Threads of the backend.

    Returns:
        The best of up to three rounds; the first that keeps the budget ends it.
    """
    lower = min(percentile, SCREENING_PERCENTILE)
    try:
        # Not compared with golden images: an untrained bundle has none.
        backend = find_backend(pair[0]).open(bundle.graph_of(pair[1]), threads, pair[1])
        with detector_on(bundle, backend, pair[1]) as detector:
            look = _look(detector, images, budget_ms)
            if look.p50_ms > HOPELESS * budget_ms:
                return _timing(look, pair)
            rounds: list[CycleTime] = []
            while len(rounds) < _ROUNDS and not any(one.is_met for one in rounds):
                runs = max(_ROUND_RUNS, runs_needed(lower))
                rounds.append(
                    measure_cycle_time(
                        detector, images, budget_ms=budget_ms, percentile=lower, runs=runs, warm_up=_LOOK_WARM_UP
                    )
                )
            return _timing(min(rounds, key=lambda one: one.measured_ms), pair)
    except BackendError as error:
        return Timing(backend=pair[0], precision=pair[1], error=error.message)


def time_precision(
    bundle: Bundle,
    precision: str,
    images: NDArray[np.uint8],
    *,
    budget_ms: float,
    percentile: float,
    threads: int,
) -> list[Timing]:
    """Measure a precision of a finished bundle in every backend; see :func:`screen_backend`.

    Returns:
        The wanted percentile of the fastest backend that gives one, and of every other whose median
        comes near it; of the others the median alone.
    """
    looks: list[Timing] = []
    for pair in cpu_backend_precision_pairs(bundle, [precision]):
        try:
            with detector_of(bundle, pair[0], threads, precision) as detector:
                looks.append(_timing(_look(detector, images, budget_ms), pair))
        except BackendError as error:
            looks.append(Timing(backend=pair[0], precision=precision, error=error.message))
    limit = math.inf
    measured = []
    for look in sorted(looks, key=lambda look: look.p50_ms or 0.0):
        if look.p50_ms is None or look.p50_ms > limit:
            measured.append(look)
            continue
        try:
            with detector_of(bundle, look.backend, threads, precision) as detector:
                measured.append(_final(detector, (look.backend, precision), images, budget_ms, percentile, look.p50_ms))
        except BackendError as error:
            measured.append(Timing(backend=look.backend, precision=precision, error=error.message))
        else:
            limit = min(limit, _NEAR * look.p50_ms)
    return measured


def time_as_loaded(
    bundle: Bundle, images: NDArray[np.uint8], *, budget_ms: float, percentile: float, threads: int
) -> Timing:
    """Measure a bundle as ``kdx.load`` opens it, with the backend and precision that it chooses."""
    choice = BackendChooser(bundle, threads=threads).fastest()
    with detector_of(bundle, choice.backend, threads, choice.precision) as detector:
        p50_ms = _look(detector, images, budget_ms).p50_ms
        return _final(detector, (choice.backend, choice.precision), images, budget_ms, percentile, p50_ms)


def _look(detector: Detector, images: NDArray[np.uint8], budget_ms: float) -> CycleTime:
    return measure_cycle_time(
        detector, images, budget_ms=budget_ms, percentile=50, runs=_LOOK_RUNS, warm_up=_LOOK_WARM_UP
    )


def _final(
    detector: Detector,
    pair: tuple[str, str],
    images: NDArray[np.uint8],
    budget_ms: float,
    percentile: float,
    p50_ms: float,
) -> Timing:
    affordable = int(_FINAL_MS / max(p50_ms, 1e-3))
    runs = max(runs_needed(percentile), _ROUND_RUNS, min(_FINAL_RUNS, affordable))
    return _timing(measure_cycle_time(detector, images, budget_ms=budget_ms, percentile=percentile, runs=runs), pair)


def _timing(cycle_time: CycleTime, pair: tuple[str, str]) -> Timing:
    return Timing(
        backend=pair[0],
        precision=pair[1],
        percentile=cycle_time.percentile,
        measured_ms=cycle_time.measured_ms,
        p50_ms=cycle_time.p50_ms,
        max_ms=cycle_time.max_ms,
        runs=cycle_time.runs,
    )
