"""``kdx calibrate``."""

from __future__ import annotations

from pathlib import Path

import typer

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


@command
def calibrate(
    bundle: Path = typer.Argument(help="Bundle to calibrate."),
    data: Path = typer.Argument(
        help="The training data (its held-out good images are used) or a folder of new good images."
    ),
    category: str | None = typer.Option(None, help="Category of a data set that has several."),
    false_reject_rate: float = typer.Option(0.01, help="Share of good parts that may be rejected."),
    backend: str = typer.Option("auto", help="Backend whose scores are used."),
    threads: int | None = THREADS_OPTION,
    max_bad_images: int = MAX_BAD_OPTION,
    json: bool = JSON_OPTION,
) -> None:
    """Choose the threshold from good images that the student has not seen, through the exported graph.

    Images that were trained on are recognised by their content and passed over. The threshold is stored in the bundle
    with its 95 % confidence interval; the graph is not touched, so it can be done again at any time.
    """
    from kd_train.calibrate import calibrate as calibrate_bundle
    from kd_train.datasets import open_data
    from kdx.bundle import open_bundle
    from kdx.folder import require_good
    from kdx.loading import detector_of
    from kdx.runtime.backend import find_backend
    from kdx.variants import OWN_THRESHOLD

    opened = open_bundle(bundle)
    images = require_good(open_data(data, category, progress=progress_for(json)))
    results = {}
    for precision in ("fp32", *sorted(OWN_THRESHOLD.intersection(opened.manifest.variants))):
        # A named backend scores what it runs; TensorRT has no part in INT8's threshold, which is for CPUs.
        takes = backend == "auto" or precision in find_backend(backend).precisions
        with detector_of(opened, backend if takes else "auto", threads, precision) as detector:
            results[precision] = calibrate_bundle(
                opened,
                detector,
                images,
                false_reject_rate,
                precision=precision,
                max_bad_images=max_bad_images,
                progress=progress_for(json),
            )
    opened.with_thresholds({precision: found.threshold for precision, found in results.items()})
    result = results["fp32"]
    if json:
        print_json(
            {
                "bundle": str(bundle),
                "threshold": result.threshold,
                "thresholds": {precision: found.threshold for precision, found in results.items()},
                "passed_over_trained_on": result.trained_on,
                "bad_images": result.bad_images,
            }
        )
        return
    report_bad(result.bad_images)
    threshold = result.threshold
    low, high = threshold.interval
    out.print(f"[bold]{bundle}[/]: threshold {threshold.score:.6g} for {100 * false_reject_rate:g} % false rejects")
    out.print(
        f"  95 % interval {number(low)} to {number(high)}, from {threshold.images} held-out good images "
        f"({result.trained_on} that were trained on passed over)"
    )
    for precision, found in results.items():
        if precision != "fp32":
            out.print(f"  {precision}: {found.threshold.score:.6g}, from its own scores of the same images")
    if high is None:
        out.print("  so few images cannot bound it from above; more good images narrow the interval")
