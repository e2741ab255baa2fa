"""``kdx evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kdx.bundle.manifest import INDEX
from kdx.cli.output import also_written, make_table, out, print_json, progress_for, report_bad, report_remarks, shown
from kdx.cli.shared_options import (
    FORCE_OPTION,
    GOOD_FOLDER_OPTION,
    JSON_OPTION,
    MAX_BAD_OPTION,
    SUBFOLDERS_OPTION,
    THREADS_OPTION,
    require_effect,
)
from kdx.text import number_of, percent
from kdx.workflows.packages import needs

if TYPE_CHECKING:
    from kd_train.evaluation.evaluate import Evaluation


def evaluate(
    detector: Path = typer.Argument(help="Run folder or bundle."),
    data: Path = typer.Argument(
        help="Folder in MVTec layout (test/good, test/DEFECT_TYPE, ground_truth/ for pixels), or a published data set."
    ),
    category: str | None = typer.Option(None, help="Category of a data set that has several."),
    subfolders: bool = SUBFOLDERS_OPTION,
    good_folder: list[str] = GOOD_FOLDER_OPTION,
    backend: str = typer.Option("auto", help="Backend that scores a bundle."),
    precision: str = typer.Option("fp32", help="Graph of a bundle: fp32, or another that it holds."),
    threads: int | None = THREADS_OPTION,
    max_bad_images: int = MAX_BAD_OPTION,
    output: Path | None = typer.Option(
        None, "--output", help="Also write the result, with every score, to this JSON file."
    ),
    checkpoint: str | None = typer.Option(None, help="Checkpoint of a run: last or best. Default: as the recipe says."),
    force: bool = FORCE_OPTION,
    json: bool = JSON_OPTION,
) -> None:
    """Measure how well defects are distinguished from good parts.

    Image AUROC; with masks also pixel AUROC and PRO (per-region overlap up to a false-positive rate
    of 0.3); overall and for each defect type; in a calibrated bundle also false rejects and
    detections at the threshold, and with a review band the shares in each of the three bands. In
    percent. A calibrated bundle can be measured on a folder of good images alone: false rejects.
    """
    with needs("train,cpu", "evaluation"):
        from kdx.workflows.evaluate import EvaluationRequest, evaluate_folder
    from kdx.folders.data_folder import FolderOptions
    from kdx.loading.load import require_new_file

    require_effect({"--force": force and output is None}, "--output")
    require_new_file(output, "output", force=force)
    request = EvaluationRequest(
        category,
        FolderOptions(subfolders, tuple(good_folder)),
        backend=backend,
        precision=precision,
        threads=threads,
        checkpoint=checkpoint,
        max_bad_images=max_bad_images,
    )
    result, found_category = evaluate_folder(detector, data, request, progress_for(json))
    with also_written(output, result):
        if json:
            print_json(result)
        else:
            graph = f" in {precision.upper()}" if (detector / INDEX).is_file() else ""
            _show(f"{detector}{graph} on {' '.join([str(data), *filter(None, [found_category])])}, percent", result)


def _show(title: str, result: Evaluation) -> None:
    report_bad(result.bad_images)
    report_remarks(result.remarks)
    table = make_table(title, "", "images", "image AUROC", "pixel AUROC", "PRO", "detected")
    for name, part in result.types.items():
        row = (percent(v) for v in (part.image_auroc, part.pixel_auroc, part.pro, part.detection_rate))
        table.add_row(shown(name), str(part.images), *row)
    table.add_section()
    row = (percent(v) for v in (result.image_auroc, result.pixel_auroc, result.pro, result.detection_rate))
    table.add_row("all", str(result.good + result.defective), *row, style="bold")
    out.print(table)
    if not result.defective:
        out.print("good images alone: AUROC, PRO and the detection rate need defective ones (test/DEFECT_TYPE)")
    elif result.masks is None and "no_pixel_figures" not in {each.kind for each in result.remarks}:
        out.print("no masks were found, so there are no pixel figures (ground_truth/DEFECT_TYPE/NAME_mask.png)")
    if result.false_reject_rate is not None and result.false_reject_interval is not None:
        low, high = map(percent, result.false_reject_interval)
        share = f"{percent(result.false_reject_rate)} % of {number_of(result.good, 'good [image|images]')}"
        out.print(f"false rejects: {share} (95 % confidence interval: {low} to {high} %)")
    for name, bands in (result.bands or {}).items():
        shares = (bands.accept, bands.review, bands.reject)
        out.print(f"{name} images: accepted {{}} %, to review {{}} %, rejected {{}} %".format(*map(percent, shares)))
