"""``kdx calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.markup import escape

from kdx.cli.output import out, print_json, progress_for, report_bad, report_remarks, shown
from kdx.cli.shared_options import GOOD_FOLDER_OPTION, JSON_OPTION, MAX_BAD_OPTION, SUBFOLDERS_OPTION, THREADS_OPTION
from kdx.text import number

if TYPE_CHECKING:
    from kdx.calibration.threshold import Calibration
    from kdx.workflows.calibrations import Calibrations


def calibrate(
    bundle: Path = typer.Argument(help="Bundle to calibrate."),
    data: Path = typer.Argument(
        help="The training data (its held-out good images are used) or a folder of new good images."
    ),
    category: str | None = typer.Option(None, help="Category of a data set that has several."),
    subfolders: bool = SUBFOLDERS_OPTION,
    good_folder: list[str] = GOOD_FOLDER_OPTION,
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
    threshold: float | None = typer.Option(None, help="Set the threshold by hand: a score of FP32, e.g. 0.42."),
    review: float | None = typer.Option(None, help="With --threshold: the score from which a person looks at a part."),
    reason: str | None = typer.Option(None, metavar="TEXT", help="With --threshold: why it is this number."),
    per_position: bool = typer.Option(
        False,
        "--per-position",
        help="For parts that always lie at the same place: divide maps by how hot good parts get there. Half of the "
        "good images fit that, the other half chooses the threshold.",
    ),
    backend: str = typer.Option(
        "auto", help="Backend whose FP32 scores are used. BF16 and INT8 are measured by every runtime installed here."
    ),
    threads: int | None = THREADS_OPTION,
    max_bad_images: int = MAX_BAD_OPTION,
    json: bool = JSON_OPTION,
) -> None:
    """Choose the threshold from good images that the student has not seen.

    Images that were trained on are recognised by their content and skipped. The threshold is stored
    in the bundle with its 95 % confidence interval; the graph is not touched, so it can be done
    again at any time. A signature is removed: it was for another threshold.

    BF16 and INT8 get a threshold for each runtime installed here (ONNX Runtime, OpenVINO), measured
    by it, if they then decide the golden images as FP32 does (students that were trained as INT8
    networks: as the module that they were trained as); else they get none there, are not chosen
    automatically, and the exit status is 1. A runtime without its own threshold gives no verdict.
    Those that are not installed here are named: calibrate with the same images on a machine that
    has them, and each keeps what the other measured.

    With --review-rate 0.05, parts between two thresholds are neither good nor defective but
    "review": somebody looks.

    Defects choose no threshold unless --with-defects asks for it: it then fits these defects, and
    promises nothing for others. Measure it on images that had no part in it.

    With --threshold 0.42 --reason TEXT nothing is chosen: the bundle keeps the number, the reason
    and the time, and says so wherever it shows the threshold. The images, and --with-defects, then
    say what the number would have meant. It is on the scale of FP32's scores; BF16 and INT8 get it
    multiplied by the median ratio of their scores to those of FP32 on the same images.

    What frames of real parts look like is learned from the same images: brightness, contrast and
    structure of each channel, with a margin of two. Frames beyond that, such as those of a covered
    lens, are never good.

    A calibration is whole: without --per-position, one that was made with it is taken away.
    """
    from kdx.calibration.by_hand import given_threshold
    from kdx.errors import OptionError
    from kdx.folders.data_folder import FolderOptions
    from kdx.workflows.calibrate import CalibrationRequest, calibrate_folder

    by_hand = given_threshold(threshold, review, reason)
    if with_defects is not None and false_reject_rate is not None:
        raise OptionError("--with-defects chooses the false-reject rate itself", fix="leave out --false-reject-rate")
    if by_hand is not None and (false_reject_rate is not None or review_rate is not None):
        raise OptionError("--threshold is not chosen by a rate", fix="leave out --false-reject-rate and --review-rate")
    request = CalibrationRequest(
        0.01 if false_reject_rate is None else false_reject_rate,
        review_rate=review_rate,
        per_position=per_position,
        backend=backend,
        threads=threads,
        max_bad_images=max_bad_images,
        by_hand=by_hand,
    )
    found = calibrate_folder(
        bundle,
        data,
        request,
        category=category,
        options=FolderOptions(subfolders, tuple(good_folder)),
        with_defects=with_defects,
        progress=progress_for(json),
    )
    if json:
        print_json({"bundle": str(bundle), **found.as_record()})
    else:
        _show(bundle, found)
    if found.refused:
        raise typer.Exit(1)


def _show(bundle: Path, found: Calibrations) -> None:
    result = found.exact
    report_bad(result.bad_images)
    report_remarks(found.remarks)
    threshold = result.threshold
    _show_choice(bundle, result)
    for precision, by_runtime in found.thresholds().items():
        for runtime, own in by_runtime.items():
            kept = f", kept from {own.created}: the same images" if runtime in found.kept.get(precision, {}) else ""
            how = "on the scale of its own scores" if own.by_hand else "from its own scores of the same images"
            out.print(f"  {precision} in {runtime}: {own.score:.6g}, {how}{kept}")
    if result.frame_faults:
        path, seen = next(iter(result.frame_faults.items()))
        out.print(
            f"  [yellow]{len(result.frame_faults)} of these good images will be undecided, never good:[/] the golden "
            f"images have none like them. '{escape(path)}' is {' and '.join(seen)}"
        )
    _show_frame_limits(result)
    if threshold.review is not None and not threshold.by_hand:
        band = threshold.review
        out.print(
            f"  review from {band.score:.6g}, which {100 * band.false_reject_rate:g} % of good parts exceed; 95 % "
            f"interval {number(band.interval[0])} to {number(band.interval[1])}"
        )
    if found.signature_removed:
        out.print("  [yellow]the signature was removed:[/] it was for another threshold; sign again with kdx sign")
    for precision, faults in found.refused.items():
        for runtime, fault in faults.items():
            out.print(f"  [bold red]{precision} has no threshold in {runtime}:[/] {escape(fault)}")
    for precision, runtimes in found.missing.items():
        out.print(
            f"  [yellow]{precision} has no threshold for {' and '.join(runtimes)}, which cannot run it here:[/] no "
            "verdict there until kdx calibrate, with the same images, on a machine that can"
        )


def _show_frame_limits(result: Calibration) -> None:
    """Print what was learned of frames, and which images alone widen it."""
    from kdx.calibration.frame_limits import FEWEST_IMAGES

    limits = result.frame_limits
    if not limits.channels:
        few = f"fewer than {FEWEST_IMAGES} good images to learn from"
        out.print(f"  frames are compared with golden images alone: {few}")
    for number_of, channel in enumerate(limits.channels):
        name = f" (channel {number_of + 1})" if len(limits.channels) > 1 else ""
        out.print(
            f"  frames{name}, from {limits.images} good images: brightness {number(channel.darkest)} to "
            f"{number(channel.brightest)}, contrast from {number(channel.contrast)}, structure from "
            f"{number(channel.structure)}, roughness from {number(channel.roughness)}; others are undecided, none of "
            "these images is"
        )
    if result.frame_outliers:
        out.print(
            f"  [yellow]{len(result.frame_outliers)} of these images alone widen these limits:[/] look whether they "
            f"show a part. '{escape(result.frame_outliers[0])}' is one"
        )


def _show_choice(bundle: Path, result: Calibration) -> None:
    """Print the threshold and what it was chosen on."""
    from kdx.calibration.described import describe
    from kdx.calibration.rates import images_to_bound

    threshold, chosen = result.threshold, result.threshold.defects
    if threshold.level is not None:
        out.print(f"per position: {threshold.level.images} other good images say how hot each place gets; that is 1")
    passed_over = f"({result.trained_on} that were trained on skipped)"
    if threshold.by_hand:
        out.print(f"[bold]{shown(bundle)}[/]: threshold {escape(describe(threshold))}")
        out.print("  nothing promises that rate: the number is the person's who set it")
        return
    if chosen is not None:
        out.print(f"[bold]{shown(bundle)}[/]: threshold {threshold.score:.6g}, [bold yellow]chosen on defects[/]")
        out.print(
            f"  misses {chosen.misses} of {chosen.images} defective images, rejects {chosen.false_rejects} of "
            f"{threshold.images} held-out good ones {passed_over}: the smallest sum of both rates"
        )
        out.print("  it fits these defects and promises nothing for others: measure it on other images")
        return
    low, high = threshold.interval
    rate = f"{100 * threshold.false_reject_rate:g} %"
    out.print(f"[bold]{shown(bundle)}[/]: threshold {threshold.score:.6g} for {rate} false rejects")
    out.print(
        f"  95 % interval {number(low)} to {number(high)}, from {threshold.images} held-out good images {passed_over}"
    )
    if high is None:
        out.print(
            f"  {threshold.images} good images cannot bound it from above; for {rate} it takes about "
            f"{images_to_bound(threshold.false_reject_rate)}"
        )
