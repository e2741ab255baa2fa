"""Calibrating a bundle whole: FP32, and BF16 and INT8 in every runtime that is installed here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from kdx.bundle.manifest import SIGNATURE, Manifest
from kdx.bundle.open import open_bundle
from kdx.bundle.stored_threshold import Threshold
from kdx.bundle.variants import OWN_THRESHOLD
from kdx.calibration.by_hand import GivenThreshold, require_reachable
from kdx.calibration.frame_limits import known_limits
from kdx.calibration.level_fit import FittedLevel, fit_level
from kdx.calibration.rates import require_rates
from kdx.calibration.threshold import Calibration
from kdx.calibration.threshold import calibrate as calibrate_bundle
from kdx.calibration.validity import runtimes_for
from kdx.decision.level_map import store_calibration
from kdx.decision.post_processing import PostProcessing
from kdx.errors import BackendError, DataError, GateError, OptionError
from kdx.folders.chosen_by_score import chosen_remarks
from kdx.folders.data_folder import FolderOptions, require_good
from kdx.loading.bundle_detector import detector_of
from kdx.progress import SILENT, Progress
from kdx.remarks import Remark, remark
from kdx.runtime.backend_table import BACKENDS, BackendInfo, require_backends
from kdx.runtime.tiled import graph_backend
from kdx.storage.files import require_writable
from kdx.verification.comparison import compare_batch, describe_difference
from kdx.verification.judge import Decided, Evidence, judge
from kdx.verification.tolerances import LIMITS, tolerances_of
from kdx.workflows.calibration_images import without_left_out
from kdx.workflows.calibrations import Calibrations
from kdx.workflows.packages import require_reader

if TYPE_CHECKING:
    from kdx.bundle.bundle import Bundle
    from kdx.runtime.detector import Detector


@dataclass(frozen=True)
class CalibrationRequest:
    """The options of ``kdx calibrate``."""

    false_reject_rate: float = 0.01
    review_rate: float | None = None
    per_position: bool = False
    backend: str = "auto"
    threads: int | None = None
    max_bad_images: int = 0
    by_hand: GivenThreshold | None = None


def calibrate_folder(
    path: Path,
    data: Path,
    request: CalibrationRequest,
    *,
    category: str | None = None,
    options: FolderOptions | None = None,
    with_defects: Path | None = None,
    tell: Callable[[Iterable[Remark]], object] | None = None,
    progress: Progress = SILENT,
) -> Calibrations:
    """Calibrate a bundle on the good images of a folder; see :func:`calibrate_each`.

    Args:
        path: The bundle.
        data: The training data, or a folder of new good images.
        request: How.
        category: The category of a data set that has several.
        options: What the user says about the folders.
        with_defects: Defective images on which the threshold is chosen too.
        tell: As for :func:`calibrate_each`.
        progress: Shows the images.

    Raises:
        KdxError: The bundle cannot be changed, or a folder has not the images that it should.
    """
    from kd_train.datasets import open_data, open_defective

    bundle = open_bundle(path)
    require_writable(path)
    if request.per_position or bundle.manifest.level_sha256 is not None:
        require_writable(path.resolve().parent)  # a bundle with another level map replaces the whole folder
    require_reader(bundle.manifest.camera)
    folder = open_data(data, category, options, progress=progress)
    images = require_good(folder)
    defective = open_defective(with_defects, category, options, progress=progress) if with_defects else ()
    remarks = [*folder.remarks, *(chosen_remarks(with_defects, defective) if with_defects else ())]
    return calibrate_each(
        bundle, images, request, defective_images=defective, remarks=remarks, tell=tell, progress=progress
    )


def calibrate_each(
    bundle: Bundle,
    images: Sequence[Path],
    request: CalibrationRequest,
    *,
    defective_images: Sequence[Path] = (),
    remarks: Sequence[Remark] = (),
    tell: Callable[[Iterable[Remark]], object] | None = None,
    progress: Progress = SILENT,
) -> Calibrations:
    """Calibrate every precision in each runtime of this machine, and store the thresholds.

    Args:
        bundle: The bundle.
        images: Good images; those that were trained on, or that the training left out, are left
            out.
        request: How.
        defective_images: Defective images on which the threshold is chosen too; empty for none.
        remarks: What is known of the images already.
        tell: Takes these remarks, and those on images that are left out, before any image is
            scored: they may say why a calibration fails. None puts them into the result.
        progress: Shows the images.

    Raises:
        OptionError: A rate is out of range, or a threshold by hand is on another scale than the
            scores that the bundle gives now.
        DataError: Too few images.
        BackendError: A backend fails.
    """
    require_rates(request.false_reject_rate, request.review_rate, with_defects=bool(defective_images))
    if request.by_hand is not None:
        require_reachable(request.by_hand, bundle.manifest, per_position=request.per_position)
        _require_same_scale(bundle, per_position=request.per_position)
    images, left_out = without_left_out(bundle, images)
    early = [*remarks, *left_out]
    if tell is not None:
        tell(early)
        early = []
    fitted: FittedLevel | None = None

    def calibrated(detector: Detector, precision: str, exact: NDArray[np.float64] | None = None) -> Calibration:
        detector.level = fitted.level if fitted else None
        return calibrate_bundle(
            bundle,
            detector,
            images,
            request.false_reject_rate,
            precision=precision,
            review_rate=request.review_rate,
            defective_images=defective_images,
            by_hand=request.by_hand,
            exact=exact,
            level=fitted.record if fitted else None,
            fitted=fitted.images if fitted else (),
            max_bad_images=request.max_bad_images,
            progress=progress,
        )

    # Verdicts at the old thresholds do not matter any more; scores and maps must be the
    # reference's.
    bare = bundle.uncalibrated()
    limits = known_limits(bundle, images, progress)
    bare = replace(bare, manifest=msgspec.structs.replace(bare.manifest, frame_limits=limits))
    with detector_of(bare, request.backend, request.threads, "fp32") as detector:
        if request.per_position:
            rate = None if defective_images or request.by_hand else request.false_reject_rate
            fitted = fit_level(bundle, detector, images, rate, max_bad_images=request.max_bad_images, progress=progress)
        found = Calibrations(calibrated(detector, "fp32"))
    for precision, info in _backends_with_own_threshold(bundle):
        try:
            with detector_of(bare, info.name, request.threads, precision) as detector:
                own = calibrated(detector, precision, found.exact.scores)
                fault = _fault(bundle, detector, precision, found.exact, own)
        except (BackendError, DataError, GateError, OptionError) as error:
            # FP32 took the same images and options: it concerns this precision alone.
            fault = f"{error.message}: {error.received}" if error.received else error.message
        if fault:
            found.refused.setdefault(precision, {})[info.runtime] = fault
        else:
            found.own.setdefault(precision, {})[info.runtime] = own
    _add_others(bundle, found)
    level = fitted.level if fitted else None
    found.remarks += [*early, *found.exact.remarks, *_not_compared(bundle.manifest, found)]
    found.removed = _removed(bundle.manifest.threshold, found.exact.threshold)
    found.signature_removed = (bundle.path / SIGNATURE).is_file()
    exact = found.exact
    store_calibration(bundle, exact.threshold, found.thresholds(), level, exact.frame_limits, exact.chosen_by)
    return found


def _not_compared(manifest: Manifest, found: Calibrations) -> list[Remark]:
    """Return a remark on runtimes in which no gate has compared INT8 students with FP32.

    Their golden answers were compared, which are those of the students themselves.
    """
    remarks = []
    for precision, own in found.own.items():
        if manifest.is_own_reference(precision):
            judged = [each.runtime for each in manifest.variants[precision].judged]
            where = f"in {' and '.join(judged)} only" if judged else "in no runtime"
            text = (
                f"[runtime has|runtimes have] a threshold of {precision} students whose decisions the export compared "
                f"with those of FP32 {where}; to compare them here: kdx evaluate BUNDLE DATA --precision {precision}"
            )
            compared = {BACKENDS[name].runtime for name in judged if name in BACKENDS}
            remarks += remark("not_compared_with_fp32", text, [runtime for runtime in own if runtime not in compared])
    return remarks


def _removed(before: Threshold | None, after: Threshold) -> list[str]:
    """Return what a threshold had beside its score, and the one in its place has not."""
    had = {} if before is None else {"review_band": before.review, "level_map": before.level}
    has = {"review_band": after.review, "level_map": after.level}
    return [name for name in has if had.get(name) is not None and has[name] is None]


def _backends_with_own_threshold(bundle: Bundle) -> Iterator[tuple[str, BackendInfo]]:
    """Yield each precision with thresholds of its own, and one backend of each runtime for it."""
    for precision in sorted(OWN_THRESHOLD.intersection(bundle.manifest.variants)):
        runtimes: set[str] = set()
        for info in require_backends(bundle.path):
            if info.offers(precision, bundle.graph_of(precision)) and info.runtime not in runtimes:
                runtimes.add(info.runtime)
                yield precision, info


def _add_others(bundle: Bundle, found: Calibrations) -> None:
    """Say what becomes of the thresholds of runtimes that are not here."""
    for precision in sorted(OWN_THRESHOLD.intersection(bundle.manifest.variants)):
        stored = bundle.manifest.own_thresholds(precision) if bundle.manifest.is_runtime_known(precision) else {}
        for runtime in dict.fromkeys((*runtimes_for(precision, bundle.graph_of(precision)), *stored)):
            if runtime in found.own.get(precision, {}) or runtime in found.refused.get(precision, {}):
                continue
            threshold = stored.get(runtime)
            if threshold is not None and _is_of_same_images(threshold, found.exact.threshold):
                found.kept.setdefault(precision, {})[runtime] = threshold
            else:
                found.missing.setdefault(precision, []).append(runtime)


def _is_of_same_images(one: Threshold, other: Threshold) -> bool:
    """Whether two thresholds have the same rates or numbers, images, region and level map."""
    first, second = (
        (
            each.data_sha256,
            *_asked_for(each),
            each.roi_sha256,
            each.level,
        )
        for each in (one, other)
    )
    return first == second


def _asked_for(threshold: Threshold) -> tuple[object, ...]:
    """Return what chose a threshold and its review band, the same in every precision."""
    if threshold.by_hand is not UNSET:
        return threshold.by_hand.score, threshold.by_hand.review_score, threshold.by_hand.reason
    chosen = threshold.defects.data_sha256 if threshold.defects else threshold.false_reject_rate
    return chosen, threshold.review.false_reject_rate if threshold.review else None


def _require_same_scale(bundle: Bundle, *, per_position: bool) -> None:
    """Refuse a threshold by hand where normalisation per position would begin or end with it.

    Whoever sets it has seen scores of the bundle as it is, and both scales differ by orders of
    magnitude.
    """
    stored = bundle.manifest.threshold
    if stored is None or (stored.level is not None) == per_position:
        return
    now = "" if per_position else " not"
    raise OptionError(
        "the threshold would be on another scale than the scores that the bundle gives now",
        expected=f"{'no ' if per_position else ''}`per_position`, as in the calibration of the bundle",
        received=f"a threshold by hand that is{now} normalised per position",
        fix="calibrate by `false_reject_rate` first, and choose the number from scores of that calibration",
    )


def _fault(bundle: Bundle, detector: Detector, precision: str, exact: Calibration, own: Calibration) -> str:
    """Say why a precision, with its new threshold, does not decide as it should; empty if it does.

    It should decide as FP32 does: of the golden images and the held-out good ones, none may change
    sides beyond the margin. INT8 students should decide the golden images as their own reference
    does; their export has compared their decisions with those of FP32.
    """
    # Level and region are of frames; the golden images of a bundle for large ones are tiles.
    golden, is_tiled = bundle.golden(precision), bundle.manifest.tiling is not None
    processing = PostProcessing() if is_tiled else PostProcessing(detector.level, detector.roi)
    graph = graph_backend(detector.backend)
    if bundle.manifest.is_own_reference(precision):
        decided = None if is_tiled and detector.level else (own.threshold.score, own.threshold.score)
        allowed = tolerances_of(bundle.manifest, precision)
        compared = compare_batch(graph, golden, 1, decided, precision, processing, allowed)
        return "" if compared.passed else describe_difference(compared)
    answers = [graph.run(image[None]) for image in golden.images]
    found = np.concatenate([each.maps for each in answers]), np.concatenate([each.scores for each in answers])
    found, expected = processing.apply(*found), processing.apply(golden.maps, golden.scores)
    scores, reference = (each[:, 0].astype(float) for _, each in (found, expected))
    thresholds = exact.threshold.score, own.threshold.score
    evidence = Evidence(golden.images, thresholds=None if is_tiled and detector.level else thresholds)
    held_out = Decided(thresholds, exact.scores, own.scores)
    judgement = judge(detector.backend.name, LIMITS[precision], evidence, (reference, scores), decided=held_out)
    return "; ".join(judgement.faults)
