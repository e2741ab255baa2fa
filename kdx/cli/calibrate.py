"""``kdx calibrate``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.markup import escape

from kdx.cli.common import (
    JSON_OPTION,
    MAX_BAD_OPTION,
    THREADS_OPTION,
    command,
    number,
    out,
    print_json,
    progress_for,
    report_bad,
)
from kdx.progress import SILENT, Progress

if TYPE_CHECKING:
    from kd_train.calibrate import Calibration
    from kdx.bundle import Bundle
    from kdx.runtime.detector import Detector


@command
def calibrate(
    bundle: Path = typer.Argument(help="Bundle to calibrate."),
    data: Path = typer.Argument(
        help="The training data (its held-out good images are used) or a folder of new good images."
    ),
    category: str | None = typer.Option(None, help="Category of a data set that has several."),
    false_reject_rate: float | None = typer.Option(
        None, help="Share of good parts that may be rejected. Default: 0.01."
    ),
    review_rate: float | None = typer.Option(
        None, help="Share of good parts that may be rejected or put aside for review. Default: no review band."
    ),
    with_defects: Path | None = typer.Option(
        None,
        help="Choose the threshold on defective images too: the smallest sum of miss and false-reject rate on these. "
        "test/DEFECT_TYPE of a data set, or a folder of defective images.",
    ),
    per_position: bool = typer.Option(
        False,
        "--per-position",
        help="For parts that always lie at the same place: divide maps by how hot good parts get there. Half of the "
        "good images fit that, the other half chooses the threshold.",
    ),
    backend: str = typer.Option("auto", help="Backend whose scores are used."),
    threads: int | None = THREADS_OPTION,
    max_bad_images: int = MAX_BAD_OPTION,
    json: bool = JSON_OPTION,
) -> None:
    """Choose the threshold from good images that the student has not seen, through the exported graph.

    Images that were trained on are recognised by their content and passed over. The threshold is stored in the bundle
    with its 95 % confidence interval; the graph is not touched, so it can be done again at any time. BF16 and INT8 get
    thresholds of their own, if they then decide the golden images as FP32 does; else they get none, are not chosen
    automatically, and the exit status is 1. A signature is taken away: it was for another threshold.

    With --review-rate 0.05, parts between two thresholds are neither good nor defective but "review": somebody looks.

    Defects choose no threshold unless --with-defects asks for it: it then fits these defects, and promises nothing for
    others. Measure it on images that had no part in it.

    A calibration is whole: without --per-position, one that was made with it is taken away.
    """
    from kd_train.datasets import open_data
    from kdx.bundle import open_bundle
    from kdx.errors import OptionError
    from kdx.files import require_writable
    from kdx.folder import require_defective, require_good
    from kdx.manifest import SIGNATURE

    if with_defects is not None and false_reject_rate is not None:
        raise OptionError("--with-defects chooses the false-reject rate itself", fix="leave out --false-reject-rate")
    opened = open_bundle(bundle)
    was_signed = (bundle / SIGNATURE).is_file()
    require_writable(bundle)
    images = require_good(open_data(data, category, progress=progress_for(json)))
    defective = (
        require_defective(open_data(with_defects, category, progress=progress_for(json))) if with_defects else ()
    )
    results, refused = calibrate_each(
        opened,
        images,
        0.01 if false_reject_rate is None else false_reject_rate,
        review_rate=review_rate,
        defective_images=defective,
        per_position=per_position,
        backend=backend,
        threads=threads,
        max_bad_images=max_bad_images,
        progress=progress_for(json),
    )
    result = results["fp32"]
    if json:
        print_json(
            {
                "bundle": str(bundle),
                "threshold": result.threshold,
                "thresholds": {precision: found.threshold for precision, found in results.items()},
                "refused": refused,
                "passed_over_trained_on": result.trained_on,
                "bad_images": result.bad_images,
                "frame_faults": result.frame_faults,
                "signature_removed": was_signed,
            }
        )
        if refused:
            raise typer.Exit(1)
        return
    report_bad(result.bad_images)
    threshold = result.threshold
    _show_choice(bundle, result)
    for precision, found in results.items():
        if precision != "fp32":
            out.print(f"  {precision}: {found.threshold.score:.6g}, from its own scores of the same images")
    if result.frame_faults:
        path, faults = next(iter(result.frame_faults.items()))
        out.print(
            f"  [yellow]{len(result.frame_faults)} of these good images will be undecided, never good:[/] the golden "
            f"images have none like them. '{escape(path)}' is {' and '.join(faults)}"
        )
    if threshold.review is not None:
        band = threshold.review
        out.print(
            f"  review from {band.score:.6g}, which {100 * band.false_reject_rate:g} % of good parts exceed; 95 % "
            f"interval {number(band.interval[0])} to {number(band.interval[1])}"
        )
    if was_signed:
        out.print("  [yellow]the signature was removed:[/] it was for another threshold; sign again with kdx sign")
    for precision, fault in refused.items():
        out.print(f"  [bold red]{precision} has no threshold:[/] {escape(fault)}")
    if refused:
        raise typer.Exit(1)


def _show_choice(bundle: Path, result: Calibration) -> None:
    """Print the threshold and what it was chosen on."""
    from kd_train.calibrate import images_to_bound

    threshold, chosen = result.threshold, result.threshold.defects
    if threshold.level is not None:
        out.print(f"per position: {threshold.level.images} other good images say how hot each place gets; that is 1")
    passed_over = f"({result.trained_on} that were trained on passed over)"
    if chosen is not None:
        out.print(f"[bold]{bundle}[/]: threshold {threshold.score:.6g}, [bold yellow]chosen on defects[/]")
        out.print(
            f"  misses {chosen.misses} of {chosen.images} defective images, rejects {chosen.false_rejects} of "
            f"{threshold.images} held-out good ones {passed_over}: the smallest sum of both rates"
        )
        out.print("  it fits these defects and promises nothing for others: measure it on other images")
        return
    low, high = threshold.interval
    rate = f"{100 * threshold.false_reject_rate:g} %"
    out.print(f"[bold]{bundle}[/]: threshold {threshold.score:.6g} for {rate} false rejects")
    out.print(
        f"  95 % interval {number(low)} to {number(high)}, from {threshold.images} held-out good images {passed_over}"
    )
    if high is None:
        out.print(
            f"  {threshold.images} good images cannot bound it from above; for {rate} it takes about "
            f"{images_to_bound(threshold.false_reject_rate)}"
        )


def calibrate_each(
    bundle: Bundle,
    images: Sequence[Path],
    false_reject_rate: float,
    *,
    review_rate: float | None = None,
    defective_images: Sequence[Path] = (),
    per_position: bool = False,
    backend: str = "auto",
    threads: int | None = None,
    max_bad_images: int = 0,
    progress: Progress = SILENT,
) -> tuple[dict[str, Calibration], dict[str, str]]:
    """Calibrate FP32 and every precision that has a threshold of its own, and store the thresholds in the bundle.

    Returns:
        The calibrations, and why other precisions have none, by precision.
    """
    from kd_train.calibrate import calibrate as calibrate_bundle
    from kd_train.calibrate import require_rates
    from kd_train.per_position import FittedLevel, fit_level
    from kdx.loading import detector_of
    from kdx.position import store_calibration
    from kdx.runtime.backend import find_backend, require_backends
    from kdx.variants import OWN_THRESHOLD

    require_rates(false_reject_rate, review_rate, with_defects=bool(defective_images))
    results: dict[str, Calibration] = {}
    refused: dict[str, str] = {}
    fitted: FittedLevel | None = None
    for precision in ("fp32", *sorted(OWN_THRESHOLD.intersection(bundle.manifest.variants))):
        if not any(info.offers(precision) for info in require_backends(bundle.path)):
            continue  # what this machine cannot run keeps the threshold that it has
        # A named backend scores what it runs; TensorRT has no part in INT8's threshold, which is for CPUs.
        runs_it = backend == "auto" or find_backend(backend).offers(precision)
        with detector_of(bundle, backend if runs_it else "auto", threads, precision) as detector:
            if per_position and fitted is None:  # on FP32's maps, which is first
                rate = None if defective_images else false_reject_rate
                fitted = fit_level(bundle, detector, images, rate, max_bad_images=max_bad_images, progress=progress)
            detector.level = fitted.level if fitted else None
            found = calibrate_bundle(
                bundle,
                detector,
                images,
                false_reject_rate,
                precision=precision,
                review_rate=review_rate,
                defective_images=defective_images,
                level=fitted.record if fitted else None,
                fitted=fitted.images if fitted else (),
                max_bad_images=max_bad_images,
                progress=progress,
            )
            fault = _fault(bundle, detector, precision, results.get("fp32", found), found)
        if fault:
            refused[precision] = fault
        else:
            results[precision] = found
    thresholds = {precision: found.threshold for precision, found in results.items()}
    store_calibration(bundle, {**thresholds, **dict.fromkeys(refused)}, fitted.level if fitted else None)
    return results, refused


def _fault(bundle: Bundle, detector: Detector, precision: str, exact: Calibration, own: Calibration) -> str:
    """Say why a precision, with its new threshold, does not decide the golden images as FP32 does; empty if it does."""
    import numpy as np

    from kd_export.judge import LIMITS, Evidence, judge
    from kdx.position import Behind
    from kdx.runtime.tiled import graph_backend

    if precision not in LIMITS:
        return ""
    # Level and region are of frames; the golden images of a bundle for large ones are tiles.
    golden, is_tiled = bundle.golden(), bundle.manifest.tiling is not None
    behind = Behind() if is_tiled else Behind(detector.level, detector.roi)
    graph = graph_backend(detector.backend)
    answers = [graph.run(image[None]) for image in golden.images]
    found = np.concatenate([each.maps for each in answers]), np.concatenate([each.scores for each in answers])
    found, expected = behind.apply(*found), behind.apply(golden.maps, golden.scores)
    scores, reference = (each[:, 0].astype(float) for _, each in (found, expected))
    thresholds = exact.threshold.score, own.threshold.score
    evidence = Evidence(golden.images, thresholds=None if is_tiled and detector.level else thresholds)
    return "; ".join(judge(detector.backend.name, LIMITS[precision], evidence, (reference, scores)).faults)
