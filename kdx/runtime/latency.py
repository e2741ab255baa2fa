"""Compares the latencies of backends: in one process, alternately, by medians."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from kdx.errors import BackendError, OptionError
from kdx.progress import SILENT, Progress
from kdx.runtime.backend import Backend, largest_batch

# The number of uncounted calls of each candidate when its turn comes: the other's threads may still
# spin, and caches are cold. Rounds alternate the candidates, so that a drift of the machine's speed
# affects all of them.
_SETTLE = 3
_ROUNDS = 10
_LEAST_FOR_P99 = 100


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """The latency of a candidate at one batch size: per call, from the array to map and score.

    Attributes:
        name: The backend's name.
        precision: The precision of the graph that it ran.
        batch: The number of images per call.
        runs: The number of calls that were counted.
        warm_up: The number of calls before these.
        p50_ms: The median in milliseconds.
        p95_ms: The 95th percentile in milliseconds.
        p99_ms: The 99th percentile in milliseconds.
        max_ms: The slowest call in milliseconds.
        images_per_second: The batch size divided by the median.
        speed_up: The baseline's median divided by this median; None without a baseline.
    """

    name: str
    precision: str = "fp32"
    batch: int
    runs: int
    warm_up: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    images_per_second: float
    speed_up: float | None = None


def time_backends(
    candidates: Sequence[Backend],
    images: NDArray[np.uint8],
    *,
    precisions: Sequence[str] | None = None,
    batches: Sequence[int] = (1, 8),
    runs: int = 200,
    warm_up: int = 20,
    progress: Progress = SILENT,
    failed: Callable[[Backend, str, int, BackendError], None] | None = None,
) -> list[Latency]:
    """Measure the latencies of candidates on real images.

    A candidate named "eager baseline" is the baseline of the ratios.

    Args:
        candidates: Loaded backends.
        images: uint8 ``(K, H, W, C)``; batches cycle through them.
        precisions: The precision of each candidate's graph, for the record; None for FP32.
        batches: The batch sizes. A candidate is measured at those that it takes: an engine may have
            been built for smaller ones. The others have no latency.
        runs: The number of counted calls of each candidate at batch 1; larger batches need fewer,
            at least 100.
        warm_up: The number of uncounted calls of each candidate at the beginning.
        progress: Shows the calls.
        failed: Takes a candidate, its precision and a batch size at which its first calls fail, and
            the error. That pair has no latency then. None: the error is raised.

    Raises:
        OptionError: Fewer than 20 runs.
        BackendError: A candidate fails, for example because the memory of a GPU is full.
    """
    if runs < 20:
        raise OptionError("too few runs for a percentile", expected="at least 20", received=str(runs))
    results: list[Latency] = []
    pairs = list(zip(candidates, precisions or ["fp32"] * len(candidates), strict=True))
    for batch in batches:
        takers = [(each, precision) for each, precision in pairs if largest_batch(each, batch) == batch]
        if not takers:
            continue
        counted = max(min(runs, _LEAST_FOR_P99), runs // batch)
        data = [
            np.ascontiguousarray(images[[i % len(images) for i in range(start, start + batch)]])
            for start in range(max(len(images), 1))
        ]
        ready: list[tuple[Backend, str]] = []
        total = len(takers) * (warm_up + counted)
        with progress.task(f"timing batch {batch}", total) as task:
            for candidate, precision in takers:
                try:
                    for i in range(warm_up if failed is None else max(warm_up, 1)):
                        candidate.run(data[i % len(data)])
                except BackendError as error:
                    if failed is None:
                        raise
                    failed(candidate, precision, batch, error)
                    task.advance(warm_up + counted)
                    continue
                ready.append((candidate, precision))
                task.advance(warm_up)
            times: list[list[float]] = [[] for _ in ready]
            while times and len(times[-1]) < counted:
                for (candidate, _), measured in zip(ready, times, strict=True):
                    share = min(-(-counted // _ROUNDS), counted - len(measured))
                    measured += _time(candidate, data, share)
                    task.advance(share, candidate.name)
        results += _summaries(ready, times, batch, warm_up)
    return results


def _time(candidate: Backend, data: list[NDArray[np.uint8]], runs: int) -> list[float]:
    for i in range(_SETTLE):
        candidate.run(data[i % len(data)])
    measured = []
    for i in range(runs):
        images = data[i % len(data)]
        started = time.perf_counter()
        candidate.run(images)
        measured.append((time.perf_counter() - started) * 1e3)
    return measured


def _summaries(
    candidates: Sequence[tuple[Backend, str]], times: list[list[float]], batch: int, warm_up: int
) -> list[Latency]:
    medians = [float(np.median(measured)) for measured in times]
    baseline = next((m for (c, _), m in zip(candidates, medians, strict=True) if c.name == "eager baseline"), None)
    return [
        Latency(
            name=candidate.name,
            batch=batch,
            runs=len(measured),
            warm_up=warm_up,
            precision=precision,
            p50_ms=round(median, 3),
            p95_ms=round(float(np.percentile(measured, 95)), 3),
            p99_ms=round(float(np.percentile(measured, 99)), 3),
            max_ms=round(max(measured), 3),
            images_per_second=round(batch / median * 1e3, 1),
            speed_up=None if baseline is None else round(baseline / median, 2),
        )
        for (candidate, precision), measured, median in zip(candidates, times, medians, strict=True)
    ]
