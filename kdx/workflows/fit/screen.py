"""The first stage: the latency of every candidate, untrained, and which may keep the budget."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from kd_export.graph import FusedDetector
from kd_export.onnx.onnx_export import export_onnx
from kd_export.precision.quantize import quantize
from kd_train.models.pair import Pair
from kd_train.recipes import Recipe
from kd_train.training.from_options import build_pair, source_of
from kdx import __version__
from kdx.bundle.bundle import Bundle
from kdx.bundle.manifest import GRAPH, SCHEMA, Manifest, Provenance
from kdx.bundle.store import write_manifest
from kdx.bundle.variants import Variant, graph_file
from kdx.errors import GateError, KdxError
from kdx.imaging.image_size import say_size
from kdx.progress import Progress
from kdx.storage.json_records import now
from kdx.workflows.fit.advice import reason_of
from kdx.workflows.fit.cpu_timing import HOPELESS, cpu_backend_precision_pairs, screen_backend
from kdx.workflows.fit.fit_folder import FitFolder
from kdx.workflows.fit.material import Material
from kdx.workflows.fit.request import FitRequest
from kdx.workflows.fit.trial_records import MethodSize, Screened, Timing

# As kdx export writes it.
_MAX_BATCH = 32


def screen(request: FitRequest, material: Material, folder: FitFolder, key: str, progress: Progress) -> list[Screened]:
    """Screen every candidate; results under the same key are not measured again.

    What missed the budget by less than the factor :data:`HOPELESS` is: a machine that was busy may
    have been the reason.

    Raises:
        KdxError: No candidate could be built, for one and the same reason: weights, backbone or
            taps.
    """
    kept = {each: one for each, one in folder.screened(key).items() if not _may_be_noise(one, request)}
    found: list[Screened] = []
    candidates = request.candidates()
    with progress.task("screening latencies", len(candidates)) as task:
        for candidate in candidates:
            one = kept.get(candidate) or _foreseen(candidate, found, request)
            if one is None:
                task.advance(0, str(candidate))
                one = _screen(candidate, request, material)
            found.append(one)
            if one.outcome != "failed":  # what failed may be fixed by now, and is tried again
                kept[candidate] = one
                folder.write_screened(key, list(kept.values()))
            task.advance()
    reasons = {one.reason for one in found}
    if all(one.outcome == "failed" for one in found) and len(reasons) == 1:
        raise _failure_of(candidates[0], request)
    return found


def screening_outcome(candidate: MethodSize, timings: list[Timing], budget_ms: float) -> Screened:
    """Return a candidate's outcome: it may keep the budget if any timing does."""
    if any(timing.measured_ms is not None and timing.measured_ms <= budget_ms for timing in timings):
        return Screened(candidate=candidate, outcome="may keep", timings=timings)
    errors = [f"{timing.backend} {timing.precision}: {timing.error}" for timing in timings if timing.error]
    screened = Screened(candidate=candidate, outcome="misses", timings=timings)
    fastest = screened.fastest
    if fastest is None:
        return Screened(candidate=candidate, outcome="failed", timings=timings, reason="; ".join(errors))
    reason = (
        f"p{fastest.percentile:g} {fastest.measured_ms:.1f} ms in {fastest.backend}, {fastest.precision}: "
        f"over {budget_ms:g} ms in every precision"
    )
    return msgspec.structs.replace(screened, reason=reason)


def _may_be_noise(screened: Screened, request: FitRequest) -> bool:
    p50_ms = screened.fastest.p50_ms if screened.fastest else None
    return screened.outcome == "misses" and p50_ms is not None and p50_ms <= HOPELESS * request.budget_ms


