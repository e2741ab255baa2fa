"""``kdx calibrate``."""

from __future__ import annotations

from pathlib import Path

import typer

from kdx.cli.output import print_json, progress_for, report_bad, report_remarks, show_result
from kdx.cli.shared_options import GOOD_FOLDER_OPTION, JSON_OPTION, MAX_BAD_OPTION, SUBFOLDERS_OPTION, THREADS_OPTION
from kdx.remarks import Remark


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
    again at any time. A signature is removed: it was for another threshold. A calibration is whole:
    without --per-position, one that was made with it is taken away.

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
    lens, are never good: defective above the threshold, else undecided.
    """
    from kdx.calibration.by_hand import given_threshold
    from kdx.errors import OptionError
    from kdx.folders.data_folder import FolderOptions
    from kdx.workflows.calibrate import CalibrationRequest, calibrate_folder
    from kdx.workflows.calibration_text import describe_calibrations

    by_hand = given_threshold(threshold, review, reason)
    if with_defects is not None and false_reject_rate is not None:
        raise OptionError("--with-defects chooses the false-reject rate itself", fix="leave out --false-reject-rate")
    if by_hand is not None and (false_reject_rate is not None or review_rate is not None):
        raise OptionError("--threshold is not chosen by a rate", fix="leave out --false-reject-rate and --review-rate")
    rate = 0.01 if false_reject_rate is None else false_reject_rate
    request = CalibrationRequest(rate, review_rate, per_position, backend, threads, max_bad_images, by_hand)
    early: list[Remark] = []
    try:
        found = calibrate_folder(
            bundle,
            data,
            request,
            category=category,
            options=FolderOptions(subfolders, tuple(good_folder)),
            with_defects=with_defects,
            tell=early.extend if json else report_remarks,
            progress=progress_for(json),
        )
    except BaseException:
        report_remarks(early)  # they may say why
        raise
    if json:
        found.remarks[:0] = early
        print_json({"bundle": str(bundle), **found.as_record()})
    else:
        report_bad(found.exact.bad_images)
        report_remarks(found.remarks)
        show_result(bundle, describe_calibrations(found))
    if found.refused:
        raise typer.Exit(1)
