"""Latency of a bundle: of every backend, of one backend against a cycle time, or by stage."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from kdx.bundle.bundle import Bundle
from kdx.errors import BackendError, OptionError, in_one_line
from kdx.imaging.bands import require_whole_frames
from kdx.loading.bundle_detector import detector_of
from kdx.monitoring.judged_by import bundle_name
from kdx.progress import Progress
from kdx.runtime.backend import Profiled, largest_batch
from kdx.runtime.cycle_time import measure_cycle_time
from kdx.runtime.latency import time_backends
from kdx.runtime.machine import RUNTIME_PACKAGES, Machine, describe_machine, package_versions
from kdx.runtime.stages import stages_of
from kdx.runtime.tiled import for_frames
from kdx.verification.backend_choice import backend_precision_pairs
from kdx.workflows.packages import needs


class NotTimed(msgspec.Struct, frozen=True):
    """A backend at a batch size at which it has no latency, and why.

    Attributes:
        name: The backend's name.
        precision: The precision of the graph.
        batch: The batch size.
        reason: Why there is no time.
    """

    name: str
    precision: str
    batch: int
    reason: str

    def __str__(self) -> str:
        return f"{self.name}, {self.precision}, batch {self.batch}: {self.reason}"


def this_machine(threads: int) -> Machine:
    """Describe this machine and the packages that run bundles on it."""
    return describe_machine(threads, package_versions(RUNTIME_PACKAGES))


def measure_latency(
    bundle: Bundle,
    threads: int,
    *,
    baseline: Path | None,
    batches: Sequence[int],
    runs: int,
    warm_up: int,
    progress: Progress,
) -> dict[str, Any]:
    """Time every backend in every precision, in turns.

    The entry ``not_timed`` of the record names what has no time and why: a backend that does not
    open or fails at a batch size, and the sizes that an engine was not built for.

    Args:
        bundle: The bundle.
        threads: Threads of each backend.
        baseline: The run it was exported from, to time eager PyTorch too; or None.
        batches: Batch sizes.
        runs: Counted calls.
        warm_up: Uncounted calls before.
        progress: Shows the calls.

    Raises:
        OptionError: The bundle reads frames in bands; or a baseline was asked for, and it cuts
            frames into tiles.
        BackendError: No backend takes any of these batch sizes.
    """
    manifest = bundle.manifest
    candidates: list[Any] = []
    if baseline is not None:
        if manifest.tiling is not None:
            raise OptionError("the eager baseline knows no tiles", fix="leave out `baseline`")
        with needs("train,cpu", "the eager baseline"):
            from kd_train.evaluation.baseline import eager_candidates
            from kd_train.training.run_folder import Run
        candidates += eager_candidates(Run(baseline), manifest, threads=threads)
    require_whole_frames(manifest.camera, "kdx bench without --profile")
    precisions = ["fp32"] * len(candidates)
    not_timed: list[NotTimed] = []
    with ExitStack() as held:
        for info, precision in backend_precision_pairs(bundle):
            try:
                backend = held.enter_context(info.open(bundle.graph_of(precision), threads, precision))
            except BackendError as error:
                reason = in_one_line(error)
                not_timed += [NotTimed(info.name, precision, batch, reason) for batch in batches]
                continue
            candidates.append(for_frames(backend, manifest))
            precisions.append(precision)
            for batch in batches:
                if (largest := largest_batch(candidates[-1], batch)) < batch:
                    reason = f"takes batches of up to {largest}"
                    not_timed.append(NotTimed(info.name, precision, batch, reason))
        results = time_backends(
            candidates,
            bundle.camera_images(),
            precisions=precisions,
            batches=tuple(batches),
            runs=runs,
            warm_up=warm_up,
            progress=progress,
            failed=lambda candidate, precision, batch, error: not_timed.append(
                NotTimed(candidate.name, precision, batch, in_one_line(error))
            ),
        )
    if not results:
        raise BackendError(
            "no backend on this machine can be timed at these batch sizes",
            expected=f"batches of {', '.join(map(str, batches))}",
            received="; ".join(map(str, not_timed)),
            fix="leave out `batch`, or build an engine for these sizes: kdx build-engine BUNDLE --batch 1,8",
        )
    return {
        "bundle": bundle_name(bundle),
        "method": manifest.method,
        "backbone": manifest.provenance.backbone,
        "input": manifest.camera.describe(),
        "map_size": manifest.camera_map_size,
        "machine": this_machine(threads),
        "results": results,
        "not_timed": not_timed,
    }


def measure_budget(
    bundle: Bundle,
    backend: str,
    threads: int,
    *,
    budget_ms: float,
    percentile: float,
    runs: int | None,
    warm_up: int,
    progress: Progress,
) -> dict[str, Any]:
    """Compare one backend with a cycle time, from the array to the verdict.

    Raises:
        OptionError: The bundle reads frames in bands, or the budget is invalid.
    """
    require_whole_frames(bundle.manifest.camera, "kdx bench without --profile")
    images = bundle.camera_images()
    with detector_of(bundle, backend, threads) as detector:
        contract = measure_cycle_time(
            detector,
            images,
            budget_ms=budget_ms,
            percentile=percentile,
            runs=runs,
            warm_up=warm_up,
            progress=progress,
        )
    return {"bundle": bundle_name(bundle), "machine": this_machine(threads), "contract": contract}


def measure_stages(bundle: Bundle, threads: int, runs: int, warm_up: int) -> dict[str, Any]:
    """Measure where each backend spends its time with one image of the graph.

    In a bundle for large frames, that is one tile. The entry ``tiles`` of the record is the number
    of tiles of a frame, or None. The entry ``not_timed`` names the backends that do not open or
    have no profiler.

    Raises:
        OptionError: There is no run to count.
        BackendError: No backend can be profiled.
    """
    if runs < 1:
        raise OptionError("too few `runs`", expected="at least 1", received=str(runs))
    images, tiling = bundle.golden().images, bundle.manifest.tiling
    found, not_timed = [], []
    for info, precision in backend_precision_pairs(bundle):
        try:
            with info.open(bundle.graph_of(precision), threads, precision) as backend:
                if not isinstance(backend, Profiled):
                    raise BackendError("has no profiler")
                name = backend.name if precision == "fp32" else f"{backend.name} {precision}"
                found.append(stages_of(name, backend.node_times(images, runs, warm_up)))
        except BackendError as error:
            not_timed.append(NotTimed(info.name, precision, 1, in_one_line(error)))
    if not found:
        raise BackendError(
            "no backend on this machine can be profiled",
            received="; ".join(map(str, not_timed)),
            fix='install one that has a profiler: pip install "kdx[cpu]", or "kdx[openvino]"',
        )
    return {
        "bundle": bundle_name(bundle),
        "machine": this_machine(threads),
        "tiles": None if tiling is None else tiling.count,
        "stages": found,
        "not_timed": not_timed,
    }