def _foreseen(candidate: MethodSize, found: list[Screened], request: FitRequest) -> Screened | None:
    """Return the outcome that a smaller size implies: larger images take longer; or None."""
    for smaller in found:
        fastest = smaller.fastest
        if smaller.candidate.pair != candidate.pair or smaller.outcome != "misses" or fastest is None:
            continue
        if fastest.p50_ms is not None and fastest.p50_ms > HOPELESS * request.budget_ms:
            reason = f"not measured: {say_size(smaller.candidate.size)} takes {fastest.p50_ms:.1f} ms already"
            return Screened(candidate=candidate, outcome="skipped", reason=reason)
    return None


def _screen(candidate: MethodSize, request: FitRequest, material: Material) -> Screened:
    try:
        with tempfile.TemporaryDirectory(prefix="kdx-fit-") as temporary:
            bundle, images = _untrained(candidate, request, material, Path(temporary))
            timings = [
                screen_backend(
                    bundle,
                    pair,
                    images,
                    budget_ms=request.budget_ms,
                    percentile=request.percentile,
                    threads=request.threads,
                )
                for pair in cpu_backend_precision_pairs(bundle, list(request.precisions))
            ]
        return screening_outcome(candidate, timings, request.budget_ms)
    except OSError:  # a full disk is nobody's fault but the disk's
        raise
    except Exception as error:  # every backbone can fail in its own way; the others continue
        return Screened(candidate=candidate, outcome="failed", reason=reason_of(error))
    finally:
        gc.collect()


def _failure_of(candidate: MethodSize, request: FitRequest) -> KdxError:
    """Return the error itself that no candidate was spared, for its own words."""
    try:
        _pair(candidate, request)
    except KdxError as error:
        return error
    return GateError("no candidate could be exported and run", fix="kdx doctor says what this machine can run")


def _untrained(
    candidate: MethodSize, request: FitRequest, material: Material, root: Path
) -> tuple[Bundle, NDArray[np.uint8]]:
    """Export the pair that training would begin with, and return it as a bundle with some images.

    Only the graphs are there, and no gate was asked: an untrained student has no decisions that
    INT8 could lose.
    """
    pair, recipe = _pair(candidate, request)
    spec = material.input_of(recipe, request)
    detector = FusedDetector(pair, pair.spec, spec, recipe.size, pair.mean, pair.std, recipe.resize_to)
    export_onnx(detector, root / GRAPH, max_batch=_MAX_BATCH, metadata={})
    images = material.samples(spec)
    return write_manifest(root, _manifest(candidate, detector, _variants(root, request.precisions, images))), images


def _pair(candidate: MethodSize, request: FitRequest) -> tuple[Pair, Recipe]:
    options, recipe = request.options_of(candidate), request.recipe_of(candidate)
    source = source_of(options, recipe)
    if source is not None:  # its weights are missed now, and not after hours of other trainings
        recipe = msgspec.structs.replace(recipe, heads=source.heads)
    return build_pair(options, recipe)[0], recipe


def _variants(root: Path, precisions: tuple[str, ...], images: NDArray[np.uint8]) -> dict[str, Variant]:
    """Write the graphs of precisions that do not run the FP32 graph."""
    found = {}
    for precision in precisions:
        if precision == "fp32":
            continue
        if precision == "int8":
            try:
                onnx.save_model(quantize(onnx.load(root / GRAPH), images), str(root / graph_file(precision)))
            except GateError:
                continue  # nothing in it can be quantised
        found[precision] = Variant(file=graph_file(precision), convolutions=0, kept=[])
    return found


def _manifest(candidate: MethodSize, detector: FusedDetector, variants: Mapping[str, Variant]) -> Manifest:
    nothing = Provenance(
        created=now(), checkpoint_sha256="", epoch=0, backbone="", weights="", data_sha256="", trained_with={},
        exported_with={},
    )  # fmt: skip
    return Manifest(
        schema=SCHEMA,
        kdx_version=__version__,
        method=candidate.method,
        pair_spec={},
        input=detector.input_spec,
        map_size=detector.size,
        field_of_view=detector.field_of_view,
        max_batch=_MAX_BATCH,
        golden=[],
        files={},
        provenance=nothing,
        variants=dict(variants),
    )
