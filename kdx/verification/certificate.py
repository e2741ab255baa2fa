"""The certificate: does what is deployed decide what was trained? No torch here.

Every backend is held against the FP32 reference (eager PyTorch, stored with the golden images at export) on real
images: per output and per decision, at batch 1 and at another batch size.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from kdx.bundle.bundle import Bundle, Golden
from kdx.bundle.engine_record import engines_of
from kdx.bundle.manifest import Manifest
from kdx.bundle.variants import Judged
from kdx.decision.level_map import Behind, golden_behind
from kdx.decision.verdict import decide
from kdx.errors import BackendError
from kdx.runtime.backend import Backend, BackendInfo, Outputs
from kdx.verification.judge import LIMITS, map_differences


class Tolerances(msgspec.Struct, frozen=True):
    """How far a backend may be from the reference.

    Attributes:
        score: Largest difference of a score, relative to it or, where that is larger, to the median of all: scores of
            very good images are far from any decision.
        map: Largest difference of a map's value, relative to the range of that image's reference map or,
            likewise, to the median of all.
        tie: So near to the threshold, relatively, a reference score is no decision that a backend could lose.
    """

    score: float
    map: float
    tie: float


# Two FP32 runtimes sum the same products in different orders. Over the depth of these networks that came to at most a
# few 1e-6; the bound leaves room for other machines and stays far below what moves a verdict. The threshold is the very
# score of one held-out image, which may be a golden one: FP32 runtimes round that to either side.
FP32 = Tolerances(score=1e-4, map=1e-4, tie=1e-5)

# FP16 rounds every value by up to 5e-4, and a distance is what is left of two features that nearly agree. On 40
# magnetic tiles, trained stpm, dual, dual-det and mixed-teacher on tf_efficientnet_lite0: scores moved by up to 3.9 %
# (median 0.2 to 1 %), maps by up to 6 % of their range, the order of the scores hardly (rank correlation 0.9994 and
# more), with every activation rounded as with weights alone. Nearly all of it is that teacher's: depthwise convolutions
# whose large weights cancel (up to 17.7). Students alone move scores by 0.4 % at most.
FP16 = Tolerances(score=6e-2, map=1.2e-1, tie=2e-2)

# The gate's limits, see kdx/verification/judge.py; there the order of the scores, or the decision, counts beside them.
BF16, INT8 = (Tolerances(score=each.score, map=each.map, tie=each.margin) for each in (LIMITS["bf16"], LIMITS["int8"]))

TOLERANCES = {"fp32": FP32, "fp16": FP16, "bf16": BF16, "int8": INT8}


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One backend at one batch size against the reference.

    Attributes:
        backend: Its name.
        precision: Of the graph.
        batch: Images that went through at once.
        images: Golden images compared.
        score_max: Largest score difference, relative as in the tolerances.
        map_max: Largest map difference, relative to the reference map's range.
        map_p99: The 99th percentile of the same.
        map_sqnr_db: Signal to quantisation-noise ratio of the maps, in decibels.
        not_finite: Values that are not finite.
        flips: Golden images whose decision differs at the threshold, ties apart; None without a threshold.
        error: Why the backend could not be compared, or empty.
        passed: Whether all of it is within the tolerances.
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


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a verification.

    Attributes:
        bundle: The bundle's folder name.
        graph_sha256: Hash of each graph, by precision.
        threshold: The threshold at which decisions were compared, or None.
        tolerances: What was allowed, by precision.
        comparisons: One for each backend, precision and batch size.
        judged: What BF16 and INT8 were written on: what their gate found at export, and what it bounds.
        passed: Whether every comparison passed, and there was one.
    """

    bundle: str
    graph_sha256: dict[str, str]
    threshold: float | None
    tolerances: dict[str, Tolerances]
    comparisons: list[Comparison]
    judged: dict[str, list[Judged]] = {}
    passed: bool


def verify(
    bundle: Bundle,
    backends: Sequence[BackendInfo],
    *,
    threads: int | None = None,
    precisions: Sequence[str] | None = None,
) -> Certificate:
    """Hold each backend against the bundle's reference, in every precision that both have or in those named."""
    golden, behind = bundle.golden(), golden_behind(bundle)
    wanted = list(precisions or bundle.manifest.precisions)
    comparisons: list[Comparison] = []
    for info, precision in _opened(bundle, backends, wanted):
        try:
            with info.open(bundle.graph_of(precision), threads, precision) as backend:
                thresholds = thresholds_of(bundle.manifest, precision, info.runtime)
                most = bundle.manifest.max_batch
                comparisons += compare_backend(backend, golden, most, thresholds, precision, behind)
        except BackendError as error:
            comparisons.append(
                Comparison(backend=info.name, precision=precision, batch=1, images=0, error=_reason(error))
            )
    threshold = bundle.manifest.threshold_of("fp32")
    return Certificate(
        bundle=bundle.path.name,
        graph_sha256={precision: bundle.graph_of(precision).sha256 for precision in wanted},
        threshold=threshold.score if threshold else None,
        tolerances={precision: TOLERANCES[precision] for precision in wanted},
        comparisons=comparisons,
        judged={name: each.judged for name, each in bundle.manifest.variants.items() if name in wanted and each.judged},
        passed=bool(comparisons) and all(comparison.passed for comparison in comparisons),
    )


