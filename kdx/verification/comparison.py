"""Compares what a backend answers for golden images with the reference's answers."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from kdx.bundle.bundle import Golden
from kdx.decision.post_processing import PostProcessing
from kdx.decision.verdict import decide
from kdx.errors import BackendError
from kdx.runtime.backend import Backend, Outputs
from kdx.verification.tolerances import TOLERANCES, Tolerances


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One backend at one batch size against the reference.

    Attributes:
        backend: The backend's name.
        precision: The precision of the graph.
        batch: Images that went through the graph at once.
        images: Number of golden images.
        score_max: Largest score difference, relative as in the tolerances.
        map_max: Largest map difference, relative to the reference map's range.
        map_p99: The 99th percentile of the map differences.
        map_sqnr_db: Signal to quantisation-noise ratio of the maps, in decibels.
        not_finite: Number of values that are not finite.
        flips: Golden images whose decision differs at the threshold, ties excluded; None without a
            threshold for them.
        error: Why the backend could not be compared, or an empty string.
        passed: Whether all differences are within the tolerances.
    """

    backend: str
    precision: str = "fp32"
    batch: int
    images: int
    score_max: float = 0.0
    map_max: float = 0.0
    map_p99: float = 0.0
    map_sqnr_db: float | None = None
    not_finite: int = 0
    flips: int | None = None
    error: str = ""
    passed: bool = False


def compare_batch(
    backend: Backend,
    golden: Golden,
    batch: int,
    thresholds: tuple[float, float] | None,
    precision: str = "fp32",
    post_processing: PostProcessing | None = None,
    tolerances: Tolerances | None = None,
) -> Comparison:
    """Run the golden images in batches of one size and compare the outputs with the reference's.

    Scores and maps are those of the graph; decisions are those after post-processing.

    Args:
        backend: Runs the graph.
        golden: Golden images with the reference's outputs.
        batch: The batch size.
        thresholds: The reference's and the backend's own; None compares no decisions.
        precision: The precision of the graph.
        post_processing: Level map and region of interest, or None.
        tolerances: How far the backend may be from the reference; None for those of the precision
            that are compared with FP32.

    Raises:
        BackendError: The backend failed, or its answers have another size than the reference's.
    """
    outputs = _run(backend, golden.images, batch)
    if (outputs.maps.shape, outputs.scores.shape) != (golden.maps.shape, golden.scores.shape):
        raise BackendError(
            f"the graph does not fit its bundle: {backend.name} returns maps of another size than the reference's",
            expected=f"maps {golden.maps.shape}, scores {golden.scores.shape}",
            received=f"maps {outputs.maps.shape}, scores {outputs.scores.shape}",
            fix="export the bundle again",
        )
    not_finite = int((~np.isfinite(outputs.maps)).sum() + (~np.isfinite(outputs.scores)).sum())
    facts = Comparison(backend=backend.name, precision=precision, batch=batch, images=len(golden.images))
    if not_finite:
        return msgspec.structs.replace(facts, not_finite=not_finite, error="values that are not finite")
    tolerances = tolerances or TOLERANCES[precision]
    relative = map_differences(golden.maps, outputs.maps)
    scale = np.maximum(np.abs(golden.scores), np.median(np.abs(golden.scores))).clip(1e-30)
    score_max, map_max = float((np.abs(outputs.scores - golden.scores) / scale).max()), float(relative.max())
    map_sqnr_db = _sqnr_db(golden.maps, outputs.maps)
    flips = None
    if thresholds is not None:
        flips = _count_flips(golden, outputs, thresholds, tolerances.tie, post_processing or PostProcessing())
    return msgspec.structs.replace(
        facts,
        score_max=score_max,
        map_max=map_max,
        map_p99=float(np.quantile(relative, 0.99)),
        map_sqnr_db=map_sqnr_db,
        flips=flips,
        passed=score_max <= tolerances.score and map_max <= tolerances.map and not flips,
    )


def map_differences(reference: NDArray[np.float32], maps: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return how far maps ``(K, h, w)`` are from the reference's, relative to each one's range.

    Where the median range of all maps is larger, it is used: the maps of very good images are
    nearly flat.
    """
    exact = reference.astype(np.float64)
    extent = np.ptp(exact, axis=(1, 2), keepdims=True)
    scale = np.maximum(extent, np.median(extent)).clip(np.finfo(np.float32).tiny)
    relative: NDArray[np.float64] = np.abs(maps - exact) / scale
    return relative


def describe_difference(compared: Comparison) -> str:
    """Describe how far a backend is from the reference."""
    if compared.error:
        return compared.error
    flips = "no verdicts compared" if compared.flips is None else f"{compared.flips} verdicts flipped"
    return f"scores off by {compared.score_max:.2g}, maps off by {compared.map_max:.2g}, {flips}"


def describe_tolerances(allowed: Tolerances) -> str:
    """Describe how far a backend may be from the reference, relatively."""
    return f"scores within {allowed.score:g}, maps within {allowed.map:g}, no verdict flipped"


def _run(backend: Backend, images: NDArray[np.uint8], size: int) -> Outputs:
    """Run images in batches of one size, repeating the first ones to fill the last batch."""
    count = len(images)
    maps, scores = [], []
    for start in range(0, count, size):
        batch = images[[index % count for index in range(start, start + size)]]
        outputs = backend.run(np.ascontiguousarray(batch))
        maps.append(outputs.maps)
        scores.append(outputs.scores)
    return Outputs(np.concatenate(maps)[:count], np.concatenate(scores)[:count])


def _count_flips(
    golden: Golden, outputs: Outputs, thresholds: tuple[float, float], tie: float, post_processing: PostProcessing
) -> int:
    """Count the golden images that the backend decides differently, except those that are ties."""
    threshold, own = thresholds
    theirs = post_processing.apply(golden.maps, golden.scores)[1][:, 0].tolist()
    ours = post_processing.apply(outputs.maps, outputs.scores)[1][:, 0].tolist()
    return sum(
        decide(score, own) is not decide(reference, threshold)
        for score, reference in zip(ours, theirs, strict=True)
        if abs(reference - threshold) > tie * abs(threshold)
    )


def _sqnr_db(reference: NDArray[np.float32], maps: NDArray[np.float32]) -> float | None:
    exact = reference.astype(np.float64)
    noise = float(np.square(maps - exact).sum())
    return None if noise == 0 else round(10 * float(np.log10(np.square(exact).sum() / noise)), 2)