def without(certificate: Certificate, precisions: Collection[str]) -> Certificate:
    """Return what a certificate says of all other precisions."""
    comparisons = [each for each in certificate.comparisons if each.precision not in precisions]
    return msgspec.structs.replace(
        certificate,
        graph_sha256={name: each for name, each in certificate.graph_sha256.items() if name not in precisions},
        tolerances={name: each for name, each in certificate.tolerances.items() if name not in precisions},
        comparisons=comparisons,
        judged={name: each for name, each in certificate.judged.items() if name not in precisions},
        passed=bool(comparisons) and all(each.passed for each in comparisons),
    )


def thresholds_of(manifest: Manifest, precision: str, runtime: str) -> tuple[float, float] | None:
    """Return FP32's threshold and the one at which a precision is decided in a runtime; None unless there are both.

    None as well where golden images are tiles and there is a level map, which is of frames: its scores are no tile's.
    """
    if manifest.tiling is not None and manifest.level_sha256 is not None:
        return None
    exact, own = manifest.threshold_of("fp32"), manifest.threshold_of(precision, runtime)
    return (exact.score, own.score) if exact and own else None


def _reason(error: BackendError) -> str:
    return "; ".join(part for part in (error.message, error.received, error.fix) if part)


def _opened(
    bundle: Bundle, backends: Sequence[BackendInfo], precisions: Sequence[str]
) -> Iterator[tuple[BackendInfo, str]]:
    """Yield each backend with each precision; one that runs engines, with those that the bundle holds engines for."""
    for info in backends:
        built = {e.record.precision for e in engines_of(bundle.path) if e.record.fingerprint.flavour == info.engine}
        for precision in precisions:
            if info.offers(precision) and (not info.engine or precision in built or not built):
                yield info, precision


def compare_backend(
    backend: Backend,
    golden: Golden,
    max_batch: int,
    thresholds: tuple[float, float] | None,
    precision: str = "fp32",
    behind: Behind | None = None,
) -> list[Comparison]:
    """Run the golden images one by one and, where the graph allows it, several at once; compare each time.

    Scores and maps are the graph's; decisions are those behind it: of the level map and the region of interest,
    where there are any.
    """
    sizes = [1]
    if max_batch > 1:
        # Repeating images fills the batch where there are few; an uneven number meets no alignment by chance.
        sizes.append(min(max_batch, max(3, min(len(golden.images), 7))))
    return [compare_at(backend, golden, size, thresholds, precision, behind) for size in sizes]


def compare_at(
    backend: Backend,
    golden: Golden,
    size: int,
    thresholds: tuple[float, float] | None,
    precision: str = "fp32",
    behind: Behind | None = None,
) -> Comparison:
    """Compare as :func:`compare_backend` does, at one batch size."""
    tolerances = TOLERANCES[precision]
    outputs = _run(backend, golden.images, size)
    finite = np.isfinite(outputs.maps).all(axis=(1, 2)) & np.isfinite(outputs.scores[:, 0])
    not_finite = int((~np.isfinite(outputs.maps)).sum() + (~np.isfinite(outputs.scores)).sum())
    if not finite.all():
        return Comparison(
            backend=backend.name,
            precision=precision,
            batch=size,
            images=len(golden.images),
            not_finite=not_finite,
            error="values that are not finite",
        )
    relative = map_differences(golden.maps, outputs.maps)
    scale = np.maximum(np.abs(golden.scores), np.median(np.abs(golden.scores))).clip(1e-30)
    score_max = float((np.abs(outputs.scores - golden.scores) / scale).max())
    flips = None
    if thresholds is not None:
        threshold, own = thresholds
        decided = [(outputs.maps, outputs.scores), (golden.maps, golden.scores)]
        decided = [behind.apply(*each) for each in decided] if behind is not None else decided
        pairs = zip(*(scores[:, 0].tolist() for _, scores in decided), strict=True)
        flips = sum(
            decide(ours, own) is not decide(theirs, threshold)
            for ours, theirs in pairs
            if abs(theirs - threshold) > tolerances.tie * abs(threshold)
        )
    map_max = float(relative.max())
    return Comparison(
        backend=backend.name,
        precision=precision,
        batch=size,
        images=len(golden.images),
        score_max=score_max,
        map_max=map_max,
        map_p99=float(np.quantile(relative, 0.99)),
        map_sqnr_db=_sqnr_db(golden.maps, outputs.maps),
        flips=flips,
        passed=score_max <= tolerances.score and map_max <= tolerances.map and not flips,
    )


def _run(backend: Backend, images: NDArray[np.uint8], size: int) -> Outputs:
    """Run images in batches of exactly ``size``, wrapping round to fill the last one."""
    count = len(images)
    maps, scores = [], []
    for start in range(0, count, size):
        batch = images[[index % count for index in range(start, start + size)]]
        outputs = backend.run(np.ascontiguousarray(batch))
        maps.append(outputs.maps)
        scores.append(outputs.scores)
    return Outputs(np.concatenate(maps)[:count], np.concatenate(scores)[:count])


def _sqnr_db(reference: NDArray[np.float32], maps: NDArray[np.float32]) -> float | None:
    exact = reference.astype(np.float64)
    noise = float(np.square(maps - exact).sum())
    return None if noise == 0 else round(10 * float(np.log10(np.square(exact).sum() / noise)), 2)
